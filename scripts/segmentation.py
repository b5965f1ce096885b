"""Train and compare segmentation networks on image and mask folders: builds a study from these flags and runs it.

    python scripts/segmentation.py --image-dir data/imagesTr --seg-dir data/labelsTr --hf-models nvidia/mit-b0 unet

Images are <case>_0000.nii.gz, <case>.nii.gz or pictures, masks <case>.nii.gz or pictures, paired by exact case id.
Flags override the study that --config names. The study is written to --output-dir and can be run again with snakemake
alone.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from archbench.command_line import run
from archbench.config import ConfigError, read_yaml
from archbench.front_end import flags_parser, run_command, save_study, snakemake_command

SOURCE = "the flags of segmentation.py"
DATASET = "masks"
SAM = "sam:"
DEFAULT_VALUE = 2
TRAINING = {"loss": "dice_ce", "epochs": 30, "batch_size": 8, "lr": 1.0e-3, "augmentation": "light"}
# Hub models by what they are here; of an encoder the decoder is ours. timm holds the weights of this Swin too.
HUB = {
    "nvidia/mit-b0": {"architecture": "segformer_b0", "weights": "hub"},
    "microsoft/swinv2-base-patch4-window12-192-22k": {
        "architecture": "decoder:swinv2_base_window12_192.ms_in22k",
        "weights": "imagenet",
    },
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224": {
        "architecture": "decoder:biomedclip",
        "weights": "hub",
    },
    "unet": {"architecture": "unet"},
}
PUBLISHED_SAM = tuple(f"facebook/sam-vit-{size}" for size in ("base", "large", "huge"))
OTHERS = "decoder:<timm name>, any other <owner>/<encoder> of Hugging Face, sam:<owner>/<name>"


def main(argv: list[str] | None = None) -> int:
    """Parse, build the study file, run Snakemake on it."""
    arguments = parse_arguments(argv)
    study_file = arguments.output_dir.resolve() / "segmentation_study.json"
    study = save_study(build_study(arguments), study_file, source=SOURCE, resume=True)
    command = snakemake_command(
        study_file, cores=arguments.num_workers, dry_run=arguments.dry_run, verbose=arguments.verbose
    )
    code = run_command(command)
    if not code and not arguments.dry_run:
        print(f"Report: {study_file.parent / 'results' / study.study / 'report.html'}")
    return code


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = flags_parser(__doc__)
    add = parser.add_argument
    add("--config", type=Path, help="study file to start from; the other flags override it")
    add("--image-dir", type=Path, help="folder of images")
    add("--seg-dir", type=Path, help="folder of true masks")
    add("--foreground", nargs="+", help="values of the structure in the masks, or any (default: 2)")
    add("--model-path", type=Path, help="weights (safetensors or .pth) to evaluate without training, of --architecture")
    add("--architecture", help="network of --model-path (default: that of the study's first model)")
    add("--output-dir", type=Path, default=Path(), help="results/ is made in here (default: the working directory)")
    add("--max-cases", type=int, help="only the first cases by name; 0 takes all")
    add("--hf-models", nargs="+", help=f"models: {', '.join((*HUB, *PUBLISHED_SAM))}, {OTHERS}")
    add("--weights", help="start weights of all of them: none, hub, imagenet (default: each model's own)")
    add("--tune-decoder", action="store_true", help="train the mask decoder of SAM, which else is only evaluated")
    add("--prompts", type=Path, help="CSV of boxes for SAM: case, structure, x0, y0, x1, y1 (default: true boxes)")
    add("--image-size", type=int, help="side of the input, pixels")
    add("--epochs", type=int, help="epochs at most")
    add("--num-workers", type=int, help="CPU cores to use (default: all)")
    add("--verbose", action="store_true", help="print every command and reason of Snakemake")
    add("--dry-run", action="store_true", help="only show what would be run")
    arguments = parser.parse_args(argv)
    if arguments.config is None and (arguments.image_dir is None or arguments.seg_dir is None):
        parser.error("--image-dir and --seg-dir are needed where no --config names the data")
    return arguments


def build_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the study that the flags describe.

    Raises:
        ConfigError: If a flag means nothing here.
    """
    study = read_yaml(arguments.config) if arguments.config else _empty()
    (name,) = list(study["datasets"])[:1]
    dataset = study["datasets"][name]
    if arguments.image_dir or arguments.seg_dir:
        _set_folders(dataset, arguments)
    block = dataset.setdefault("segmentation", {}) if dataset["format"] == "image_masks" else {}
    if arguments.foreground is not None or (arguments.config is None and "structures" not in block):
        block["structures"] = {"foreground": _values(arguments.foreground or [str(DEFAULT_VALUE)])}
        block["other_values"] = "background"  # the masks' other structures
    if arguments.max_cases is not None:
        block["max_cases"] = arguments.max_cases
    if arguments.hf_models:
        study["models"] = {_name(model): _entry(model, tuned=arguments.tune_decoder) for model in arguments.hf_models}
    if arguments.model_path:
        first = next(iter(study["models"].values()))
        architecture = arguments.architecture or first["architecture"]
        study["models"] = {"given": {"architecture": architecture, "checkpoint": str(arguments.model_path.resolve())}}
    for model in study["models"].values():
        if arguments.weights and "checkpoint" not in model:
            model["weights"] = arguments.weights
        if arguments.image_size:
            model["image_size"] = arguments.image_size
    _set_prompts(study["models"], arguments)
    if arguments.epochs:
        study.setdefault("training", {})["epochs"] = arguments.epochs
    return study


def _empty() -> dict[str, Any]:
    return {
        "study": "segmentation",
        "datasets": {DATASET: {"format": "image_masks", "task": "segmentation"}},
        "training": dict(TRAINING),
        "models": {"unet": {"architecture": "unet"}},
    }


def _set_folders(dataset: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Put both folders below their common parent, which is the root."""
    given = [arguments.image_dir, arguments.seg_dir]
    if None in given:
        raise ConfigError(SOURCE, ["--image-dir and --seg-dir: give both, or neither"])
    images, masks = (path.resolve() for path in given)
    root = next(parent for parent in images.parents if parent in masks.parents)
    dataset |= {
        "format": "image_masks",
        "root": str(root),
        "images": images.relative_to(root).as_posix(),
        "masks": masks.relative_to(root).as_posix(),
    }
    dataset.pop("csv", None)
    dataset.pop("phantom", None)


def _values(words: list[str]) -> list[int]:
    """Values of the structure; none stands for every value but 0."""
    if words == ["any"]:
        return []
    if not all(word.isdigit() and int(word) for word in words):
        raise ConfigError(SOURCE, [f"--foreground: {' '.join(words)!r} is neither any nor numbers above 0"])
    return [int(word) for word in words]


def _set_prompts(models: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Give prompts to the models that take them.

    Raises:
        ConfigError: If a flag about them finds none.
    """
    prompted = [model for model in models.values() if str(model["architecture"]).startswith(SAM)]
    flags = {"--prompts": arguments.prompts, "--tune-decoder": arguments.tune_decoder}
    idle = [flag for flag, value in flags.items() if value and not prompted]
    if idle:
        raise ConfigError(SOURCE, [f"{flag}: has no effect without a SAM among --hf-models" for flag in idle])
    for model in prompted:
        if arguments.prompts:
            model["prompt"] = {"kind": "box", "csv": str(arguments.prompts.resolve())}


def _name(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", model.removeprefix(SAM).rpartition("/")[2] or model)


def _entry(model: str, *, tuned: bool) -> dict[str, Any]:
    if model in PUBLISHED_SAM or model.startswith(SAM):
        weights = {"weights": "hub", "training": {"freeze": "backbone"}} if tuned else {"checkpoint": "hub"}
        return {"architecture": SAM + model.removeprefix(SAM), **weights}
    if model in HUB:
        return dict(HUB[model])
    if model.startswith("decoder:"):
        return {"architecture": model}
    if "/" in model:
        return {"architecture": f"decoder:hf:{model}", "weights": "hub"}
    known = f"{', '.join((*HUB, *PUBLISHED_SAM))}, {OTHERS}"
    raise ConfigError(SOURCE, [f"--hf-models: '{model}' is not known as a segmentation network (known: {known})"])


if __name__ == "__main__":
    run(main)
