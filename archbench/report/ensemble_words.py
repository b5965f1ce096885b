"""What the page says of the ensemble's decision beside its table: who was left out, what each label uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.text import join_names


def ensemble_sentences(decision: Mapping[str, Any]) -> list[str]:
    """Sentences on members left out, candidates not tried, members from elsewhere, and what each label uses."""
    found = [f"{item['name']} was left out: {item['reason']}." for item in decision.get("left_out") or []]
    skipped: dict[str, list[str]] = {}
    for item in decision.get("skipped") or []:
        skipped.setdefault(str(item["reason"]), []).append(str(item["name"]))
    found += [f"{join_names(names)} could not be tried: {reason}." for reason, names in skipped.items()]
    notes = [str(note) for note in decision.get("member_notes") or []]
    found += [f"Members from other studies: {'; '.join(notes)}."] if notes else []
    return found + _improved(decision) + _labels(decision)


def _improved(decision: Mapping[str, Any]) -> list[str]:
    """How many labels the ensemble improved, as it was handed on."""
    found = decision.get("improvement") or {}
    if not found.get("candidates") or not found["labels"]:
        return []
    last, n = found["candidates"][-1], len(found["labels"])
    if all(str(row["choice"]).startswith("best base") for row in decision.get("per_fold_choice") or [{"choice": ""}]):
        return [f"As delivered it is one model alone: {found['base']} where all patients are asked."]
    kind = {"class": "classes"}.get(str(found["of"]), f"{found['of']}s")
    return [
        f"As delivered, {last['n_improved']} of {n} {kind} are better than with {found['base']} alone, "
        f"{last['n_surely_improved']} of them surely; {last['n_surely_worse']} are surely worse (90 % intervals)."
    ]


def _labels(decision: Mapping[str, Any]) -> list[str]:
    base = decision.get("best_base")
    back = [item for item in decision.get("labels") or [] if item["choice"] == base]
    return [f"{item['label']} goes back to {item['reason']}." for item in back]
