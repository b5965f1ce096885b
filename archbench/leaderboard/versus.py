"""Two runs of different studies against each other, on the cases that both were tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.case_comparison import pair_tables
from archbench.comparison import compare
from archbench.leaderboard.mask_runs import OUTPUTS, compare_mask_tables
from archbench.leaderboard.run import Run, hidden_names, key_fingerprint
from archbench.statistics import holm
from archbench.verdicts import verdict

INTERVALS = ("difference", "low", "high", "low90", "high90")


def paired_difference(
    before: Predictions,
    after: Predictions,
    *,
    primary: str,
    resamples: int,
    confidence: float,
    seed: int = 0,
    delta: float | None = None,
    clinical_cut: int = 2,
) -> tuple[dict[str, Any], Predictions, Predictions]:
    """Return the difference after - before over shared resamples of patients, and the rows that were paired.

    Raises:
        ValueError: If no case is in both, or classes, patients or targets differ.
    """
    first, second, notes = pair_tables(before, after)
    tables = {"before": first, "after": second}
    drawing: dict[str, Any] = {"resamples": resamples, "confidence": confidence, "seed": seed, "delta": delta}
    if first.outputs == OUTPUTS:
        found = compare_mask_tables(tables, **drawing)
    else:
        found = compare(tables, primary=primary, clinical_cut=clinical_cut, **drawing)
    values = {model["model"]: model["value"] for model in found["models"]}
    row = {
        "primary": primary,
        "greater_is_better": found["greater_is_better"],
        "delta": found["delta"],
        "value_before": values["before"],
        "value_after": values["after"],
        **_after_minus_before(found["pairs"][0]),
        "p": found["pairs"][0]["p"],
        "notes": [*notes, *found["warnings"]],
    }
    return row, first, second


def _after_minus_before(pair: dict[str, Any]) -> dict[str, float | None]:
    if pair["a"] == "after":
        return {name: pair[name] for name in INTERVALS}
    turned = {name: None if pair[name] is None else -pair[name] for name in INTERVALS}
    return {
        "difference": turned["difference"],
        "low": turned["high"],
        "high": turned["low"],
        "low90": turned["high90"],
        "high90": turned["low90"],
    }


def judge(rows: Sequence[dict[str, Any]], confidence: float) -> None:
    """Correct the p values over all rows by Holm and put each difference into words, in place."""
    corrected = holm(np.array([np.nan if row["p"] is None else row["p"] for row in rows]))
    for row, p in zip(rows, corrected, strict=True):
        row["p_holm"] = None if np.isnan(p) else float(p)
        if row["difference"] is None or row["low90"] is None:
            row["verdict"] = "inconclusive"
            continue
        sign = 1.0 if row["greater_is_better"] else -1.0
        low, high = sorted((sign * row["low90"], sign * row["high90"]))
        row["verdict"] = verdict(
            gain=sign * row["difference"], significant=bool(p < 1 - confidence), inner=(low, high), delta=row["delta"]
        )


def compare_runs(
    before: Run, after: Run, *, resamples: int, confidence: float, keys: Sequence[bytes] = (b"",)
) -> dict[str, Any]:
    """Return the paired difference of two runs, or {"reason": why they aren't comparable}.

    Args:
        keys: Keys that case names may have been hidden with; the empty one is that of names hashed without a key.
    """
    if before.task != after.task or before.primary_metric != after.primary_metric:
        return {"reason": f"not comparable: {before.task} and {after.task} are ranked by different metrics"}
    try:
        first, second = _tables(before, after, keys)
        row, _, _ = paired_difference(
            first, second, primary=before.primary_metric, resamples=resamples, confidence=confidence
        )
    except ValueError as error:
        return {"reason": f"not comparable: {error}"}
    return row


def _tables(before: Run, after: Run, keys: Sequence[bytes]) -> tuple[Predictions, Predictions]:
    """Both tables with case names of one kind: where one side's are hidden, the other's are too."""
    first, second = before.table(), after.table()
    if before.hashed_with == after.hashed_with:
        return first, second
    if before.hashed_with and after.hashed_with:
        raise ValueError("case names were hidden with two different keys")
    wanted = before.hashed_with or after.hashed_with
    key = next((key for key in keys if key_fingerprint(key) == wanted), None)
    if key is None:
        raise ValueError("case names of the other site are hidden with a key: give it with --key-file")
    hide = [run.hashed_with is None for run in (before, after)]
    return hidden_names(first, key) if hide[0] else first, hidden_names(second, key) if hide[1] else second
