"""Time inference of all models of a dataset, torch and ONNX Runtime, in interleaved rounds on the CPU.

python scripts/time_inference.py --study study.yaml --dataset phantom --entry name:model.onnx:export.json:cache.json …
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, write_json, write_table
from archbench.cases import read_cases
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study

if TYPE_CHECKING:
    import argparse


def main(argv: list[str] | None = None) -> int:
    """Parse, time, write every call and the summary."""
    arguments = _parse(argv)
    label_progress(f"timing {arguments.dataset}")
    study = load_study(arguments.study)
    _time(study, arguments)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folds", required=True)
    parser.add_argument(
        "--entry", nargs="+", required=True, help="model:model.onnx:export.json:cache pointer, each model"
    )
    parser.add_argument("--calls", required=True, help="table of every call to write (parquet)")
    parser.add_argument("--output", required=True, help="summary to write (JSON)")
    return parser.parse_args(argv)


def _time(study: Study, arguments: argparse.Namespace) -> None:
    import torch

    from archbench import devices, inference_timing
    from archbench.models.building import build_network
    from archbench.models.weights import load_checkpoint

    threads = inference_timing.usable_threads()
    devices.prepare_torch(threads=threads)
    networks, files, inputs = {}, {}, {}
    for entry in arguments.entry:
        model, onnx_file, account_file, pointer = entry.split(":")
        account, cases = read_json(account_file), read_cases(arguments.manifest, arguments.folds, pointer)
        network = build_network(**study.network_of(model, arguments.dataset), num_classes=len(cases.classes))
        networks[model] = load_checkpoint(network, account["checkpoint"], torch.device("cpu"))
        files[model] = Path(onnx_file)
        inputs[model] = (cases.cache.images, cases.part(account["fold"], "val").rows)
    settings = study.inference
    contenders = inference_timing.make_contenders(
        networks, files, inputs, batch_sizes=settings.batch_sizes, threads=threads
    )
    timed = inference_timing.time_rounds(contenders, rounds=settings.rounds, calls=settings.calls)
    origin = provenance(
        study=study.study, dataset=arguments.dataset, model=None, config_hash=study.hash, code=arguments.code
    )
    _write(timed, origin, inference_timing.describe_hardware(threads=threads), study, arguments)


def _write(timed: list[Any], origin: dict[str, Any], hardware: dict[str, Any], study: Study, arguments: Any) -> None:
    import pyarrow as pa

    from archbench import inference_timing

    columns = ("model", "runtime", "batch_size", "round", "latency_ms")
    table = pa.table({name: [getattr(call, name) for call in timed] for name in columns})
    write_table(arguments.calls, table, {"provenance": origin, "hardware": hardware})
    summary = {
        "provenance": origin,
        "hardware": hardware,
        "rounds": study.inference.rounds,
        "results": inference_timing.summarize(timed),
        "speedups": inference_timing.speedups(timed, confidence=study.evaluation.confidence),
    }
    write_json(arguments.output, summary)


if __name__ == "__main__":
    run(main)
