"""The deployed runner: images/s against the network's own throughput, and memory over 100,000 images.

    PYTHONPATH=. python benchmarks/runner.py speed --images ../shared/data/dr600 --architecture resnet50 --size 224
    PYTHONPATH=. python benchmarks/runner.py memory --count 100000

Both make a bundle of an untrained network. `speed` takes turns, round by round, with the network alone on images that
are prepared already, all threads on each batch (as a study times it), the same with a batch for each thread, and the
whole stream from files to records as the command runs it; in one process with the same threads and batches. The ratios
are taken within each round, of images/s and of CPU seconds. The latter say on a busy machine what the former would say
on a quiet one where all of them keep all cores at work. `memory` predicts links to four small files in a process
of its own and reads its resident set as it goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from archbench.bundle_files import Images, add_example, library_versions, write_expected, write_sums
from archbench_predict.bundle import read_bundle
from archbench_predict.command_line import lanes_for
from archbench_predict.description import describe_steps
from archbench_predict.images import Preprocessing
from archbench_predict.predictor import Predictor
from archbench_predict.records import open_writer, to_records
from archbench_predict.sources import Columns, Item, find_images
from archbench_predict.streaming import stream

CLASSES = ["a", "b", "c", "d", "e"]


def untrained_bundle(folder: Path, *, architecture: str, size: int) -> None:
    """Write a bundle of a network with random weights, borders cropped as in the studies of fundus photographs."""
    import torch

    from archbench.models.building import build_network

    torch.manual_seed(0)
    network = build_network(architecture, num_classes=len(CLASSES), image_size=size).eval()
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.network,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=512)},),
            opset_version=18,
            verbose=False,
        )
    assert program is not None
    program.save(folder / "model.onnx", external_data=False)
    member = {
        "name": architecture,
        "file": "model.onnx",
        "precision": "fp32",
        "input": {"normalized": True, "batch": "dynamic"},
        "preprocessing": describe_steps(Preprocessing(size=size, crop_border=True), max_pixels=200_000_000),
        "normalization": {"mean": network.mean.flatten().tolist(), "std": network.std.flatten().tolist()},
    }
    content = {
        "format": 1,
        "name": f"{architecture}-{size}",
        **{"outputs": "classes", "logits": CLASSES, "classes": CLASSES, "labels": ["grade"], "decision": "argmax"},
        "members": [member],
        "combination": {"kind": "single"},
        "calibration": {"method": "temperature", "temperature": 1.5},
        "thresholds": None,
        "example": add_example(folder, None, Images(folder, {}, {}), size=size, masked=False),
        "versions": library_versions(),
    }
    (folder / "bundle.json").write_text(json.dumps(content))
    write_sums(folder)
    write_expected(folder)
    write_sums(folder)


def speed(arguments: argparse.Namespace, folder: Path) -> None:
    """Print images/s of all three, and the ratios of the rounds."""
    untrained_bundle(folder / "bundle", architecture=arguments.architecture, size=arguments.size)
    bundle, threads = read_bundle(folder / "bundle"), arguments.threads
    items = list(islice(find_images([arguments.images], Columns()), arguments.count))
    lanes = lanes_for(len(items), threads=threads, batch_size=arguments.batch)
    shared, own = (Predictor(bundle, threads=n) for n in (threads, threads // lanes))
    ready = [own.prepare(item.path) for item in items]
    ways: dict[str, Callable[[], None]] = {
        "alone": lambda: alone(shared, ready, batch=arguments.batch, lanes=1),
        "alone, a batch a thread": lambda: alone(own, ready, batch=arguments.batch, lanes=lanes),
        "stream": lambda: streamed(own, items, arguments, folder / "out.csv", lanes=lanes),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        names = list(ways)
        for name in names[number % 3 :] + names[: number % 3]:
            begin, cpu_begin = time.perf_counter(), time.process_time()
            ways[name]()
            if number:  # the first round warms up
                rates[name].append(len(items) / (time.perf_counter() - begin))
                cpu[name].append((time.process_time() - cpu_begin) / len(items) * 1e3)
    print(
        f"{arguments.architecture} {arguments.size} px, {len(items)} images, {threads} threads, batch "
        f"{arguments.batch}, {arguments.rounds} rounds, load {os.getloadavg()[0]:.1f}"
    )
    for name in ways:
        print(f"{name}: {np.median(rates[name]):.1f} images/s, {np.median(cpu[name]):.1f} CPU ms an image")
    for name in list(ways)[:2]:
        _print_ratio(f"images/s, stream / {name}", np.array(rates["stream"]) / np.array(rates[name]))
        _print_ratio(f"CPU, {name} / stream", np.array(cpu[name]) / np.array(cpu["stream"]))


def _print_ratio(name: str, ratios: np.ndarray) -> None:
    draws = np.median(np.random.default_rng(0).choice(ratios, size=(10_000, len(ratios))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"{name}: {np.median(ratios):.3f} ({low:.3f} to {high:.3f})")


def alone(predictor: Predictor, ready: list[list[np.ndarray]], *, batch: int, lanes: int) -> None:
    """The network on prepared images, so many batches at once."""
    parts = [ready[start : start + batch] for start in range(0, len(ready), batch)]
    if lanes == 1:
        for part in parts:
            predictor.member_logits(part)
        return
    with ThreadPoolExecutor(max_workers=lanes) as pool:
        list(pool.map(predictor.member_logits, parts))


def streamed(predictor: Predictor, items: list[Item], arguments: argparse.Namespace, out: Path, *, lanes: int) -> None:
    """From files to a CSV, as the command does it."""
    answers = stream(
        items,
        prepare=lambda item: predictor.prepare(item.path),
        predict=lambda batch: to_records(predictor.predict(batch), predictor.task),
        batch_size=arguments.batch,
        workers=arguments.threads,
        lanes=lanes,
    )
    with open_writer(out, predictor.task, calibrated=True) as writer:
        for item, record in answers:
            assert isinstance(record, dict), record
            writer.write(item, record, None)


def memory(arguments: argparse.Namespace, folder: Path) -> None:
    """Print the resident set of the command as the count of images grows."""
    import psutil

    untrained_bundle(folder / "bundle", architecture="custom1", size=32)
    (folder / "few").mkdir()
    for k in range(4):
        noise = np.random.default_rng(k).integers(0, 256, size=(48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"few/{k}.png")
    (folder / "many").mkdir()
    for k in range(arguments.count):
        (folder / f"many/{k:06d}.png").symlink_to(folder / "few" / f"{k % 4}.png")
    command = [sys.executable, "-m", "archbench_predict", str(folder / "bundle"), str(folder / "many")]
    command += ["--out", str(folder / "out.csv"), "--threads", "1", "--workers", "2", "--batch-size", "32"]
    begin, tenth = time.perf_counter(), 0
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        assert process.stderr is not None
        for line in process.stderr:
            found = re.match(r"images (\d+)/", line)
            if found and int(found[1]) * 10 // arguments.count >= tenth:
                tenth = int(found[1]) * 10 // arguments.count + 1
                rss = watched.memory_info().rss / 2**20
                print(f"{found[1]} images: {rss:.1f} MiB, {time.perf_counter() - begin:.0f} s", flush=True)
    rows = sum(1 for _ in (folder / "out.csv").open()) - 1
    print(f"exit code {process.returncode}, {rows} rows")


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory"])
    parser.add_argument("--images", help="folder of images (speed)")
    parser.add_argument("--architecture", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (speed if arguments.what == "speed" else memory)(arguments, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
