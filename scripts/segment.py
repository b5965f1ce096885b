"""Predict the masks of the test part of every fold of one model, as PNG in the pixels of the source.

    python scripts/segment.py --study study.yaml --dataset chest --model unet \\
        --checkpoint 0:42:fold0-seed42/best.safetensors … --output masks
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_table, write_json
from archbench.cases import read_cases
from archbench.checkpoints import parse_checkpoints
from archbench.command_line import checkpoint_parser, label_progress, run
from archbench.config import Study, load_study

if TYPE_CHECKING:
    import argparse


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write the masks and their index."""
    arguments = _parse(argv)
    label_progress(f"segment {arguments.dataset}/{arguments.model}")
    _segment(load_study(arguments.study), arguments)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = checkpoint_parser(__doc__)
    parser.add_argument("--prompts", help="table of prompts (prompted networks)")
    parser.add_argument("--output", required=True, help="folder to write: one PNG a case, and index.json")
    return parser.parse_args(argv)


def _segment(study: Study, arguments: argparse.Namespace) -> None:
    from archbench import devices
    from archbench.mask_prediction import predict_masks
    from archbench.models.building import build_network

    cases = read_cases(arguments.manifest, arguments.folds, arguments.cache, prompts=arguments.prompts)
    devices.prepare_torch(threads=arguments.threads)
    device = devices.resolve_device(study.compute.device)
    network = build_network(**study.network_of(arguments.model, arguments.dataset), num_classes=len(cases.classes))
    output = Path(arguments.output)
    masks = predict_masks(
        network.to(device),
        parse_checkpoints(arguments.checkpoint),
        cases,
        _shapes(arguments.manifest),
        output,
        batch_size=study.training_of(arguments.model, arguments.dataset).eval_batch_size,
        device=device,
    )
    origin = provenance(
        study=study.study,
        dataset=arguments.dataset,
        model=arguments.model,
        config_hash=study.hash,
        code=arguments.code,
        device=devices.device_name(device),
    )
    index = {"provenance": origin, "classes": list(cases.classes), "peak_memory_mib": devices.peak_memory_mib(device)}
    prompt = None if cases.prompts is None else cases.prompts.account()
    write_json(output / "index.json", {**index, "prompt": prompt, "masks": masks})


def _shapes(manifest: str) -> dict[str, tuple[int, int]]:
    """Rows and columns of each case's picture."""
    table, _ = read_table(manifest)
    columns = (table[name].to_pylist() for name in ("case_id", "height", "width"))
    return {case: (height, width) for case, height, width in zip(*columns, strict=True)}


if __name__ == "__main__":
    run(main)
