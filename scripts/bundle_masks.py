"""Put a segmentation network of a study into a folder and a zip that run without torch (archbench-predict).

    python scripts/bundle_masks.py --study study.json --dataset chest --model unet --precision fp32 \\
        --account unet/export.json --cache images-96.json --masks unet/masks --scores masks --manifest … --audit … \\
        --output unet/bundle-fp32 --zip unet/bundle-fp32.zip
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, read_table, write_text
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.dataset_checks import data_root
from archbench.datasets import SourceSettings
from archbench.datasets.mask_slices import slice_index
from archbench.image_cache import open_cache

if TYPE_CHECKING:
    import argparse

    from archbench.bundle_network import NetworkSource
    from archbench.mask_bundle import SourceImage


def main(argv: list[str] | None = None) -> int:
    """Collect, let the runner check, write."""
    arguments = _parse(argv)
    label_progress(f"bundle {arguments.dataset}/{arguments.model}")
    study, folder = load_study(arguments.study), Path(arguments.output)
    network = _network(study, arguments)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _write(study, arguments, network, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--account", required=True, help="export.json of the model")
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--masks", required=True, help="what the rule segment wrote of the model")
    parser.add_argument("--scores", required=True, help="what the rule score_masks wrote of the dataset")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--audit", required=True)
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--zip", required=True, help="zip to write")
    return parser.parse_args(argv)


def _network(study: Study, arguments: argparse.Namespace) -> NetworkSource:
    from archbench import bundle_network

    model, dataset = arguments.model, study.datasets[arguments.dataset]
    network = study.network_of(model, arguments.dataset)
    mean, std = bundle_network.pixel_normalization(
        network["architecture"], network["normalization"], in_channels=network["in_channels"]
    )
    return bundle_network.NetworkSource(
        name=model,
        architecture=network["architecture"],
        account=read_json(arguments.account),
        folder=Path(arguments.account).parent,
        cache=open_cache(arguments.cache),
        preprocessing=bundle_network.image_steps(
            dataset.preprocessing.model_dump(), size=study.image_size(model), max_pixels=study.audit.max_pixels
        ),
        mean=mean,
        std=std,
    )


def _write(study: Study, arguments: argparse.Namespace, network: NetworkSource, folder: Path) -> None:
    from archbench import bundle_files, card_sections, mask_bundle, mask_card

    manifest, metadata = read_table(arguments.manifest)
    images = _images(study, arguments.dataset, manifest, Path(metadata["root"]))
    content = _content(study, arguments, network, folder, scans="volume" in manifest.column_names)
    studied = mask_bundle.study_masks(
        Path(arguments.masks), fold=int(network.account["fold"]), seed=int(network.account["seed"])
    )
    shown = min(studied.files, default=None) if metadata.get("phantom") else None
    content["example"] = _add_example(study, arguments.model, content, folder, images[shown].path if shown else None)
    bundle_files.write_content(folder, content)
    bundle_files.write_sums(folder)
    mask_bundle.write_example_mask(folder)
    bundle_files.write_sums(folder)
    checked = mask_bundle.check_masks(folder, network, studied, images)
    card = card_sections.Facts(
        content=read_json(folder / "bundle.json"),
        metrics=_metrics(arguments),
        calibration={},
        audit=read_json(arguments.audit),
        configuration=study.model_dump(mode="json"),
        licences={arguments.model: _licence(study, arguments.model)},
        checked=[checked],
        sums=bundle_files.write_sums(folder),
    )
    write_text(folder / "MODEL_CARD.md", mask_card.mask_card(card))
    bundle_files.write_sums(folder)
    bundle_files.write_zip(folder, Path(arguments.zip), name=content["name"])
    print(f"{folder} and {arguments.zip} ({Path(arguments.zip).stat().st_size / 2**20:.1f} MiB)", file=sys.stderr)


def _images(study: Study, dataset: str, manifest: Any, root: Path) -> dict[str, SourceImage]:
    """Where each case comes from; of slices the scan and the index in it."""
    from archbench.datasets.image_masks import source_files
    from archbench.mask_bundle import SourceImage

    cases, files = (manifest[name].to_pylist() for name in ("case_id", "image"))
    if "volume" not in manifest.column_names:
        return {case: SourceImage(root / file) for case, file in zip(cases, files, strict=True)}
    entry = study.datasets[dataset]
    settings = SourceSettings(
        root=data_root(str(entry.root)),
        csv=entry.csv,
        images=entry.images,
        masks=entry.masks,
        delimiter=entry.delimiter,
        encoding=entry.encoding,
    )
    scans = source_files(settings)
    of_slice = (Path(file).relative_to("images").parent.as_posix() for file in files)
    return {
        case: SourceImage(scans[scan], slice_index(file))
        for case, file, scan in zip(cases, files, of_slice, strict=True)
    }


def _content(
    study: Study, arguments: argparse.Namespace, network: NetworkSource, folder: Path, *, scans: bool
) -> dict[str, Any]:
    """Copy the network and return what bundle.json says but for the example."""
    from archbench import bundle_network
    from archbench.mask_bundle import mask_content
    from archbench.mask_files import MAX_VOXELS
    from archbench_predict.scans import SliceSettings, describe_slices

    variant = bundle_network.passed_variant(network.account, arguments.precision)
    bundle_network.copy_network(network, variant, folder, "model.onnx")
    given = study.datasets[arguments.dataset].segmentation
    window = given.window if given is not None else None
    limits = None if window is None else (float(window[0]), float(window[1]))
    return mask_content(
        name=f"{study.study}-{arguments.dataset}-{arguments.model}-{arguments.precision}",
        task=study.datasets[arguments.dataset].task,
        classes=study.logit_names(arguments.dataset),
        member=bundle_network.member_content(network, variant, "model.onnx"),
        slices=describe_slices(SliceSettings(limits, MAX_VOXELS)) if scans else None,
        provenance=provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=arguments.model,
            config_hash=study.hash,
            code=arguments.code,
        ),
    )


def _add_example(
    study: Study, model: str, content: dict[str, Any], folder: Path, phantom: Path | None
) -> dict[str, str]:
    """Put an example image into the bundle, a phantom's own or a drawn one, and a place for its mask."""
    from archbench import bundle_files
    from archbench.mask_bundle import EXAMPLE_MASK

    images = bundle_files.Images(Path(), {"example": str(phantom)}, {})
    scans = content["slices"] is not None
    entry = bundle_files.add_example(
        folder, "example" if phantom else None, images, size=study.image_size(model), masked=False, volume=scans
    )
    entry[EXAMPLE_MASK] = "example/mask" + (".nii.gz" if scans else ".png")
    (folder / entry[EXAMPLE_MASK]).touch()
    return entry


def _metrics(arguments: argparse.Namespace) -> dict[str, Any]:
    """The model's part of summary.json, with what holds for all."""
    summary = read_json(Path(arguments.scores) / "summary.json")
    shared = {name: summary[name] for name in ("n_cases", "n_patients", "warnings")}
    return {**summary["models"][arguments.model], **shared, "tolerance_mm": summary["settings"]["tolerance_mm"]}


def _licence(study: Study, model: str) -> str:
    from archbench.bundle_network import licence_of

    entry = study.models[model]
    return licence_of(entry.architecture, weights=entry.weights, checkpoint=entry.checkpoint)


if __name__ == "__main__":
    run(main)
