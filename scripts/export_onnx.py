"""Export the fold model that did best in validation to ONNX and check it against torch on real images.

python scripts/export_onnx.py --study study.yaml --dataset phantom --model resnet18 --output model.onnx …
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, write_json
from archbench.cases import Cases, read_cases
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study, metric_mode

if TYPE_CHECKING:
    import argparse


def main(argv: list[str] | None = None) -> int:
    """Parse, export, check parity, write the account."""
    arguments = _parse(argv)
    label_progress(f"export {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    cases = read_cases(arguments.manifest, arguments.folds, arguments.cache)
    write_json(arguments.account, _export(study, cases, arguments))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folds", required=True)
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--checkpoint", nargs="+", required=True, help="fold:seed:weights of every fold and seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", required=True, help="ONNX file to write")
    parser.add_argument("--account", required=True, help="account of export and parity to write (JSON)")
    return parser.parse_args(argv)


def _export(study: Study, cases: Cases, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from archbench import devices, onnx_export
    from archbench.models.building import build_network, count_parameters
    from archbench.models.weights import load_checkpoint

    fold, seed, path = best_checkpoint(arguments.checkpoint)
    size = study.image_size(arguments.model)
    devices.prepare_torch(threads=arguments.threads)
    network = build_network(**study.network_of(arguments.model, arguments.dataset), num_classes=len(cases.classes))
    load_checkpoint(network, path, torch.device("cpu"))
    output = Path(arguments.output)
    onnx_export.export_onnx(network, output, classes=cases.classes)
    rows = cases.part(fold, "val").rows
    parity = onnx_export.check_parity(network, output, images=cases.cache.images, rows=rows, threads=arguments.threads)
    return {
        "provenance": provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=arguments.model,
            config_hash=study.hash,
            code=arguments.code,
        ),
        "model": arguments.model,
        "fold": fold,
        "seed": seed,
        "checkpoint": path.as_posix(),
        "exporter": "dynamo, dynamic batch",
        "opset": onnx_export.OPSET,
        "image_size": size,
        "onnx_bytes": output.stat().st_size,
        "parameters": count_parameters(network),
        "parity": parity,
        "passed": True,
    }


def best_checkpoint(arguments: list[str]) -> tuple[int, int, Path]:
    """Return fold, seed and path of the weights with the best validation value (given weights: the first)."""
    entries = [(int(f), int(s), Path(p)) for f, s, p in (argument.split(":", 2) for argument in arguments)]

    def rank(entry: tuple[int, int, Path]) -> float:
        settings = entry[2].with_name("settings.json")
        if not settings.is_file():
            return 0.0
        content = read_json(settings)
        sign = 1.0 if metric_mode(content["metric"]) == "max" else -1.0
        return sign * float(content["best_value"])

    return max(entries, key=rank)


if __name__ == "__main__":
    run(main)
