"""Time inference of all models of a dataset in every runtime that the study names, in interleaved rounds.

python scripts/time_inference.py --study study.yaml --dataset phantom --entry name:model.onnx:export.json:cache.json …

Each contender runs in a process of its own, one at a time; one timing runs on a machine at a time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.artifacts import provenance, read_json, read_table, write_json, write_table
from archbench.cases import Cases, read_cases
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study

if TYPE_CHECKING:
    import argparse

    from archbench.inference_timing.contender import Contender
    from archbench.inference_timing.rounds import Measurement

MEMORY_SHARE = 0.7  # of the job's memory for the contenders; this process imports torch, too
FILES = 16  # of real cases, for the regime from file to logits


def main(argv: list[str] | None = None) -> int:
    """Parse, wait for the machine, time, write every call and the summary."""
    arguments = _parse(argv)
    label_progress(f"timing {arguments.dataset}")
    study = load_study(arguments.study)
    from archbench.inference_timing.machine_lock import hold_machine

    with hold_machine(f"study {study.study}, dataset {arguments.dataset}") as waited_s:
        _time(study, arguments, waited_s)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folds", required=True)
    parser.add_argument(
        "--entry", nargs="+", required=True, help="model:model.onnx:export.json:cache pointer, each model"
    )
    parser.add_argument("--memory-mib", type=float, default=8000, help="what all processes together may use")
    parser.add_argument("--calls", required=True, help="table of every call to write (parquet)")
    parser.add_argument("--output", required=True, help="summary to write (JSON)")
    return parser.parse_args(argv)


def _time(study: Study, arguments: argparse.Namespace, waited_s: float) -> None:
    from archbench.inference_timing import hardware, rounds
    from archbench.inference_timing.lineup import Plan

    settings = study.inference
    threads = settings.threads or hardware.usable_threads()
    plan = Plan(
        batch_sizes=settings.batch_sizes,
        regimes=settings.regimes,
        rounds=settings.rounds,
        calls=settings.calls,
        repeats=settings.repeats,
        cold_starts=settings.cold_starts,
        memory_mib=MEMORY_SHARE * arguments.memory_mib,
    )
    with tempfile.TemporaryDirectory() as folder:
        contenders: list[Contender] = []
        models: dict[str, dict[str, Any]] = {}
        for entry in arguments.entry:
            model, _, account, pointer = entry.split(":")
            cases = read_cases(arguments.manifest, arguments.folds, pointer)
            found, models[model] = _prepare(study, arguments, model, Path(account), cases, Path(folder), threads)
            contenders += found
        measurement = rounds.measure(contenders, plan)
    _write(measurement, models, study, arguments, threads=threads, waited_s=waited_s)


def _prepare(
    study: Study, arguments: argparse.Namespace, model: str, path: Path, cases: Cases, folder: Path, threads: int
) -> tuple[list[Contender], dict[str, Any]]:
    """Write the pixels that a model's contenders are fed with; return the contenders and the model's size and work."""
    from archbench.inference_timing.contender import choose_contenders
    from archbench.inference_timing.work import count_work
    from archbench.models.building import build_network

    account, settings = read_json(path), study.inference
    shape = study.network_of(model, arguments.dataset)
    network = build_network(**shape, num_classes=len(cases.classes))
    part = cases.part(account["fold"], "val")
    pixels = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(pixels, cases.cache.images[np.resize(part.rows, max(settings.batch_sizes))])
    spec = {
        "threads": threads,
        "pixels": str(pixels),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "network": shape,
        "num_classes": len(cases.classes),
        "checkpoint": account["checkpoint"],
        "files": _files(arguments.manifest, part.case_ids[:FILES].tolist(), volumes="volume" in shape),
        "preprocessing": _preprocessing(study, arguments.dataset, study.image_size(model)),
        "volume": _volume(study, arguments.dataset, study.image_size(model)),
        "max_pixels": study.audit.max_pixels,
    }
    variants = account.get("variants") or [{"precision": "fp32", "file": "model.onnx", "status": "passed"}]
    chosen = choose_contenders(
        model, variants, spec, folder=path.parent, runtimes=settings.runtimes, devices=settings.devices
    )
    slices = {"slices": shape["volume"]["slices"]} if "volume" in shape else {}
    return chosen, {**count_work(network), "image_size": network.image_size, **slices}


def _files(manifest: str, case_ids: list[str], *, volumes: bool) -> list[tuple[str, Any]]:
    """Image and mask file (None without) of cases; of volumes, file and what a table declares of it."""
    table, metadata = read_table(manifest)
    position = {case: k for k, case in enumerate(table["case_id"].to_pylist())}
    images, root = table["image"].to_pylist(), Path(metadata["root"])
    if volumes:
        declared = table["declared"].to_pylist()
        rows = [position[case] for case in case_ids]
        return [(str(root / images[k]), declared[k] and json.loads(declared[k])) for k in rows]
    masks = table["mask"].to_pylist() if "mask" in table.column_names else [None] * len(images)
    found = [(root / images[k], masks[k]) for k in (position[case] for case in case_ids)]
    return [(str(image), None if mask is None else str(root / mask)) for image, mask in found]


def _preprocessing(study: Study, dataset: str, size: int) -> dict[str, Any]:
    """What is done to an image before the network; CLAHE is only seen in training."""
    settings = study.datasets[dataset].preprocessing
    keys = ("crop_border", "intensity", "channels", "center_crop", "mask_focus")
    return {"size": size, **{key: getattr(settings, key) for key in keys}}


def _volume(study: Study, dataset: str, size: int) -> dict[str, Any] | None:
    """What is done to a volume before the network; None of images."""
    settings = study.datasets[dataset].volumes
    if settings is None:
        return None
    slices = {"strategy": settings.slices.strategy, "count": settings.slices.count}
    return {**slices, "spacing_mm": settings.spacing, "size": size, "rescale": settings.rescale}


def _write(
    measurement: Measurement,
    models: dict[str, dict[str, Any]],
    study: Study,
    arguments: argparse.Namespace,
    *,
    threads: int,
    waited_s: float,
) -> None:
    import pyarrow as pa
    import torch

    from archbench.inference_timing import hardware, result
    from archbench.inference_timing.contender import runtime_label

    settings, gpu = study.inference, "cuda" in study.inference.devices and torch.cuda.is_available()
    described = hardware.describe_hardware(threads=threads, gpu=torch.cuda.get_device_name() if gpu else None)
    origin = provenance(
        study=study.study, dataset=arguments.dataset, model=None, config_hash=study.hash, code=arguments.code
    )
    table = pa.table(result.columns(measurement.calls, measurement.kept))
    write_table(arguments.calls, table, {"provenance": origin, "hardware": described})
    headline = runtime_label("onnxruntime", settings.devices[0])
    confidence = study.evaluation.confidence
    summary = {
        "provenance": origin,
        "hardware": described,
        "machine": hardware.describe_machine(),
        "rounds": settings.rounds,
        "waited_s": waited_s,
        **result.describe(measurement, models=models, headline=headline, confidence=confidence),
    }
    write_json(arguments.output, summary)


if __name__ == "__main__":
    run(main)
