"""Stack base models on chest X-rays with 14 labels (CheXpert): builds a study from these flags and runs it.

    python scripts/stacking.py --data-dir data/chexpert --epochs-densenet 10 --epochs-vit 10 --epochs-meta 20

Starts from config/chexpert_stacking.yaml: DenseNet-121 and ViT-B/16 under patient-grouped folds, then every combination
of them fitted on out-of-fold predictions of other patients, from the plain mean to the network whose settings the
meta flags give. The study is written to --out-dir and can be run again with snakemake alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from archbench.command_line import run
from archbench.config import ConfigError, parse_study, read_yaml

CHECKOUT = Path(__file__).resolve().parent.parent
BASE_STUDY = CHECKOUT / "config" / "chexpert_stacking.yaml"
SOURCE = "the flags of stacking.py"
DENSENET, VIT = "densenet121", "vit_base_patch16"
SECOND_WIDTH = 128


def main(argv: list[str] | None = None) -> int:
    """Parse, build the study file, run Snakemake on it."""
    arguments = parse_arguments(argv)
    study = build_study(arguments)
    checked = parse_study(study, source=SOURCE)
    out_dir = arguments.out_dir.resolve()
    finished = out_dir / "results" / checked.study
    if finished.exists() and not arguments.resume:
        problem = f"--out-dir: {finished} holds results already; pass --resume to go on there, or name another folder"
        raise ConfigError(SOURCE, [problem])
    out_dir.mkdir(parents=True, exist_ok=True)
    study_file = out_dir / "stacking_study.json"
    text = json.dumps(study, indent=2) + "\n"
    study_file.write_text(text, encoding="utf-8")
    command = snakemake_command(study_file, out_dir, cores=arguments.num_workers, dry_run=arguments.dry_run)
    print(f"{text}{study_file}\n{' '.join(command)}", file=sys.stderr, flush=True)
    return subprocess.run(command, check=False).returncode


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="folder of CheXpert, with train.csv")
    add("--csv", help="table in that folder (default train.csv)")
    add("--epochs-densenet", type=int, help="epochs of DenseNet-121 at most (default 10)")
    add("--epochs-vit", type=int, help="epochs of ViT-B/16 at most (default 10)")
    add("--epochs-meta", type=int, help="epochs of the meta-learner's network at most (default 20)")
    add("--lr-densenet", type=float, help="learning rate of DenseNet-121 (default 1e-4)")
    add("--lr-vit", type=float, help="peak learning rate of ViT-B/16 (default 1e-4)")
    add("--lr-meta", type=float, help="learning rate of the meta-learner's network (default 1e-4)")
    add("--batch-size", type=int, help="images per pass of the base models (default 16)")
    add("--accumulation-steps", type=int, help="passes per update of the base models (default 2)")
    add("--meta-hidden-dim", type=int, help="units of the network's first hidden layer (default 256; the second 128)")
    add("--candidates", nargs="+", help="combinations to try (default: all, from mean to mlp)")
    add("--folds", type=int, help="patient-grouped folds (default 5)")
    add("--weights", help="start weights of both: none, imagenet, or file:<path> (default imagenet)")
    add("--image-size", type=int, help="side of the input, pixels (default 224)")
    add("--out-dir", type=Path, default=Path(), help="results/ is made in here (default: the working directory)")
    add("--log-dir", type=Path, help="folder of the job logs (default: logs in --out-dir)")
    add("--resume", action="store_true", help="go on with results that lie in --out-dir already")
    add("--num-workers", type=int, help="CPU cores to use, for decoding and for jobs side by side (default: all)")
    add("--dry-run", action="store_true", help="only show what would be run")
    return parser.parse_args(argv)


def build_study(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the study that the flags describe."""
    study = read_yaml(BASE_STUDY)
    study["study"] = "stacking"
    given: dict[tuple[str, ...], Any] = {
        ("datasets", "chexpert", "root"): str(arguments.data_dir.resolve()),
        ("datasets", "chexpert", "csv"): arguments.csv,
        ("protocol", "folds"): arguments.folds,
        ("training", "batch_size"): arguments.batch_size,
        ("training", "accumulation_steps"): arguments.accumulation_steps,
        ("models", DENSENET, "training", "epochs"): arguments.epochs_densenet,
        ("models", DENSENET, "training", "lr"): arguments.lr_densenet,
        ("models", VIT, "training", "epochs"): arguments.epochs_vit,
        ("models", VIT, "training", "lr"): arguments.lr_vit,
        ("ensemble", "candidates"): arguments.candidates,
        ("ensemble", "mlp", "epochs"): arguments.epochs_meta,
        ("ensemble", "mlp", "lr"): arguments.lr_meta,
        ("compute", "log_dir"): arguments.log_dir and str(arguments.log_dir.resolve()),
        ("compute", "gpus"): 0,  # of a scheduler; a local GPU is found by itself
    }
    if arguments.meta_hidden_dim is not None:
        given["ensemble", "mlp", "hidden"] = [arguments.meta_hidden_dim, SECOND_WIDTH]
    for model in (DENSENET, VIT):
        given["models", model, "image_size"] = arguments.image_size
        given["models", model, "weights"] = _absolute(arguments.weights)
    for place, value in given.items():
        if value is not None:
            _set(study, place, value)
    return study


def _set(study: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    *parents, key = place
    block = study
    for parent in parents:
        block = block.setdefault(parent, {})
    block[key] = value


def _absolute(weights: str | None) -> str | None:
    """The weights with their file's whole path: Snakemake runs in --out-dir."""
    kind, _, file = (weights or "").partition(":")
    return f"file:{Path(file).resolve()}" if kind == "file" and file else weights


def snakemake_command(study_file: Path, out_dir: Path, *, cores: int | None, dry_run: bool) -> list[str]:
    """Return the Snakemake call that runs a study with its results below a folder."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
    command += ["--directory", str(out_dir), "--cores", str(cores) if cores else "all"]
    return [*command, "--configfile", str(study_file), *(["--dry-run"] if dry_run else [])]


if __name__ == "__main__":
    run(main)
