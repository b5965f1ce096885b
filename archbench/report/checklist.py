"""Reporting check lists for a paper: what the run can answer is filled in, the rest is the author's.

Items are named in our own words by number; the guidelines' texts are to be read where they were published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from archbench.report.collect import DatasetResult, StudyResult
from archbench.report.data_words import missing_words, partition_words
from archbench.report.labels import format_count, metric_label, spelled
from archbench.report.methods import commands_of, methods_paragraphs
from archbench.report.origins import versions_of
from archbench.report.text import join_names

AUTHOR = "author must fill"
Answer = Callable[[StudyResult], str | None]


@dataclass(frozen=True)
class Item:
    """One item of a check list.

    Attributes:
        guideline: CLAIM or TRIPOD+AI.
        number: As published.
        subject: In our words.
        answer: From the run, or None: the author must fill it.
    """

    guideline: str
    number: str
    subject: str
    answer: str | None

    @property
    def text(self) -> str:
        """The answer, or the mark that the author must fill it."""
        return self.answer or AUTHOR


def reporting_checklist(study: StudyResult) -> list[Item]:
    """Return every item of CLAIM and TRIPOD+AI with what the run can say.

    Source:
        CLAIM: Mongan, Moy and Kahn, 2020 (42 items). TRIPOD+AI: Collins et al., 2024 (27 items).
    """
    found = []
    for guideline, items in (("CLAIM", CLAIM), ("TRIPOD+AI", TRIPOD_AI)):
        for number, (subject, answer) in items.items():
            text = answer(study) if answer else None
            found.append(Item(guideline, number, subject, " ".join(text.split()) if text else None))
    return found


def _data_words(study: StudyResult) -> str:
    return " ".join(methods_paragraphs(study)[: len(study.datasets)])


def _paragraph(offset: int) -> Answer:
    return lambda study: methods_paragraphs(study)[len(study.datasets) + offset]


def _trained_here(answer: Answer) -> Answer:
    """What only a run that trained its models can say; of given predictions it is the author's."""
    return lambda study: None if study.configuration.get("given_predictions") else answer(study)


_data = _trained_here(_data_words)
_protocol, _training, _statistics = _trained_here(_paragraph(0)), _trained_here(_paragraph(1)), _paragraph(2)
_disjoint = _trained_here(lambda study: "Patients: no patient is in two parts of a fold.")


def _per_dataset(words: Callable[[DatasetResult], str | None]) -> Answer:
    def answer(study: StudyResult) -> str | None:
        parts = [(dataset.name, words(dataset)) for dataset in study.datasets]
        said = [f"{name}: {text}" if len(parts) > 1 else text for name, text in parts if text]
        return " ".join(said) or None

    return answer


def _flow(dataset: DatasetResult) -> str | None:
    audit = dataset.audit
    if not audit or "n_rows" not in audit:
        return None
    dropped = {reason: n for reason, n in (audit.get("dropped") or {}).items() if n}
    text = f"{format_count(audit['n_rows'])} rows were read"
    if dropped:
        text += f", {format_count(sum(dropped.values()))} left out ("
        text += ", ".join(f"{reason.replace('_', ' ')} {format_count(n)}" for reason, n in dropped.items()) + ")"
    return (
        f"{text}; {format_count(audit['n_cases'])} cases of {format_count(audit['n_patients'])} patients were analysed."
    )


def _classes(dataset: DatasetResult) -> str | None:
    rows = [row for row in (dataset.audit or {}).get("classes", []) if "name" in row]
    counts = [f"{row['name']} {format_count(row['n_cases'])}" for row in rows if "n_cases" in row]
    return f"Cases by class: {', '.join(counts)}." if counts else None


def _performance(dataset: DatasetResult) -> str | None:
    parts = []
    for model in dataset.evaluated:
        record = model.record(dataset.primary)
        if record and record.get("value") is not None:
            low, high = record.get("low"), record.get("high")
            interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
            parts.append(f"{model.name} {record['value']:.3f}{interval}")
    if not parts:
        return None
    return f"{metric_label(dataset.primary).long}: {'; '.join(parts)}."


def _selection(study: StudyResult) -> str | None:
    return (
        "The epoch was chosen on validation patients; what was fitted on predictions (temperatures, ensembles) used "
        "out-of-fold predictions of other patients."
        if not any(dataset.same_cases for dataset in study.datasets)
        else "The epoch was chosen on the cases that are reported: the figures are too good."
    )


def _ensembling(dataset: DatasetResult) -> str | None:
    ensemble = dataset.ensemble
    decision = (ensemble.decision if ensemble else None) or {}
    return spelled(str(decision["reason"]), dataset.primary) if decision.get("reason") else None


def _explanation(dataset: DatasetResult) -> str | None:
    explained = [model.name for model in dataset.models if model.gradcam]
    return f"Grad-CAM of {join_names(explained)}." if explained else None


def _software(study: StudyResult) -> str | None:
    versions = versions_of(study)
    if study.configuration.get("given_predictions"):
        used = {name: version for name, version in versions.items() if name in ("python", "numpy", "scikit-learn")}
        return f"Statistics: {join_names(f'{name} {version}' for name, version in used.items())}." if used else None
    return join_names(f"{name} {version}" for name, version in versions.items()) + "." if versions else None


def _initial(study: StudyResult) -> str | None:
    models = study.configuration.get("models") or {}
    given = {name: str((entry or {}).get("weights") or "none") for name, entry in models.items()}
    words = [f"{name}: {'random' if kind == 'none' else kind} weights" for name, kind in given.items()]
    return f"{'; '.join(words)}." if words else None


def _code(study: StudyResult) -> str:
    return f"archbench, open source. The study is repeated by: {'; '.join(commands_of(study)[1:])}."


def _output(study: StudyResult) -> str:
    tasks: Mapping[str, str] = {d.name: str((d.audit or d.entry).get("task") or "") for d in study.datasets}
    kinds = join_names(dict.fromkeys(task for task in tasks.values() if task)) or "classification"
    return f"Probabilities of each class ({kinds}); decisions as described under statistical methods."


CLAIM: dict[str, tuple[str, Answer | None]] = {
    "1": ("Title names the AI method", None),
    "2": ("Structured abstract", None),
    "3": ("Background and intended use", None),
    "4": ("Objectives and hypotheses", None),
    "5": ("Prospective or retrospective", None),
    "6": ("Goal of the study", None),
    "7": ("Data sources", None),
    "8": ("Eligibility, where and when", None),
    "9": ("Preprocessing", _data),
    "10": ("Selection of subsets", _per_dataset(_flow)),
    "11": ("Definitions of data elements", None),
    "12": ("De-identification", None),
    "13": ("Missing data", _per_dataset(missing_words)),
    "14": ("Definition of the reference standard", None),
    "15": ("Why this reference standard", None),
    "16": ("Who annotated", None),
    "17": ("Annotation tools", None),
    "18": ("Variability of annotators", None),
    "19": ("Sample size and how it was determined", None),
    "20": ("How data were assigned to partitions", _protocol),
    "21": ("Level at which partitions are disjoint", _disjoint),
    "22": ("Model, inputs, outputs, layers", _training),
    "23": ("Software and versions", _software),
    "24": ("Initial weights", _trained_here(_initial)),
    "25": ("Training", _training),
    "26": ("Selection of the final model", _trained_here(_selection)),
    "27": ("Ensembling", _per_dataset(_ensembling)),
    "28": ("Metrics of performance", _statistics),
    "29": ("Uncertainty and significance", _statistics),
    "30": ("Robustness and sensitivity", None),
    "31": ("Explainability", _per_dataset(_explanation)),
    "32": ("External data", None),
    "33": ("Flow of participants", _per_dataset(_flow)),
    "34": ("Characteristics in each partition", _per_dataset(partition_words)),
    "35": ("Performance of the models", _per_dataset(_performance)),
    "36": ("Diagnostic accuracy with precision", _per_dataset(_performance)),
    "37": ("Failure analysis", None),
    "38": ("Limitations", None),
    "39": ("Implications for practice", None),
    "40": ("Registration", None),
    "41": ("Where the full protocol is", None),
    "42": ("Funding", None),
}

TRIPOD_AI: dict[str, tuple[str, Answer | None]] = {
    "1": ("Title", None),
    "2": ("Abstract", None),
    "3a": ("Healthcare context", None),
    "3b": ("Target population and users", None),
    "3c": ("Known health inequalities", None),
    "4": ("Objectives", None),
    "5a": ("Data sources", None),
    "5b": ("Dates of the data", None),
    "6a": ("Setting and centres", None),
    "6b": ("Eligibility", None),
    "6c": ("Treatments", None),
    "7": ("Data preparation", _data),
    "8a": ("Outcome", None),
    "8b": ("Assessors of the outcome", None),
    "8c": ("Blinding of the outcome", None),
    "9a": ("Choice of predictors", None),
    "9b": ("Definition of predictors", None),
    "9c": ("Assessors of predictors", None),
    "10": ("Sample size", None),
    "11": ("Missing data", _per_dataset(missing_words)),
    "12a": ("How the data were used and split", _protocol),
    "12b": ("Handling of predictors (images)", _data),
    "12c": ("Type of model, building, internal validation", _training),
    "12d": ("Heterogeneity between clusters", None),
    "12e": ("Measures of performance", _statistics),
    "12f": ("Model updating", None),
    "12g": ("How predictions were calculated", None),
    "13": ("Class imbalance", _per_dataset(_classes)),
    "14": ("Fairness", None),
    "15": ("Output of the model", _output),
    "16": ("Differences between training and evaluation data", None),
    "17": ("Ethical approval", None),
    "18a": ("Funding", None),
    "18b": ("Conflicts of interest", None),
    "18c": ("Protocol", None),
    "18d": ("Registration", None),
    "18e": ("Sharing of data", None),
    "18f": ("Sharing of code", _code),
    "19": ("Patient and public involvement", None),
    "20a": ("Flow of participants", _per_dataset(_flow)),
    "20b": ("Characteristics of participants", None),
    "20c": ("Development against evaluation data", None),
    "21": ("Participants and events in each analysis", _per_dataset(partition_words)),
    "22": ("Full specification of the model", None),
    "23a": ("Performance with intervals, key subgroups", _per_dataset(_performance)),
    "23b": ("Heterogeneity of performance", None),
    "24": ("Results of updating", None),
    "25": ("Interpretation", None),
    "26": ("Limitations", None),
    "27a": ("Poor or unavailable inputs in use", None),
    "27b": ("Interaction with users", None),
    "27c": ("Next steps", None),
}
