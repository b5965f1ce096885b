"""How much faster ONNX Runtime is than torch eager at batch 1, and what torch.compile makes of it.

python benchmarks/inference_ratios.py --size 224 --rounds 9

Random weights: the time of a network does not depend on them. Only the ratios within rounds mean anything
on a machine with neighbours, so those and their noise floor are printed, and how disturbed the rounds were.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ARCHITECTURES = ("resnet18", "efficientnet_b0", "densenet121", "vit_tiny_patch16_224")
CLASSES = ("a", "b", "c", "d", "e")


def main() -> int:
    """Export every network, time all of them, print the ratios as a Markdown table."""
    from archbench.inference_timing.contender import PREPARED
    from archbench.inference_timing.hardware import usable_threads
    from archbench.inference_timing.lineup import Plan
    from archbench.inference_timing.machine_lock import hold_machine
    from archbench.inference_timing.rounds import measure

    arguments = _parse()
    plan = Plan(batch_sizes=[1], regimes=[PREPARED], rounds=arguments.rounds, calls=arguments.calls, repeats=3)
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for name in arguments.architectures:
            contenders += _contenders(name, Path(folder) / name, arguments, threads=usable_threads())
        with hold_machine("benchmarks/inference_ratios.py"):
            found = measure(contenders, plan)
    _print(found)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "torch"], help="torch_compile may be added")
    parser.add_argument("--size", type=int, default=224, help="side of the input, pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10)
    return parser.parse_args()


def _contenders(name: str, folder: Path, arguments: argparse.Namespace, *, threads: int) -> list[Any]:
    import torch
    from safetensors.torch import save_file

    from archbench.inference_timing.contender import choose_contenders
    from archbench.models.building import build_network
    from archbench.onnx_export import export_onnx

    print(f"export {name}", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    folder.mkdir()
    shape = {"architecture": name, "image_size": arguments.size}
    network = build_network(**shape, num_classes=len(CLASSES))
    export_onnx(network, folder / "model.onnx", classes=CLASSES)
    save_file(network.network.state_dict(), folder / "best.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, size=(1, arguments.size, arguments.size, 3), dtype=np.uint8)
    np.save(folder / "pixels.npy", pixels)
    spec = {
        "threads": threads,
        "pixels": str(folder / "pixels.npy"),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "network": shape,
        "num_classes": len(CLASSES),
        "checkpoint": str(folder / "best.safetensors"),
    }
    variants = [{"precision": "fp32", "file": "model.onnx", "status": "passed"}]
    return choose_contenders(name, variants, spec, folder=folder, runtimes=arguments.runtimes, devices=["cpu"])


def _print(found: Any) -> None:
    from archbench.inference_timing.result import describe

    result = describe(found, models={}, headline="onnxruntime", confidence=0.95)
    median = {(row["model"], row["runtime"]): row["median_ms"] for row in result["results"]}
    print(
        "| network | against ONNX Runtime | median, ms | ONNX Runtime, ms | ratio (95 % interval) | noise | verdict |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in result["speedups"]:
        cells = [row["model"], row["runtime"], f"{median[row['model'], row['runtime']]:.1f}"]
        cells += [f"{median[row['model'], 'onnxruntime']:.1f}"]
        cells += [
            f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            f"× {row['floor']:.2f}",
            row["verdict"],
        ]
        print(f"| {' | '.join(cells)} |")
    isolation = result["isolation"]
    kept = [row for row in isolation["rounds"] if row["kept"]]
    shares = sorted(row["foreign_share"] for row in kept)
    print(
        f"\n{isolation['disturbed_rounds']} of {len(kept)} rounds disturbed; others used {100 * shares[0]:.0f} to ",
        end="",
    )
    print(f"{100 * shares[-1]:.0f} % of the processors (median {100 * shares[len(shares) // 2]:.0f} %).")
    for account in result["contenders"]:
        if account["status"] != "timed":
            print(f"{account['model']} {account['runtime']}: {account['status']}, {account['reason']}")


if __name__ == "__main__":
    sys.exit(main())
