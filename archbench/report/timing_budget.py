"""Which model to use when an image may take so many milliseconds on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from archbench.report.cells import Cell, Column, Table, record_cell
from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import format_interval, format_ms, metric_label, pair_with_best
from archbench.report.quality_tables import caption
from archbench.report.text import join_names
from archbench.report.timing import row_of, runtime_name, runtimes_of

DEFAULT_BUDGET_MS = 50.0
REGIMES = {"end_to_end": "from file to answer", "results": "on prepared input"}


@dataclass(frozen=True)
class Candidate:
    """A model in its fastest runtime.

    Attributes:
        high_ms: What nearly every image stays below: the 95th percentile, or where it isn't known the upper end of the
            median's interval.
        tail: Which of both `high_ms` is.
        measured: False for an ensemble, whose members' times are added up.
    """

    model: ModelResult
    runtime: str
    median_ms: float
    high_ms: float
    tail: str
    measured: bool = True


def regime_of(dataset: DatasetResult) -> str:
    """The list of the timing that the budget is asked of: whole images if they were timed, else prepared input."""
    return "end_to_end" if (dataset.timing or {}).get("end_to_end") else "results"


def candidates(dataset: DatasetResult) -> list[Candidate]:
    """Every evaluated model in its fastest runtime, the best first; ensembles as the sum of their members."""
    single = [found for model in dataset.evaluated if (found := _fastest(dataset, model)) is not None]
    by_name = {found.model.name: found for found in single}
    ensembles = [found for model in dataset.drawn if (found := _sum(model, by_name)) is not None]
    sign = -1 if metric_label(dataset.primary).lower_is_better else 1
    known = [found for found in [*single, *ensembles] if _value(dataset, found.model) is not None]
    return sorted(known, key=lambda found: (-sign * (_value(dataset, found.model) or 0.0), found.median_ms))


def _value(dataset: DatasetResult, model: ModelResult) -> float | None:
    return (model.record(dataset.primary) or {}).get("value")


def _fastest(dataset: DatasetResult, model: ModelResult) -> Candidate | None:
    found = []
    for runtime in runtimes_of(dataset):
        row = _row(dataset, model.name, runtime)
        if row is not None:
            p95, high = row.get("p95_ms"), row.get("high_ms")
            limit, tail = (p95, "p95") if p95 is not None else (high or row["median_ms"], "upper end of the median")
            found.append(Candidate(model, runtime, row["median_ms"], limit, tail))
    return min(found, key=lambda candidate: candidate.high_ms, default=None)


def _row(dataset: DatasetResult, model: str, runtime: str) -> Any:
    if regime_of(dataset) == "end_to_end":
        return row_of(dataset, "end_to_end", model, runtime)
    return dataset.latency(model, runtime)


def _sum(model: ModelResult, single: dict[str, Candidate]) -> Candidate | None:
    """An ensemble that runs all its members in turn; decoding counts with each of them, so it is an upper end."""
    members = [single[name] for name in model.members if name in single] if model.is_ensemble else []
    if not members or len(members) != len(model.members):
        return None
    runtimes = list(dict.fromkeys(member.runtime for member in members))
    tail = "sum of the members' upper ends"
    total, high = sum(m.median_ms for m in members), sum(m.high_ms for m in members)
    return Candidate(model, runtimes[0] if len(runtimes) == 1 else "", total, high, tail, measured=False)


def budget_sentences(dataset: DatasetResult, budget_ms: float) -> list[str]:
    """The answer: which model within the budget, what is as good and faster, what the best of all would cost."""
    found = candidates(dataset)
    if not found:
        return []
    fits = [candidate for candidate in found if candidate.high_ms <= budget_ms]
    where = REGIMES[regime_of(dataset)]
    limit = f"{budget_ms:g}\u00a0ms {dataset.a_unit}, {where}"
    if not fits:
        near = min(found, key=lambda candidate: candidate.high_ms)
        return [f"No model keeps within {limit}. The nearest is {_words(dataset, near)}."]
    best = fits[0]
    sentences = [f"Within {limit}: {_words(dataset, best)}."]
    equal = [c for c in fits[1:] if c.high_ms < best.high_ms / 1.3 and _not_worse(dataset, best, c)]
    if equal:
        fastest = min(equal, key=lambda candidate: candidate.high_ms)
        sentences.append(f"Not shown to be worse, and faster: {_words(dataset, fastest)}.")
    if found[0] is not best:
        sentences.append(f"Better, but too slow: {_words(dataset, found[0])}.")
    if dataset.timing_disturbed:
        sentences.append("The timing was disturbed by other work on the machine: on a quiet one more may fit.")
    return sentences


def _words(dataset: DatasetResult, found: Candidate) -> str:
    label = metric_label(dataset.primary).short
    value = format_interval(found.model.record(dataset.primary))
    runtime = f" in {runtime_name(found.runtime)}" if found.runtime else ""
    tail = f"95\u00a0% of {dataset.unit}s below {format_ms(found.high_ms)}\u00a0ms"
    if found.tail != "p95":
        tail = f"{found.tail} {format_ms(found.high_ms)}\u00a0ms"
    about = "" if found.measured else "about "
    return f"{found.model.name}{runtime} ({label} {value}; {about}{format_ms(found.median_ms)}\u00a0ms, {tail})"


def _not_worse(dataset: DatasetResult, best: Candidate, other: Candidate) -> bool:
    """Whether the comparison leaves it open that the other is as good; asked only against the best of all."""
    if (dataset.comparison or {}).get("best") != best.model.name:
        return False
    pair = pair_with_best(dataset.comparison, other.model.name)
    return pair is not None and pair["verdict"] in ("inconclusive", "equivalent")


def budget_table(dataset: DatasetResult, budget_ms: float) -> Table | None:
    """Every model in its fastest runtime, and whether it keeps within the budget."""
    found = candidates(dataset)
    if not found:
        return None
    columns = [
        Column("Model", numeric=False),
        Column("Runtime", "the one in which it is fastest", numeric=False),
        Column(
            metric_label(dataset.primary).short,
            "with its interval; of the model in full precision: a lower one has passed the export's gate",
        ),
        Column(f"ms / {dataset.unit}", f"median, {REGIMES[regime_of(dataset)]}"),
        Column("Nearly all below, ms", "95th percentile; without enough calls the upper end of the median's interval"),
        Column(f"Within {budget_ms:g} ms", numeric=False),
    ]
    rows = [_row_cells(dataset, candidate, budget_ms) for candidate in found]
    text = f"which models keep within {budget_ms:g}\u00a0ms {dataset.a_unit} (inference.budget_ms), best first."
    return Table(f"budget-{dataset.name}", caption(dataset, text), columns, rows, sortable=True)


def _row_cells(dataset: DatasetResult, found: Candidate, budget_ms: float) -> list[Cell]:
    fits = found.high_ms <= budget_ms
    estimated = "" if found.measured else "sum over its members, not measured"
    return [
        Cell(found.model.name, found.model.name.lower()),
        Cell(runtime_name(found.runtime) if found.runtime else "each member's fastest", found.runtime),
        record_cell(found.model.record(dataset.primary), draw=True),
        Cell(format_ms(found.median_ms), found.median_ms, sub=estimated),
        Cell(format_ms(found.high_ms), found.high_ms, sub="" if found.tail == "p95" else found.tail),
        Cell("yes" if fits else "no", "yes" if fits else "no", tone="good" if fits else "bad"),
    ]


def budget_of(configuration: dict[str, Any]) -> float:
    """The budget of a study file."""
    return float((configuration.get("inference") or {}).get("budget_ms") or DEFAULT_BUDGET_MS)


def names_of_failed(dataset: DatasetResult) -> str:
    """The models of which nothing could be timed, in words; empty if there are none."""
    timed: Sequence[str] = [row["model"] for row in (dataset.timing or {}).get("results", [])]
    missing = [model.name for model in dataset.evaluated if not model.is_ensemble and model.name not in timed]
    return join_names(missing)
