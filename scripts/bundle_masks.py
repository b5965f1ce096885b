"""Put a segmentation network of a study into a folder and a zip that run without torch (archbench-predict).

    python scripts/bundle_masks.py --study study.json --dataset chest --model unet --precision fp32 \\
        --account unet/export.json --cache images-96.json --masks unet/masks --scores masks --manifest … --audit … \\
        --output unet/bundle-fp32 --zip unet/bundle-fp32.zip
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, read_table
from archbench.command_line import bundle_parser, label_progress, run
from archbench.config import Study, load_study
from archbench.dataset_checks import data_root
from archbench.datasets import SourceSettings
from archbench.datasets.mask_slices import slice_index
from archbench.image_cache import open_cache

if TYPE_CHECKING:
    import argparse

    from archbench.bundle_network import NetworkSource
    from archbench.card_sections import Facts
    from archbench.mask_bundle import SourceImage


def main(argv: list[str] | None = None) -> int:
    """Collect, let the runner check, write."""
    from archbench import mask_bundle, mask_card
    from archbench.bundle_writer import Kind, write_bundle

    arguments = _parse(argv)
    label_progress(f"bundle {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    network = _network(study, arguments)
    manifest, metadata = read_table(arguments.manifest)
    images = _images(study, arguments.dataset, manifest, Path(metadata["root"]))
    studied = mask_bundle.study_masks(Path(arguments.masks), fold=int(network.account["fold"]), seed=network.seed)
    shown = min(studied.files, default=None) if metadata.get("phantom") else None
    kind = Kind(
        fill=lambda folder: _fill(
            study,
            arguments,
            network,
            folder,
            scans="volume" in manifest.column_names,
            phantom=images[shown].path if shown else None,
        ),
        check=lambda folder: [mask_bundle.check_masks(folder, network, studied, images)],
        answer=mask_bundle.write_example_mask,
        card=mask_card.mask_card,
    )
    write_bundle(Path(arguments.output), Path(arguments.zip), kind, _known(study, arguments))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = bundle_parser(__doc__)
    parser.add_argument("--account", required=True, help="export.json of the model")
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--masks", required=True, help="what the rule segment wrote of the model")
    parser.add_argument("--scores", required=True, help="what the rule score_masks wrote of the dataset")
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


def _known(study: Study, arguments: argparse.Namespace) -> Facts:
    from archbench.bundle_writer import licences
    from archbench.card_sections import Facts

    return Facts(
        metrics=_metrics(arguments),
        calibration={},
        audit=read_json(arguments.audit),
        configuration=study.model_dump(mode="json"),
        licences=licences(study.models, [arguments.model]),
    )


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


def _fill(
    study: Study,
    arguments: argparse.Namespace,
    network: NetworkSource,
    folder: Path,
    *,
    scans: bool,
    phantom: Path | None,
) -> dict[str, Any]:
    """Put network and example into the folder and return the content of bundle.json."""
    content = _content(study, arguments, network, folder, scans=scans)
    content["example"] = _add_example(study, arguments.model, content, folder, phantom)
    return content


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


if __name__ == "__main__":
    run(main)
