"""Classify whole CT volumes with 18 abnormalities (CT-RATE): builds a study from these flags and runs it.

    python scripts/ct.py --mode both --data-dir data/ct_rate --model resnet50 --loss-type asl --use-attention se
    python scripts/ct.py --mode both --data-dir data/ct_rate --strategy c
    python scripts/ct.py --mode predict --input new_scans/ --output challenge.json

Modes: train the networks; evaluate what is trained (metrics, thresholds, ensemble, report); both; predict new volumes
with the bundle of a trained model. evaluate and predict take the study that lies in --out-dir. The recipes are those of
config/ct_rate.yaml; flags change them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from archbench.command_line import run
from archbench.config import ConfigError, Study, parse_study, read_yaml
from archbench.front_end import (
    absolute_weights,
    add_run_flags,
    flags_parser,
    run_command,
    save_study,
    set_run_settings,
    snakemake_command,
)

CHECKOUT = Path(__file__).resolve().parent.parent
BASE_STUDY = CHECKOUT / "config" / "ct_rate.yaml"
SOURCE = "the flags of ct.py"
STUDY_FILE, DATASET, STUDY_NAME = "ct_study.json", "ct", "ct"
STRATEGIES = {
    "a": ("strategy_a",),
    "b": ("strategy_b",),
    "c": ("resnet50_asl", "efficientnet_b0_focal", "resnet101_frozen"),
}
LOSSES = {"bce": "weighted_bce", "focal": "focal", "asl": "asl"}
UNFREEZE_EPOCH = 10
TOP = 5
# Flags that are no part of the study.
OUTSIDE = {"mode", "out_dir", "log_dir", "resume", "num_workers", "dry_run", "input", "output", "bundle"}
ADVANCED = {"augmentation": "strong", "mixup": 0.2, "cutmix": 1.0}


def main(argv: list[str] | None = None) -> int:
    """Parse, build the study file or take the one that is there, run Snakemake on it."""
    arguments = parse_arguments(argv)
    out_dir = arguments.out_dir.resolve()
    if arguments.mode in ("train", "both"):
        study_file = out_dir / STUDY_FILE
        study = save_study(build_study(arguments), study_file, source=SOURCE, resume=arguments.resume)
    else:
        study = _trained_study(arguments, out_dir)
    if arguments.mode == "predict":
        return _predict(arguments, study, out_dir)
    targets = checkpoints(study) if arguments.mode == "train" else []
    return _run(arguments, out_dir, targets)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = flags_parser(__doc__)
    add = parser.add_argument
    add("--mode", choices=["train", "evaluate", "both", "predict"], default="both", help="default: both")
    _add_data(parser.add_argument_group("data"))
    _add_recipe(parser.add_argument_group("recipe"))
    add("--input", nargs="+", help="predict: volumes, folders or tables (NIfTI, .mha, slices.csv)")
    add("--output", type=Path, help="predict: challenge JSON to write; .csv or .jsonl: with the 5 likeliest findings")
    add("--bundle", help="predict: model of the study, or ensemble (default: its only model, or the ensemble)")
    add_run_flags(parser)
    arguments = parser.parse_args(argv)
    problem = mode_problem(arguments)
    if problem:
        parser.error(problem)
    return arguments


def _add_data(group: Any) -> None:
    add = group.add_argument
    add("--data-dir", type=Path, help="folder of CT-RATE, with the tables")
    add("--csv", help="table of labels in that folder (default multi_abnormality_labels.csv)")
    add("--metadata", help="table of slopes and spacings there (default metadata.csv; none: there is none)")
    add("--images", help="folder of the volumes there (default volumes)")
    add("--labels", nargs="+", help="abnormalities to use (default: all 18)")
    add("--hu-window", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default -1000 400")
    add("--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="mm to resample to (default: whole slices)")
    add("--slice-strategy", choices=["multi", "anatomical", "all", "best"], help="default: multi")
    add("--slices", type=int, help="slices of a volume, for multi and all (default 12)")
    add("--folds", type=int, help="patient-grouped folds (default 5)")


def _add_recipe(group: Any) -> None:
    add = group.add_argument
    add("--strategy", choices=list(STRATEGIES), help="ready recipe of config/ct_rate.yaml; c: ensemble of three")
    add("--model", help="architecture (docs/architectures.md; default resnet50)")
    add("--weights", help="start weights: none, imagenet, or file:<path> (default imagenet)")
    add("--image-size", type=int, help="side of the slices, pixels (default: the architecture's)")
    add("--loss-type", choices=list(LOSSES), help="bce has a weight per label from the training part (default asl)")
    add("--gamma-neg", type=float, help="asl: focusing exponent of negatives (default 4)")
    add("--gamma-pos", type=float, help="asl: focusing exponent of positives (default 1)")
    add("--focal-alpha", type=float, help="focal: weight of the positive side (default: no balance)")
    add("--focal-gamma", type=float, help="focal: focusing exponent (default 2)")
    add("--freeze-backbone", action="store_true", default=None, help="train the head alone")
    add("--progressive-unfreeze", action="store_true", default=None, help="stage by stage, from --unfreeze-epoch on")
    add("--unfreeze-epoch", type=int, help=f"epochs in which the backbone rests first (progressive: {UNFREEZE_EPOCH})")
    add("--use-attention", choices=["se", "cbam"], help="block before pooling (default: none)")
    add("--volume-pooling", choices=["mean", "max", "attention"], help="over slices (default attention)")
    add("--slice-input", choices=["single", "triplet"], help="a slice alone, or with its neighbours (default triplet)")
    add("--use-advanced-aug", action="store_true", default=None, help="strong augmentation, MixUp and CutMix")
    add("--batch-size", type=int, help="volumes per update, in passes of at most 4 (default 32)")
    add("--learning-rate", type=float, help="default 1e-4")
    add("--epochs", type=int, help="at most (default 100)")
    add("--dropout-rate", type=float, help="default 0.3")
    add("--weight-decay", type=float, help="default 1e-5")
    add("--early-stopping-patience", type=int, help="epochs without a better macro AUROC (default 15)")


def mode_problem(arguments: argparse.Namespace) -> str | None:
    """Return what a mode lacks, or which flag has no effect in it."""
    predicts = arguments.mode == "predict"
    if predicts and not (arguments.input and arguments.output):
        return "--mode predict needs --input and --output"
    if not predicts and (arguments.input or arguments.output or arguments.bundle):
        return "--input, --output and --bundle belong to --mode predict"
    if arguments.mode in ("train", "both") and arguments.data_dir is None:
        return f"--mode {arguments.mode} needs --data-dir"
    if arguments.mode in ("evaluate", "predict"):
        given = sorted(name for name, value in vars(arguments).items() if name not in OUTSIDE and value is not None)
        unused = [f"--{name.replace('_', '-')}" for name in given]
        unused += ["--resume"] if arguments.resume else []
        if unused:
            return f"--mode {arguments.mode} takes the study of --out-dir as it is; {', '.join(unused)}: no effect"
    if arguments.strategy == "c" and arguments.model:
        return "--model: strategy c has its own three"
    if predicts and arguments.output.suffix not in (".json", ".jsonl", ".csv"):
        return f"--output: a name that ends in .json, .jsonl or .csv, not {arguments.output.name!r}"
    return None


def build_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the study that the flags describe."""
    study = read_yaml(BASE_STUDY)
    study["study"] = STUDY_NAME
    own = {"model": {"architecture": "resnet50", "weights": "imagenet", "head": "mlp"}}
    names = STRATEGIES.get(arguments.strategy or "", ())
    study["models"] = {name: study["models"][name] for name in names} or own
    study["ensemble"] = {"candidates": ["mean", "calibrated_mean", "logistic"] if len(names) > 1 else []}
    set_run_settings(study, arguments.log_dir)
    if arguments.folds is not None:
        study["protocol"]["folds"] = arguments.folds
    _set_data(study["datasets"][DATASET], arguments)
    for model in study["models"].values():
        _set_model(model, arguments)
    return study


def _set_data(dataset: dict[str, Any], arguments: argparse.Namespace) -> None:
    dataset["root"] = str(arguments.data_dir.resolve())
    for key in ("csv", "metadata", "images", "labels"):
        if getattr(arguments, key) is not None:
            dataset[key] = getattr(arguments, key)
    if arguments.metadata == "none":
        dataset["metadata"] = None
    volumes, slices = dataset["volumes"], dataset["volumes"]["slices"]
    if arguments.slice_strategy is not None:
        slices = volumes["slices"] = {"strategy": arguments.slice_strategy}
    given = {"hu_window": arguments.hu_window, "spacing": arguments.spacing}
    volumes |= {key: value for key, value in given.items() if value is not None}
    if arguments.slices is not None:
        slices["count"] = arguments.slices


def _set_model(model: dict[str, Any], arguments: argparse.Namespace) -> None:
    training = model.setdefault("training", {})
    keys = {
        "architecture": arguments.model,
        "weights": absolute_weights(arguments.weights),
        "image_size": arguments.image_size,
        "attention": arguments.use_attention,
        "volume_pooling": arguments.volume_pooling,
        "slice_input": arguments.slice_input,
    }
    model |= {key: value for key, value in keys.items() if value is not None}
    if arguments.use_advanced_aug:
        training |= ADVANCED
    if arguments.freeze_backbone:
        training["freeze"] = "backbone"
    if arguments.progressive_unfreeze:
        training |= {"unfreeze": "progressive", "freeze_epochs": UNFREEZE_EPOCH}
    asl = {"gamma_negative": arguments.gamma_neg, "gamma_positive": arguments.gamma_pos}
    recipe = {
        "loss": LOSSES.get(arguments.loss_type or ""),
        "focal_alpha": arguments.focal_alpha,
        "focal_gamma": arguments.focal_gamma,
        "freeze_epochs": arguments.unfreeze_epoch,
        "lr": arguments.learning_rate,
        "epochs": arguments.epochs,
        "dropout": arguments.dropout_rate,
        "weight_decay": arguments.weight_decay,
        **_passes(arguments.batch_size),
    }
    training |= {key: value for key, value in recipe.items() if value is not None}
    if any(value is not None for value in asl.values()):
        training["asl"] = {key: value for key, value in asl.items() if value is not None}
    if arguments.early_stopping_patience is not None:
        training["early_stopping"] = {"patience": arguments.early_stopping_patience}


def _passes(batch: int | None) -> dict[str, int]:
    """The largest pass of at most 4 volumes that divides a batch, and as many passes as make it up."""
    if batch is None or batch < 1:
        return {} if batch is None else {"batch_size": batch}
    size = next(size for size in (4, 3, 2, 1) if batch % size == 0)
    return {"batch_size": size, "accumulation_steps": batch // size}


def checkpoints(study: Study) -> list[str]:
    """Return the weights of every model and fold, relative to --out-dir."""
    return [
        f"results/{study.study}/{DATASET}/{model}/fold{fold}-seed{seed}/best.safetensors"
        for model in study.models
        for fold in study.fold_numbers(DATASET)
        for seed in study.protocol.seeds
    ]


def _run(arguments: argparse.Namespace, out_dir: Path, targets: list[str]) -> int:
    """Make files of the study of a folder; without targets the report."""
    study_file, cores = out_dir / STUDY_FILE, arguments.num_workers
    return run_command(snakemake_command(study_file, cores=cores, dry_run=arguments.dry_run, targets=targets))


def _trained_study(arguments: argparse.Namespace, out_dir: Path) -> Study:
    place = out_dir / STUDY_FILE
    if not place.is_file():
        problem = f"--out-dir: no study in {out_dir}; train one there first (--mode train --data-dir ...)"
        raise ConfigError(SOURCE, [problem])
    study = parse_study(read_yaml(place), source=str(place))
    missing = [path for path in checkpoints(study) if not (out_dir / path).is_file()]
    if missing:
        problem = f"{len(missing)} networks are not trained yet, such as {missing[0]}; run --mode train --resume"
        raise ConfigError(SOURCE, [problem])
    return study


def _predict(arguments: argparse.Namespace, study: Study, out_dir: Path) -> int:
    """Make the bundle of a model, and predict with it."""
    known = [*study.models, *(["ensemble"] if len(study.models) > 1 else [])]
    model = arguments.bundle or known[-1]
    if model not in known:
        raise ConfigError(SOURCE, [f"--bundle: no model '{model}' in this study ({', '.join(known)})"])
    bundle = f"results/{study.study}/{DATASET}/{model}/bundle-{study.bundle.precision}.zip"
    status = _run(arguments, out_dir, [bundle])
    if status or arguments.dry_run:
        return status
    from archbench_predict.command_line import main as predict_volumes

    form = ["--challenge"] if arguments.output.suffix == ".json" else ["--top", str(TOP)]
    return predict_volumes([str(out_dir / bundle), *arguments.input, "--out", str(arguments.output), *form])


if __name__ == "__main__":
    run(main)
