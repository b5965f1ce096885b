"""Read, audit and split a dataset: writes manifest, folds, audit, and folds.csv and catalog.csv beside.

python scripts/prepare_dataset.py --study study.yaml --dataset dr600 --manifest … --folds … --audit …
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, write_json
from archbench.audit import AuditSettings
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.dataset_checks import data_root
from archbench.datasets import DatasetError, LabelPolicy, MaskSettings, PhantomSettings, SourceSettings
from archbench.preparation import Prepared, failed_audit_path, prepare, write_prepared
from archbench.registry import DATASETS
from archbench.splits import Protocol

if TYPE_CHECKING:
    import argparse

    from archbench.settings import Dataset


def main(argv: list[str] | None = None) -> int:
    """Parse, prepare, write; the audit of a refused dataset is kept beside as audit.failed.json."""
    arguments = _parse(argv)
    label_progress(f"prepare {arguments.dataset}")
    study = load_study(arguments.study)
    audit = Path(arguments.audit)
    try:
        prepared = _prepare(study, arguments)
    except DatasetError as error:
        if error.audit is not None:
            write_json(failed_audit_path(audit), error.audit)
        raise
    write_prepared(prepared, manifest=Path(arguments.manifest), folds=Path(arguments.folds), audit=audit)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--phantom-dir", help="folder to draw into (format phantom)")
    parser.add_argument("--work-dir", help="folder for slices and masks that are converted (format image_masks)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--manifest", required=True, help="manifest to write (parquet)")
    parser.add_argument("--folds", required=True, help="folds to write (parquet)")
    parser.add_argument("--audit", required=True, help="audit to write (JSON)")
    return parser.parse_args(argv)


def _prepare(study: Study, arguments: argparse.Namespace) -> Prepared:
    dataset = study.datasets[arguments.dataset]
    audit = study.audit.model_dump(include=set(AuditSettings.__dataclass_fields__))
    protocol = study.protocol.model_dump(include=set(Protocol.__dataclass_fields__))
    return prepare(
        dataset=arguments.dataset,
        format=dataset.format,
        settings=_source_settings(study, arguments),
        task=dataset.task,
        classes=study.class_names(arguments.dataset),
        missing_label=dataset.missing_label,
        exclude={role: tuple(values) for role, values in dataset.exclude.items()},
        intensity=dataset.preprocessing.intensity,
        rescale=dataset.volumes.rescale if dataset.volumes else None,
        protocol=Protocol(**protocol),
        audit_settings=AuditSettings(**audit),
        threads=arguments.threads,
        provenance=provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=None,
            config_hash=study.hash,
            code=arguments.code,
        ),
    )


def _source_settings(study: Study, arguments: argparse.Namespace) -> SourceSettings:
    dataset = study.datasets[arguments.dataset]
    columns = dataset.columns.model_dump(exclude_none=True) if dataset.columns else {}
    if dataset.format == "table":
        columns = {"image": "image", "label": "label", **columns}
    if isinstance(columns.get("label"), list):
        columns.pop("label")
    phantom = None
    if DATASETS.get(dataset.format).drawn:
        drawing = dataset.phantom.model_dump() if dataset.phantom else {}
        phantom = PhantomSettings(folder=Path(arguments.phantom_dir), threads=arguments.threads, **drawing)
    return SourceSettings(
        root=phantom.folder if phantom else data_root(str(dataset.root)),
        csv=dataset.csv,
        images=dataset.images,
        columns=columns,
        delimiter=dataset.delimiter,
        encoding=dataset.encoding,
        phantom=phantom,
        labels=study.label_names(arguments.dataset),
        policy=LabelPolicy(**dataset.label_values.model_dump()),
        view=dataset.view,
        masks=dataset.masks,
        segmentation=_mask_settings(dataset),
        work=Path(arguments.work_dir) if arguments.work_dir else None,
        threads=arguments.threads,
        metadata=dataset.metadata,
    )


def _mask_settings(dataset: Dataset) -> MaskSettings:
    if dataset.segmentation is None:
        return MaskSettings()
    given = dataset.segmentation.model_dump(include=set(MaskSettings.__dataclass_fields__))
    structures = {name: tuple(values) for name, values in dataset.segmentation.structures.items()}
    window = given["window"] and tuple(given["window"])
    return MaskSettings(**{**given, "structures": structures, "window": window})


if __name__ == "__main__":
    run(main)
