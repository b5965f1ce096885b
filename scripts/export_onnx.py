"""Export the fold model that did best in validation to ONNX, in every precision, and check it on real images.

python scripts/export_onnx.py --study study.yaml --dataset phantom --model resnet18 --output model.onnx …
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.artifacts import Predictions, provenance, read_json, write_json
from archbench.cases import Cases, read_cases
from archbench.checkpoints import Checkpoint, parse_checkpoints
from archbench.command_line import checkpoint_parser, label_progress, run
from archbench.config import Study, load_study
from archbench.export_ladder import ExportJob, rungs_of
from archbench.mask_parity import MaskTruth
from archbench.onnx_files import EXTERNAL_ABOVE_BYTES, OPSET
from archbench.onnx_variants import Export, ExportCases
from archbench.parity import Comparison
from archbench.recipe_checks import metric_mode
from archbench.registry import METRICS
from archbench.tasks import TASKS
from archbench.verdicts import default_delta

if TYPE_CHECKING:
    import argparse

PROMPTED = "it takes a prompt beside the image, and exported files and what runs them take images alone"


def main(argv: list[str] | None = None) -> int:
    """Parse, export, pass the gate, write the account."""
    arguments = _parse(argv)
    label_progress(f"export {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    cases = read_cases(arguments.manifest, arguments.folds, arguments.cache)
    write_json(arguments.account, _export(study, cases, arguments))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = checkpoint_parser(__doc__)
    parser.add_argument(
        "--output",
        required=True,
        help="ONNX file to write; other files of the export go into the folder onnx beside it",
    )
    parser.add_argument(
        "--external-above",
        type=int,
        default=EXTERNAL_ABOVE_BYTES,
        metavar="BYTES",
        help="size of weights from which they lie beside their file (protobuf ends at 2 GiB)",
    )
    parser.add_argument("--account", required=True, help="account of export and parity to write (JSON)")
    return parser.parse_args(argv)


def _export(study: Study, cases: Cases, arguments: argparse.Namespace) -> dict[str, Any]:
    fold, seed, path = best_checkpoint(arguments.checkpoint)
    settings, output = study.inference, Path(arguments.output)
    network = study.network_of(arguments.model, arguments.dataset) | {"num_classes": len(cases.classes)}
    validation = cases.part(fold, "val")
    job = ExportJob(
        network=network,
        checkpoint=path.as_posix(),
        cache=arguments.cache,
        rows=validation.rows,
        batch_sizes=tuple(sorted(set(settings.batch_sizes))),
        fold_normalization=settings.fold_normalization,
        threads=arguments.threads,
    )
    export = Export(
        job,
        _checked_with(study, cases, fold, seed, arguments.dataset),
        _comparison(study, arguments.dataset),
        folder=output.parent,
        classes=cases.classes,
        calibration_images=settings.calibration_images,
        timeout_s=60 * settings.export_timeout_min,
        external_above=arguments.external_above,
    )
    if study.prompt_of(arguments.model) is not None:
        found = export.refuse(settings.precisions, PROMPTED)
    else:
        found = export.run(settings.precisions, rungs_of(network["architecture"]))
    origin = provenance(
        study=study.study,
        dataset=arguments.dataset,
        model=arguments.model,
        config_hash=study.hash,
        code=arguments.code,
    )
    where = {"model": arguments.model, "fold": fold, "seed": seed, "checkpoint": path.as_posix()}
    return {"provenance": origin, **where, "opset": OPSET, "image_size": network["image_size"], **found}


def _checked_with(study: Study, cases: Cases, fold: int, seed: int, dataset: str) -> ExportCases:
    """The validation and training cases of the exported fold."""
    validation, training = cases.part(fold, "val"), cases.part(fold, "train")
    n, task = len(validation), TASKS[study.datasets[dataset].task]
    truth = Predictions(
        case_id=validation.case_ids,
        patient_id=validation.patient_ids,
        split=np.full(n, "val"),
        fold=np.full(n, fold),
        seed=np.full(n, seed),
        logits=np.zeros((n, len(cases.classes)), np.float32),
        targets=validation.targets,
        classes=cases.classes,
        labels=cases.labels,
        metadata={"decision": task.decision} | cases.table_metadata,
    )
    masks = None
    if cases.cache.masks is not None:
        masks = MaskTruth(np.array(cases.cache.masks[validation.rows]), validation.patient_ids)
    return ExportCases(cases.cache.images, validation.rows, truth, training.rows, training.patient_ids, masks)


def _comparison(study: Study, dataset: str) -> Comparison:
    """What the metric gate compares by."""
    metric, settings = METRICS.get(TASKS[study.datasets[dataset].task].primary), study.evaluation
    margin = study.inference.non_inferiority_margin or settings.delta or default_delta(metric.name)
    return Comparison(metric, margin, resamples=settings.resamples, seed=settings.seed)


def best_checkpoint(arguments: list[str]) -> tuple[int, int, Path]:
    """Return fold, seed and path of the weights with the best validation value (given weights: the first)."""

    def rank(entry: Checkpoint) -> float:
        settings = entry.path.with_name("settings.json")
        if not settings.is_file():
            return 0.0
        content = read_json(settings)
        sign = 1.0 if metric_mode(content["metric"]) == "max" else -1.0
        return sign * float(content["best_value"])

    best = max(parse_checkpoints(arguments), key=rank)
    return best.fold, best.seed, best.path


if __name__ == "__main__":
    run(main)
