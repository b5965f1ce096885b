"""Stack base models on chest X-rays with 14 labels (CheXpert): builds a study from these flags and runs it.

    python scripts/stacking.py --data-dir data/chexpert --epochs-densenet 10 --epochs-vit 10 --epochs-meta 20

Starts from config/chexpert_stacking.yaml: DenseNet-121 and ViT-B/16 under patient-grouped folds, then every combination
of them fitted on out-of-fold predictions of other patients, from the plain mean to the network whose settings the
meta flags give. The study is written to --out-dir and can be run again with snakemake alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from archbench.command_line import run
from archbench.config import read_yaml
from archbench.front_end import (
    absolute_weights,
    add_run_flags,
    flags_parser,
    run_command,
    save_study,
    set_given,
    set_run_settings,
    snakemake_command,
)

CHECKOUT = Path(__file__).resolve().parent.parent
BASE_STUDY = CHECKOUT / "config" / "chexpert_stacking.yaml"
SOURCE = "the flags of stacking.py"
DENSENET, VIT = "densenet121", "vit_base_patch16"
SECOND_WIDTH = 128


def main(argv: list[str] | None = None) -> int:
    """Parse, build the study file, run Snakemake on it."""
    arguments = parse_arguments(argv)
    study_file = arguments.out_dir.resolve() / "stacking_study.json"
    save_study(build_study(arguments), study_file, source=SOURCE, resume=arguments.resume)
    return run_command(snakemake_command(study_file, cores=arguments.num_workers, dry_run=arguments.dry_run))


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = flags_parser(__doc__)
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
    add_run_flags(parser)
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
    }
    if arguments.meta_hidden_dim is not None:
        given["ensemble", "mlp", "hidden"] = [arguments.meta_hidden_dim, SECOND_WIDTH]
    for model in (DENSENET, VIT):
        given["models", model, "image_size"] = arguments.image_size
        given["models", model, "weights"] = absolute_weights(arguments.weights)
    set_given(study, given)
    set_run_settings(study, arguments.log_dir)
    return study


if __name__ == "__main__":
    run(main)
