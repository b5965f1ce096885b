"""How much faster ONNX Runtime is than torch eager at batch 1, and what int8 makes of convolutional networks.

    PYTHONPATH=. python benchmarks/inference_ratios.py --rounds 9      (about six minutes on two quiet cores)

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

SWIN = "timm:swinv2_cr_tiny_224"
ARCHITECTURES = ("resnet18", "efficientnet_b0", "densenet121", "vit_tiny_patch16_224", SWIN)
CLASSES = ("a", "b", "c", "d", "e")
CALIBRATION_IMAGES = 32  # of noise: ranges change what int8 answers, not how long it takes
# What was measured by hand before there was this script, ms: the runtime / ONNX Runtime in fp32.
EARLIER = {
    ("resnet18", "torch"): (31, 19),
    ("efficientnet_b0", "torch"): (23, 11),
    ("densenet121", "torch"): (55, 36),
    ("vit_tiny_patch16_224", "torch"): (33, 33),
    (SWIN, "torch"): (145, 111),
    ("resnet18", "onnxruntime_int8"): (7, 19),
    ("densenet121", "onnxruntime_int8"): (21, 35),
    ("efficientnet_b0", "onnxruntime_int8"): (15, 9),
}
QUANTIZED = tuple(name for name, runtime in EARLIER if runtime == "onnxruntime_int8")


def main() -> int:
    """Export every network, time all of them, print the ratios as a Markdown table."""
    from archbench.inference_timing.contender import PREPARED
    from archbench.inference_timing.hardware import usable_threads
    from archbench.inference_timing.lineup import Plan
    from archbench.inference_timing.machine_lock import hold_machine
    from archbench.inference_timing.rounds import measure

    arguments = _parse()
    plan = Plan(
        batch_sizes=[1],
        regimes=[PREPARED],
        rounds=arguments.rounds,
        calls=arguments.calls,
        repeats=3,
        memory_mib=arguments.memory_mib,
    )
    with tempfile.TemporaryDirectory() as folder:
        contenders = []
        for name in arguments.architectures:
            contenders += _contenders(name, Path(folder) / name.replace(":", "_"), arguments, threads=usable_threads())
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
    parser.add_argument("--memory-mib", type=float, default=4000, help="of the processes that are there at once")
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
    if name in QUANTIZED:
        _quantize(network, folder, threads=threads)
        variants.append({"precision": "int8", "file": "int8.onnx", "status": "passed"})
    return choose_contenders(name, variants, spec, folder=folder, runtimes=arguments.runtimes, devices=["cpu"])


def _quantize(network: Any, folder: Path, *, threads: int) -> None:
    """Quantise all convolutions and products, as the export does before it leaves any out."""
    from archbench.onnx_runner import InputForm
    from archbench.quantization import Quantizer

    form = InputForm(tuple(network.mean.flatten().tolist()), tuple(network.std.flatten().tolist()), normalized=True)
    shape = (CALIBRATION_IMAGES, network.image_size, network.image_size, 3)
    images = np.random.default_rng(1).integers(0, 256, size=shape, dtype=np.uint8)
    scratch = folder / "scratch"
    scratch.mkdir()
    quantizer = Quantizer(folder / "model.onnx", form, images, np.arange(len(images)), scratch, threads=threads)
    next(quantizer.attempts()).path.rename(folder / "int8.onnx")


def _print(found: Any) -> None:
    from archbench.inference_timing.result import describe

    result = describe(found, models={}, headline="onnxruntime", confidence=0.95)
    median = {(row["model"], row["runtime"]): row["median_ms"] for row in result["results"]}
    print("| network | runtime | median, ms | ONNX Runtime, ms | ratio (95 % interval) | noise | verdict | earlier |")
    print("|---|---|---|---|---|---|---|---|")
    for row in result["speedups"]:
        cells = [row["model"], row["runtime"], f"{median[row['model'], row['runtime']]:.1f}"]
        cells += [f"{median[row['model'], 'onnxruntime']:.1f}"]
        cells += [
            f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            f"× {row['floor']:.2f}",
            row["verdict"],
            _earlier(row["model"], row["runtime"]),
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


def _earlier(name: str, runtime: str) -> str:
    found = EARLIER.get((name, runtime))
    return "" if found is None else f"{found[0]} / {found[1]} = {found[0] / found[1]:.2f}"


if __name__ == "__main__":
    sys.exit(main())
