"""Benchmark the diabetic-retinopathy models on one fold CSV: builds a study from these flags and runs it.

    python scripts/benchmark.py --fold_csv data/dr/fold_0.csv --epochs 30 --batch_size 8 --n_gradcam 20

The CSV's own train and val parts are used (`--protocol given`). Such a fold stops training and is reported on,
so the report carries that warning; `--protocol cross_validation` makes patient-grouped folds of all rows instead.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from archbench.command_line import run
from archbench.config import ConfigError, parse_study, read_yaml

CHECKOUT = Path(__file__).resolve().parent.parent
BASE_STUDY = CHECKOUT / "config" / "dr_grading.yaml"


def main(argv: list[str] | None = None) -> int:
    """Parse, build the study file, run Snakemake on it."""
    arguments = parse_arguments(argv)
    study = build_study(arguments)
    parse_study(study, source="the flags of benchmark.py")
    out_dir = Path(arguments.out_dir).resolve()
    finished = out_dir / "results" / study["study"]
    if finished.exists() and not arguments.resume:
        raise ConfigError(
            "the flags of benchmark.py",
            [f"--out_dir: {finished} holds results already; pass --resume to go on there, or name another folder"],
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    study_file = out_dir / "benchmark_study.json"
    study_file.write_text(json.dumps(study, indent=2) + "\n", encoding="utf-8")
    command = snakemake_command(study_file, out_dir, cores=arguments.num_workers, dry_run=arguments.dry_run)
    print(" ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=False).returncode


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
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
    add("--out_dir", default=".", help="results/ is made in here (default: the working directory)")
    add("--log_dir", help="folder of the job logs (default: logs in --out_dir)")
    add("--resume", action="store_true", help="go on with results that lie in --out_dir already")
    add("--num_workers", type=int, help="CPU cores to use, for decoding and for jobs side by side (default: all)")
    add("--dry_run", action="store_true", help="only show what would be run")
    return parser.parse_args(argv)


def build_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the study that the flags describe."""
    study = read_yaml(BASE_STUDY)
    root = (arguments.image_root or arguments.fold_csv.parent).resolve()
    if not arguments.fold_csv.resolve().is_relative_to(root):
        raise ConfigError("the flags of benchmark.py", [f"--fold_csv: {arguments.fold_csv} is not below {root}"])
    study["study"] = f"benchmark_{re.sub('[^A-Za-z0-9_.+-]+', '_', arguments.fold_csv.stem)}"[:60]
    study["datasets"]["dr"] |= {"root": str(root), "csv": arguments.fold_csv.resolve().relative_to(root).as_posix()}
    study["protocol"]["kind"] = arguments.protocol
    for key in ("epochs", "batch_size", "eval_batch_size"):
        if getattr(arguments, key) is not None:
            study["training"][key] = getattr(arguments, key)
    if arguments.n_gradcam is not None:
        study["explain"]["cases"] = arguments.n_gradcam
    if arguments.log_dir is not None:
        study["compute"]["log_dir"] = str(Path(arguments.log_dir).resolve())
    study["compute"]["gpus"] = 0  # of a scheduler; a local GPU is found by itself
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
        raise ConfigError("the flags of benchmark.py", problems)
    return {name: _model(dict(known.get(name, {"architecture": name})), given.get(name), arguments) for name in names}


def _model(entry: dict[str, Any], checkpoint: str | None, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.image_size is not None:
        entry["image_size"] = arguments.image_size
    if arguments.weights is not None:
        kind, _, file = arguments.weights.partition(":")
        entry["weights"] = f"file:{Path(file).resolve()}" if kind == "file" and file else arguments.weights
    if checkpoint is not None:
        entry |= {"checkpoint": str(Path(checkpoint).resolve()), "weights": "none"}
    return entry


def snakemake_command(study_file: Path, out_dir: Path, *, cores: int | None, dry_run: bool) -> list[str]:
    """Return the Snakemake call that runs a study with its results below a folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
    command += ["--directory", str(out_dir), "--cores", str(cores) if cores else "all"]
    return [*command, "--configfile", str(study_file), *(["--dry-run"] if dry_run else [])]


if __name__ == "__main__":
    run(main)
