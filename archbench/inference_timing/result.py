"""The result of a measurement as the report reads it (timing.json)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archbench.inference_timing.contender import END_TO_END, HOST_TO_HOST, PREPARED, Call
from archbench.inference_timing.lineup import Running
from archbench.inference_timing.rounds import Energy, Measurement
from archbench.inference_timing.summary import QUANTILES, needed_count, noise_floor, speedups, stages, summarize

SECONDS = ("median", "low", "high", "p95")
COLUMNS = (
    *("model", "runtime", "twin", "regime", "batch_size", "round", "kept"),
    *("latency_ms", "decode_ms", "preprocess_ms"),
)


def describe(
    measurement: Measurement, *, models: Mapping[str, Mapping[str, Any]], headline: str, confidence: float
) -> dict[str, Any]:
    """Return the figures of the rounds that count, and the account of everything that was tried.

    `results` is prepared input, `host_to_host` pixels to logits, `end_to_end` file to logits; `stages` says where
    the time of the last goes.

    Args:
        models: Size and work of each model.
        headline: The runtime whose latency stands for a model.
    """
    counted = [call for call in measurement.calls if call.round in set(measurement.kept)]
    return {
        "headline": headline,
        "quantile_calls": {name: needed_count(q, confidence=confidence) for name, q in QUANTILES.items()},
        "isolation": measurement.isolation,
        "energy": measurement.energy_sources,
        "models": {name: dict(facts) for name, facts in models.items()},
        "contenders": [_account(one) for one in measurement.running if not one.contender.twin or one.failure],
        "results": _with_energy(summarize(counted, confidence=confidence), measurement),
        "host_to_host": summarize(counted, confidence=confidence, regime=HOST_TO_HOST),
        "end_to_end": summarize(counted, confidence=confidence, regime=END_TO_END),
        "seconds_per_volume": _seconds_per_volume(summarize(counted, confidence=confidence, regime=END_TO_END), models),
        "stages": stages(counted),
        "speedups": speedups(counted, reference=headline, confidence=confidence),
        "noise": noise_floor(counted, confidence=confidence),
    }


def _seconds_per_volume(
    rows: Sequence[Mapping[str, Any]], models: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return what a whole volume takes from its file to its logits, seconds; nothing of models of images."""
    return [
        {
            "model": row["model"],
            "runtime": row["runtime"],
            "slices": models[str(row["model"])]["slices"],
            **{key: None if row.get(f"{key}_ms") is None else row[f"{key}_ms"] / 1000 for key in SECONDS},
        }
        for row in rows
        if models.get(str(row["model"]), {}).get("slices") is not None
    ]


def _account(one: Running) -> dict[str, Any]:
    contender, account = one.contender, one.account
    status, _, reason = ("timed", "", "") if one.failure is None else one.failure.partition(": ")
    facts = account.get("facts") or {}
    return {
        "model": contender.model,
        "runtime": contender.runtime,
        "engine": contender.engine,
        "device": contender.device,
        "precision": contender.precision,
        "twin": contender.twin,
        "status": status,
        "reason": reason or None,
        "provider": facts.get("provider"),
        "threads": facts.get("threads"),
        "bytes": _bytes(contender.spec),
        **{key: account.get(key) for key in ("starts_ms", "import_ms", "load_ms", "first_call_ms")},
        **{key: account.get(key) for key in ("rss_before_mib", "peak_memory_mib", "gpu_memory_mib", "warm_up")},
    }


def _bytes(spec: Mapping[str, Any]) -> int | None:
    """Size of what a contender loads: as the export counted it (weights in files of their own included), or here."""
    if "onnx_files" not in spec:
        return Path(spec["checkpoint"]).stat().st_size if Path(spec.get("checkpoint") or "").is_file() else None
    if spec.get("bytes"):
        return int(spec["bytes"])
    sizes = [Path(file).stat().st_size for _, file in spec["onnx_files"] if Path(file).is_file()]
    return sum(sizes) if sizes else None


def _with_energy(rows: Sequence[dict[str, Any]], measurement: Measurement) -> list[dict[str, Any]]:
    used: dict[tuple[str, str, int], list[Energy]] = {}
    for found in measurement.energy:
        contender = found.job.contender
        if found.job.regime == PREPARED and not contender.twin and found.round in measurement.kept:
            used.setdefault((contender.model, contender.runtime, found.job.batch_size), []).append(found)
    for row in rows:
        of = used.get((row["model"], row["runtime"], row["batch_size"]), [])
        images = sum(found.images for found in of)
        row["energy_j_per_image"] = sum(found.joules for found in of) / images if images else None
    return list(rows)


def columns(calls: Sequence[Call], kept: Sequence[int]) -> dict[str, list[Any]]:
    """Return every timed call as columns, `kept` saying whether its round counts."""
    counted = set(kept)
    found = {name: [getattr(call, name) for call in calls] for name in COLUMNS if name != "kept"}
    found["kept"] = [call.round in counted for call in calls]
    return {name: found[name] for name in COLUMNS}
