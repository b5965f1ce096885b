"""Benchmark the diabetic-retinopathy models on one fold CSV: builds a study from these flags and runs it.

    python scripts/benchmark.py --fold_csv data/dr/fold_0.csv --epochs 30 --batch_size 8 --n_gradcam 20

The CSV's own train and val parts are used (`--protocol given`). Such a fold stops training and is reported on,
so the report carries that warning; `--protocol cross_validation` makes patient-grouped folds of all rows instead.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from archbench.command_line import run
from archbench.config import ConfigError, read_yaml
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
BASE_STUDY = CHECKOUT / "config" / "dr_grading.yaml"
SOURCE = "the flags of benchmark.py"
SEPARATOR = "_"  # of this script's flags


def main(argv: list[str] | None = None) -> int:
    """Parse, build the study file, run Snakemake on it."""
    arguments = parse_arguments(argv)
    study_file = arguments.out_dir.resolve() / "benchmark_study.json"
    save_study(build_study(arguments), study_file, source=SOURCE, resume=arguments.resume, separator=SEPARATOR)
    return run_command(snakemake_command(study_file, cores=arguments.num_workers, dry_run=arguments.dry_run))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = flags_parser(__doc__)
    add = parser.add_argument
    add("--fold_csv", type=Path, required=True, help="fold CSV; its folder is the data root unless --image_root")
    add("--image_root", type=Path, help="folder that image_path is relative to; must hold the CSV")
    add("--protocol", choices=["given", "cross_validation", "holdout"], default="given", help="default: given")
    add("--models", nargs="+", help="models of config/dr_grading.yaml, or architectures; default: its three models")
    add("--image_size", type=int, help="side of the input, pixels, for all models (default 384)")
    add("--weights", help="start weights for all models: none, imagenet, package, file:<path>")
    add("--epochs", type=int, help="epochs at most (default 30)")
    add("--batch_size", type=int, help="images per training step (default 8)")
    add("--eval_batch_size", type=int, help="images per step of validation and prediction (default 32)")
    add("--n_gradcam", type=int, help="cases with Grad-CAM pictures (default 20)")
    add("--skip_training", action="store_true", help="evaluate --checkpoints without training")
    add("--checkpoints", nargs="+", default=[], metavar="MODEL=FILE", help="weights of each model to evaluate")
    add_run_flags(parser, separator=SEPARATOR)
    return parser.parse_args(argv)


def build_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the study that the flags describe."""
    study = read_yaml(BASE_STUDY)
    root = (arguments.image_root or arguments.fold_csv.parent).resolve()
    if not arguments.fold_csv.resolve().is_relative_to(root):
        raise ConfigError(SOURCE, [f"--fold_csv: {arguments.fold_csv} is not below {root}"])
    study["study"] = f"benchmark_{re.sub('[^A-Za-z0-9_.+-]+', '_', arguments.fold_csv.stem)}"[:60]
    study["datasets"]["dr"] |= {"root": str(root), "csv": arguments.fold_csv.resolve().relative_to(root).as_posix()}
    study["protocol"]["kind"] = arguments.protocol
    for key in ("epochs", "batch_size", "eval_batch_size"):
        if getattr(arguments, key) is not None:
            study["training"][key] = getattr(arguments, key)
    if arguments.n_gradcam is not None:
        study["explain"]["cases"] = arguments.n_gradcam
    set_run_settings(study, arguments.log_dir)
    study["models"] = _models(study["models"], arguments)
    return study


def _models(known: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    given = dict(item.partition("=")[::2] for item in arguments.checkpoints)
    problems = [f"--checkpoints: '{name}' has no file; write MODEL=FILE" for name, path in given.items() if not path]
    if arguments.skip_training != bool(given):
        problems.append("--skip_training and --checkpoints go together: name one file per model")
    names = arguments.models or (list(given) if given else list(known))
    problems += [f"--checkpoints: none for model '{name}'" for name in names if given and name not in given]
    problems += [f"--checkpoints: '{name}' is not among --models" for name in given if name not in names]
    if problems:
        raise ConfigError(SOURCE, problems)
    return {name: _model(dict(known.get(name, {"architecture": name})), given.get(name), arguments) for name in names}


def _model(entry: dict[str, Any], checkpoint: str | None, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.image_size is not None:
        entry["image_size"] = arguments.image_size
    if arguments.weights is not None:
        entry["weights"] = absolute_weights(arguments.weights)
    if checkpoint is not None:
        entry |= {"checkpoint": str(Path(checkpoint).resolve()), "weights": "none"}
    return entry


if __name__ == "__main__":
    run(main)
