"""The answer in two sentences: which model, how good, against what, how sure, at what cost.

The sentences are built from the artifacts alone and say what is uncertain. "Not significant" is never
written as "equal": what the data do not separate is called that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from archbench.report.collect import DatasetResult, ModelResult
from archbench.report.labels import (
    format_count,
    format_duration,
    format_ms,
    format_share,
    format_value,
    metric_label,
    pair_with_best,
    predict_the_same,
)
from archbench.report.pareto_figure import ensemble_latency_ms

MAX_NAMED_MEMBERS = 4


@dataclass(frozen=True)
class Answer:
    """The answer for one dataset: the model, its value in short, and two sentences."""

    dataset: str
    model: str
    value: str
    sentences: tuple[str, ...]


def best_model(dataset: DatasetResult) -> ModelResult | None:
    """The model to name: the best of the comparison, else the best point estimate.

    An ensemble that fell back to one of its members is that member.
    """
    best = dataset.find((dataset.comparison or {}).get("best"))
    if best is None or best.metrics is None:
        sign = -1 if metric_label(dataset.primary).lower_is_better else 1
        scored = [(sign * r["value"], m) for m in dataset.evaluated if (r := _defined(dataset, m)) is not None]
        best = max(scored, key=lambda pair: pair[0])[1] if scored else None
    if best is not None and best.is_ensemble and best.fell_back:
        return dataset.find((best.decision or {}).get("best_base")) or best
    return best


def _defined(dataset: DatasetResult, model: ModelResult) -> dict[str, Any] | None:
    record = model.record(dataset.primary)
    return record if record is not None and record["value"] is not None else None


def answer(dataset: DatasetResult) -> Answer:
    """Which model, how good, against what, how sure, at what cost, and what speaks against it."""
    best = best_model(dataset)
    record = _defined(dataset, best) if best else None
    if best is None or record is None:
        return Answer(dataset.name, "no answer", "", (_no_answer(dataset),))
    label = metric_label(dataset.primary)
    value = f"{label.short} {format_value(record['value'], 2)}{_between(dataset, record, ' (', ')')}"
    sentences = (_quality_sentence(dataset, best, record), _cost_sentence(dataset, best))
    return Answer(dataset.name, best.name, value, sentences)


def _no_answer(dataset: DatasetResult) -> str:
    if not dataset.evaluated:
        return f"No model was evaluated on {dataset.name}, so nothing can be said yet."
    return f"The {metric_label(dataset.primary).long} is undefined for every model, so they can't be ranked."


def _between(dataset: DatasetResult, record: dict[str, Any], before: str, after: str = "", *, digits: int = 2) -> str:
    if record.get("low") is None or record.get("high") is None:
        return ""
    interval = f"{format_value(record['low'], digits)} to {format_value(record['high'], digits)}"
    return f"{before}{100 * dataset.confidence:g}\u00a0% interval {interval}{after}"


def _quality_sentence(dataset: DatasetResult, best: ModelResult, record: dict[str, Any]) -> str:
    label = metric_label(dataset.primary)
    kind = "phantom cases" if dataset.phantom else "cases"
    count = f"{format_count(record['n_cases'])} {kind} of {format_count(record['n_patients'])} patients"
    second = runner_up(dataset, best)
    did = "did best" if second else "is the only model with a value"
    meaning = f" ({label.explanation})" if label.explanation else ""
    start = (
        f"Tested on {count}, {_described(best)} {did}: its {label.long}{meaning} is "
        f"{format_value(record['value'], 2)}{_between(dataset, record, ', ')}"
    )
    if second is None:
        return f"{start}; it could be compared with nothing."
    against = f"against {_value_of(dataset, second)} for the next, {second.name}"
    return f"{start}, {against}{_separation(dataset, best, second)}."


def _described(model: ModelResult) -> str:
    if not model.is_ensemble:
        return model.name
    members = model.members
    if len(members) > MAX_NAMED_MEMBERS:
        return f"the ensemble of {len(members)} models"
    return f"the ensemble of {join_names(members)}" if members else "the ensemble"


def runner_up(dataset: DatasetResult, best: ModelResult) -> ModelResult | None:
    """The next architecture after the best model; an ensemble holds the best model, so it does not count."""
    sign = -1 if metric_label(dataset.primary).lower_is_better else 1
    others = [
        (sign * record["value"], model)
        for model in dataset.evaluated
        if model.name != best.name and not model.is_ensemble and (record := _defined(dataset, model)) is not None
    ]
    return max(others, key=lambda pair: pair[0])[1] if others else None


def _value_of(dataset: DatasetResult, model: ModelResult) -> str:
    return format_value((model.record(dataset.primary) or {}).get("value"), 2)


def _pair(dataset: DatasetResult, best: ModelResult, other: ModelResult | None) -> dict[str, Any] | None:
    if other is None:
        return None
    comparison = {**(dataset.comparison or {}), "best": best.name}
    return pair_with_best(comparison, other.name)


def _separation(dataset: DatasetResult, best: ModelResult, second: ModelResult) -> str:
    pair = _pair(dataset, best, second)
    if pair is None:
        return " (the two were not compared)"
    size = f"{format_value(pair['difference'], 3)}{_between(dataset, pair, ', ', digits=3)}"
    verdicts = {
        "better": f": a difference of {size}, more than chance explains",
        "better but trivial": f": a difference of {size}, more than chance explains but too small to matter",
        "equivalent": f": a difference of {size}, so the two are equivalent within the declared margin",
        "inconclusive": f", but the data do not separate the two (difference {size})",
    }
    return verdicts.get(pair["verdict"], f" (difference {size}; {pair['verdict']})")


def _cost_sentence(dataset: DatasetResult, best: ModelResult) -> str:
    parts = [part for part in (_rank_part(dataset, best), _price_part(dataset, best)) if part]
    against = _objections(dataset, best)
    start = " and ".join(parts) or "Its cost was not measured"
    start = start[0].upper() + start[1:]
    return f"{start}; against it speaks that {join_names(against)}." if against else f"{start}."


def _rank_part(dataset: DatasetResult, best: ModelResult) -> str:
    rows = {row["model"]: row for row in (dataset.comparison or {}).get("models", [])}
    if (rows.get(best.name) or {}).get("p_rank1") is None or len(rows) < 2:
        return ""
    same = [name for name in rows if name != best.name and predict_the_same(dataset.comparison, best.name, name)]
    share = sum(rows[name]["p_rank1"] or 0.0 for name in (best.name, *same))
    together = f" (with {join_names(same)}, which predicts the same)" if same else ""
    return f"it comes first in {format_share(share)} of the redrawn groups of patients{together}"


def _price_part(dataset: DatasetResult, best: ModelResult) -> str:
    timing, seconds = _undisturbed(dataset, best), best.settings("train_seconds")
    hardware = ((dataset.timing or {}).get("hardware") or {}).get("cpu")
    parts = []
    if timing is not None:
        place = f" ({hardware})" if hardware else ""
        parts.append(f"{format_ms(timing['median_ms'])}\u00a0ms {dataset.a_unit}{place}")
    elif dataset.timing_disturbed:
        parts.append(f"an unknown time {dataset.a_unit} (other work disturbed the timing)")
    elif best.is_ensemble and (total := ensemble_latency_ms(dataset)) is not None:
        parts.append(f"about {format_ms(total)}\u00a0ms {dataset.a_unit}, the sum over its members")
    if seconds:
        parts.append(f"{format_duration(sum(seconds))} of training")
    return f"it costs {join_names(parts)}" if parts else ""


def _undisturbed(dataset: DatasetResult, model: ModelResult) -> dict[str, Any] | None:
    """The latency of a model, if the answer may rest on it."""
    return None if dataset.timing_disturbed else dataset.latency(model.name)


def _objections(dataset: DatasetResult, best: ModelResult) -> list[str]:
    return [text for text in (_weakest_class(best), _cheaper(dataset, best), _many_members(dataset, best)) if text]


def _weakest_class(model: ModelResult) -> str:
    rows = [
        (values["recall"]["value"], values.get("support"), name)
        for name, values in ((model.metrics or {}).get("per_class") or {}).items()
        if (values.get("recall") or {}).get("value") is not None
    ]
    if not rows:
        return ""
    recall, support, name = min(rows, key=lambda row: row[0])
    of = f"{format_count(support)} " if support else ""
    return f"it finds only {format_share(recall)} of the {of}cases of class “{name}”" if recall < 0.9 else ""


def _cheaper(dataset: DatasetResult, best: ModelResult) -> str:
    mine = _undisturbed(dataset, best)
    if mine is None:
        return ""
    for model in sorted(dataset.evaluated, key=lambda m: (dataset.latency(m.name) or {"median_ms": 1e9})["median_ms"]):
        other, pair = dataset.latency(model.name), _pair(dataset, best, model)
        if other is None or pair is None or pair["verdict"] not in ("inconclusive", "equivalent"):
            continue
        ratio = mine["median_ms"] / other["median_ms"]
        if ratio >= 1.3:
            words = "is equivalent" if pair["verdict"] == "equivalent" else "is not shown to be worse"
            return f"{model.name}, {ratio:.1f} times faster, {words}"
    return ""


def _many_members(dataset: DatasetResult, model: ModelResult) -> str:
    members = model.members
    return f"{len(members)} models have to be run for every {dataset.unit}" if len(members) > 1 else ""


def planted_sentence(dataset: DatasetResult) -> str:
    """Whether the planted grades and lesions were found, judged by the lower ends of the intervals."""
    chance = metric_label(dataset.primary).chance
    lows = [(model.record(dataset.primary) or {}).get("low") for model in dataset.evaluated]
    above = sum(low is not None and chance is not None and low > chance for low in lows)
    hits = [hit for model in dataset.evaluated if (hit := (model.gradcam or {}).get("lesion_hit"))]
    looked = sum(
        hit.get("low") is not None and hit.get("chance") is not None and hit["low"] > hit["chance"] for hit in hits
    )
    what = "findings" if dataset.outputs == "labels" else "grades"
    grades = f"The planted {what} are recovered above chance by {_of(above, len(lows))}"
    if not hits:
        return f"{grades}; there is no CAM to compare with the planted lesions."
    share = _of(looked, len(hits))
    return f"{grades}, and the strongest point of the CAM lies in a lesion more often than by chance in {share}."


def _of(count: int, total: int) -> str:
    if total == 1:
        return "the one model" if count else "no model"
    return f"all {total} models" if count == total else f"{count} of {total} models"


def join_names(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
