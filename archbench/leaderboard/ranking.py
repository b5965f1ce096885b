"""Runs ranked by quality, and the answer to "is this better than what we had?"."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from archbench.leaderboard.run import Run
from archbench.leaderboard.versus import compare_runs, judge
from archbench.registry import METRICS

# The first's verdict over another run, as a word about the other one.
ABOUT_THE_OTHER = {
    "better": "worse",
    "better but trivial": "worse but trivially",
    "equivalent": "equivalent",
    "inconclusive": "not told apart",
    "worse": "better on the shared cases",
}


@dataclass(frozen=True)
class PairTesting:
    """How runs are compared.

    Attributes:
        resamples: Patient draws; 0 leaves the tests out.
        confidence: Level of the intervals.
        keys: Keys that case names may have been hidden with.
    """

    resamples: int = 2000
    confidence: float = 0.95
    keys: Sequence[bytes] = (b"",)


@dataclass(frozen=True)
class Ranked:
    """A run in its group.

    Attributes:
        rank: 1 is the best; equal values share a rank; None where the metric is undefined.
        against_first: Paired difference first - this run, with a verdict, or {"reason": …}; None for the first.
    """

    run: Run
    rank: int | None
    against_first: dict[str, Any] | None = None


@dataclass(frozen=True)
class Group:
    """Runs on the same cases of a dataset, best first, and what the newest study brought.

    Attributes:
        versions: Of the dataset, each with other cases or targets and a group of its own.
    """

    dataset: str
    task: str
    primary: str
    greater_is_better: bool
    data_hash: str
    ranked: list[Ranked]
    versions: int = 1
    news: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def phantom(self) -> bool:
        """Whether the data were drawn."""
        return any(entry.run.phantom for entry in self.ranked)


def rank_runs(runs: Sequence[Run], testing: PairTesting) -> list[Group]:
    """Group runs by dataset, task and cases, and rank each group by its primary metric; nothing else counts.

    Args:
        runs: In the order in which they came.
    Returns:
        Groups by dataset; of one dataset, that with the newest run first.
    """
    found: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.dataset, run.task, run.primary_metric, run.data_hash), []).append(run)
    position = {run.id: k for k, run in enumerate(runs)}
    keys = sorted(found, key=lambda key: (*key[:3], -max(position[run.id] for run in found[key])))
    return [_group(key, found[key], runs, testing) for key in keys]


def _group(key: tuple[str, str, str, str], members: list[Run], runs: Sequence[Run], testing: PairTesting) -> Group:
    dataset, task, primary, data = key
    greater = METRICS.get(primary).greater_is_better
    ordered = sorted(members, key=lambda run: _order(run, greater))
    versions = {run.data_hash for run in runs if (run.dataset, run.task) == (dataset, task)}
    return Group(
        dataset=dataset,
        task=task,
        primary=primary,
        greater_is_better=greater,
        data_hash=data,
        ranked=_ranked(ordered, greater, testing),
        versions=len(versions),
        news=newest_against_before(
            [run for run in runs if (run.dataset, run.task) == (dataset, task)], members[-1], testing
        ),
        notes=_notes(ordered, len(versions)),
    )


def _order(run: Run, greater: bool) -> tuple[float, str, str]:
    value = run.primary["value"]
    sort = float("inf") if value is None else (-value if greater else value)
    return sort, run.added_at, run.id


def _ranked(ordered: list[Run], greater: bool, testing: PairTesting) -> list[Ranked]:
    values = [run.primary["value"] for run in ordered]
    ranks = [None if value is None else 1 + values.index(value) for value in values]
    against: list[dict[str, Any] | None] = [None] * len(ordered)
    if testing.resamples:
        for k, run in enumerate(ordered[1:], start=1):
            against[k] = _compared(run, ordered[0], testing)
        judge_known([row for row in against if row], testing.confidence)
    return [Ranked(run, rank, row) for run, rank, row in zip(ordered, ranks, against, strict=True)]


def _compared(before: Run, after: Run, testing: PairTesting) -> dict[str, Any]:
    print(f"{before.dataset}: {after.name} against {before.name}", file=sys.stderr)
    return compare_runs(
        before, after, resamples=testing.resamples, confidence=testing.confidence, keys=tuple(testing.keys)
    )


def judge_known(rows: Sequence[dict[str, Any]], confidence: float) -> None:
    """Give the comparable ones a verdict, p values corrected over them."""
    known = [row for row in rows if "reason" not in row]
    if known:
        judge(known, confidence)


def newest_against_before(runs: Sequence[Run], newest: Run, testing: PairTesting) -> dict[str, Any] | None:
    """Compare the best of the newest study of a group with the best that came before it.

    Args:
        runs: All runs of the dataset and task, in the order in which they came.
        newest: The run of the group that came last.
    Returns:
        {"candidate", "incumbent": names, and the paired difference or a reason}; None without anything before.
    """
    if not testing.resamples:
        return None
    batch = (newest.site, newest.study, newest.added_at)
    ours = [run for run in runs if (run.site, run.study, run.added_at) == batch and run.data_hash == newest.data_hash]
    first = min(k for k, run in enumerate(runs) if run.id in {entry.id for entry in ours})
    earlier = [run for run in runs[:first] if run.primary["value"] is not None]
    same = [run for run in earlier if run.data_hash == newest.data_hash]
    greater = METRICS.get(newest.primary_metric).greater_is_better
    if not earlier:
        return None
    candidate = min(ours, key=lambda run: _order(run, greater))
    incumbent = min(same or earlier, key=lambda run: _order(run, greater))
    row = _compared(incumbent, candidate, testing)
    judge_known([row], testing.confidence)
    return {"candidate": candidate.name, "incumbent": incumbent.name, **row}


def _notes(ordered: list[Run], versions: int) -> list[str]:
    notes = []
    if any(run.phantom for run in ordered):
        notes.append("Phantom data: drawn, not measured; nothing here says anything about patients.")
    if len(ordered) > 1:
        notes.append(
            f"The first was chosen among {len(ordered)} runs on the same cases, so its value is optimistic; "
            "only new patients tell how good it is."
        )
    if versions > 1:
        notes.append(
            f"There are {versions} versions of this dataset, with other cases or targets; their values are not "
            "comparable, and each has a table of its own."
        )
    if any(run.details.get("selected_and_reported_on_same_cases") for run in ordered):
        notes.append("Some runs were selected and reported on the same cases: they look better than they are.")
    hardware = {str((run.details.get("hardware") or {}).get("cpu")) for run in ordered if run.timings}
    if len(hardware) > 1:
        notes.append("Latencies were measured on different machines and can't be compared across them.")
    return notes
