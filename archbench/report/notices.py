"""What a reader has to know before believing the answer; it stands right under it."""

from __future__ import annotations

from dataclasses import dataclass

from archbench.report.collect import DatasetResult, StudyResult
from archbench.report.text import join_names
from archbench.report.timing import isolation_sentence

FEW_PATIENTS = 30
FEW_CASES_OF_A_CLASS = 10
# A 95th percentile this far above the median is a disturbed machine, not the model.
DISTURBED_RATIO = 2.0


@dataclass(frozen=True)
class Notice:
    """A warning; all of them stand right under the answer."""

    title: str
    text: str


def warnings_of(study: StudyResult) -> list[Notice]:
    """What a reader has to know before believing the answer; the gravest first."""
    found: list[Notice] = []
    for dataset in study.datasets:
        where = f" ({dataset.name})" if len(study.datasets) > 1 else ""
        found += [Notice(w.title + where, w.text) for w in _dataset_warnings(dataset)]
    seeds = (study.configuration.get("protocol") or {}).get("seeds") or []
    if len(seeds) == 1:
        found.append(
            Notice(
                "One seed",
                f"Every model was trained with the one seed {seeds[0]}: how much a result changes from one "
                "training to the next was not estimated, and the intervals do not contain it.",
            )
        )
    return found


def _dataset_warnings(dataset: DatasetResult) -> list[Notice]:
    found = []
    if dataset.phantom:
        found.append(
            Notice(
                "Phantom data",
                "The data were drawn by the program, with planted findings that define the truth. "
                "The result shows that the pipeline works; it says nothing about patients.",
            )
        )
    if dataset.same_cases:
        found.append(
            Notice(
                "Selected and reported on the same cases",
                "The epoch of each model was chosen on the cases that are reported here, so all values are too good.",
            )
        )
    found += _absence_warnings(dataset) + _few_patients_warning(dataset) + _timing_warning(dataset)
    found += _calibration_warning(dataset)
    return found + _artifact_warnings(dataset, found)


def _absence_warnings(dataset: DatasetResult) -> list[Notice]:
    found = []
    failed, unfinished = ([model.name for model in models] for models in (dataset.failed, dataset.unfinished))
    where = "and could not be compared; the end of the log stands below the table"
    if failed:
        verb = "has" if len(failed) == 1 else "have"
        found.append(Notice("Failed models", f"{join_names(failed)} {verb} no result {where}."))
    if unfinished:
        verb = "was" if len(unfinished) == 1 else "were"
        text = f"{join_names(unfinished)} {verb} not run to the end {where}. The same command goes on."
        found.append(Notice("Not finished", text))
    return found


def _few_patients_warning(dataset: DatasetResult) -> list[Notice]:
    found = []
    patients = [model.metrics["n_patients"] for model in dataset.evaluated if model.metrics]
    if patients and min(patients) < FEW_PATIENTS:
        text = f"{min(patients)} patients: below {FEW_PATIENTS} the intervals are too narrow."
        found.append(Notice("Few patients", text))
    rare = [
        f"{row['name']} ({row['n_cases']})"
        for row in (dataset.audit or {}).get("classes", [])
        if row["n_cases"] < FEW_CASES_OF_A_CLASS
    ]
    if rare:
        text = f"Too few cases to judge these classes: {join_names(rare)}."
        found.append(Notice("Rare classes", text))
    return found


def _timing_warning(dataset: DatasetResult) -> list[Notice]:
    if dataset.timing_disturbed:
        text = (
            f"{isolation_sentence(dataset)} No latency stands in the answer. Neighbours slow those runtimes most whose "
            "threads wait for each other, so that even ratios within rounds mislead: time again on a quiet machine "
            "(delete timing.json)."
        )
        return [Notice("Disturbed timing", text)]
    disturbed = {
        row["model"]: row["p95_ms"] / row["median_ms"]
        for row in (dataset.timing or {}).get("results", [])
        if row["runtime"] == dataset.headline_runtime and row["batch_size"] == 1 and row.get("p95_ms")
        if row["p95_ms"] > DISTURBED_RATIO * row["median_ms"]
    }
    if not disturbed:
        return []
    worst = max(disturbed, key=lambda name: disturbed[name])
    text = (
        f"One call in twenty of {worst} took {disturbed[worst]:.1f} times its median or longer: something "
        "else ran on the machine. Trust the ratios of the interleaved rounds, not the milliseconds."
    )
    return [Notice("Disturbed timing", text)]


def _calibration_warning(dataset: DatasetResult) -> list[Notice]:
    worse = []
    for model in dataset.evaluated:
        loss = (model.calibration or {}).get("log_loss") or {}
        raw, calibrated = ((loss.get(key) or {}).get("value") for key in ("raw", "calibrated"))
        if raw is not None and calibrated is not None and calibrated > raw:
            worse.append(model.name)
    if not worse:
        return []
    text = f"The temperatures made the probabilities of {join_names(worse)} worse on other patients, not better."
    return [Notice("Calibration did not help", text)]


# What the artifacts warn of in their own words, and the page already says.
_SAID = (("Phantom data", "phantom"), ("Selected and", "same cases"), ("Few patients", "patients: below"))


def _artifact_warnings(dataset: DatasetResult, said: list[Notice]) -> list[Notice]:
    sources: dict[str, list[str]] = {}
    for text in (dataset.audit or {}).get("warnings", []):
        sources.setdefault(str(text), []).append("the audit")
    for text in (dataset.comparison or {}).get("warnings", []):
        sources.setdefault(str(text), []).append("the comparison")
    for text in (dataset.timing or {}).get("warnings", []):
        sources.setdefault(str(text), []).append("the timing")
    for model in dataset.evaluated:
        for text in (model.metrics or {}).get("warnings", []):
            sources.setdefault(str(text), []).append(model.name)
    titles = " ".join(warning.title for warning in said)
    known = [word for title, word in _SAID if title in titles]
    return [
        Notice(f"Noted by {join_names(names)}", text)
        for text, names in sources.items()
        if not any(word in text.lower() for word in known) and "one training seed" not in text.lower()
    ]
