"""Names, numbers and verdicts as a reader sees them.

An undefined value is an en dash, never 0; who writes it also says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNDEFINED = "–"


@dataclass(frozen=True)
class MetricLabel:
    """How a metric is named and printed.

    Attributes:
        short: Column heading.
        long: The name in a sentence.
        explanation: What the value means, for a reader who does not know it.
        lower_is_better: Direction.
        chance: The value that guessing reaches, where it does not depend on the data.
        bounds: Smallest and largest possible value, None where unbounded.
    """

    short: str
    long: str
    explanation: str = ""
    lower_is_better: bool = False
    chance: float | None = None
    bounds: tuple[float | None, float | None] = (0.0, 1.0)


METRIC_LABELS: dict[str, MetricLabel] = {
    "qwk": MetricLabel(
        "QWK",
        "quadratic weighted kappa",
        "agreement with the reference grades, near misses counted less: 1 is perfect, 0 is chance",
        chance=0.0,
        bounds=(-1.0, 1.0),
    ),
    "accuracy": MetricLabel("Accuracy", "accuracy", "share of cases with exactly the right class"),
    "balanced_accuracy": MetricLabel("Balanced acc.", "balanced accuracy", "mean over the classes of the share found"),
    "macro_f1": MetricLabel("Macro F1", "macro F1", "mean over the classes of F1"),
    "macro_mae": MetricLabel(
        "Macro MAE",
        "macro mean absolute error",
        "mean over the classes of the distance in grades",
        lower_is_better=True,
        bounds=(0.0, None),
    ),
    "off_by_two": MetricLabel(
        "Off by ≥ 2",
        "share off by two grades or more",
        "share of cases two or more grades away from the reference",
        lower_is_better=True,
    ),
    "auroc_macro": MetricLabel(
        "AUROC",
        "macro AUROC, one class against the rest",
        "chance that a case of a class is scored above one of another class: 1 is perfect, 0.5 is chance",
        chance=0.5,
    ),
    "auroc_clinical_cut": MetricLabel(
        "AUROC at cut",
        "AUROC at the clinical cut",
        "separates cases at or above the clinical cut from those below",
        chance=0.5,
    ),
    "mcc": MetricLabel("MCC", "Matthews correlation coefficient", "0 is chance", chance=0.0, bounds=(-1.0, 1.0)),
    "log_loss": MetricLabel("Log loss", "log loss", "smaller is better", lower_is_better=True, bounds=(0.0, None)),
    "brier": MetricLabel("Brier", "Brier score", "smaller is better", lower_is_better=True, bounds=(0.0, 2.0)),
    "auprc_macro": MetricLabel(
        "AUPRC", "macro average precision", "mean over the labels of precision averaged over recall"
    ),
    "auroc_micro": MetricLabel("AUROC micro", "micro AUROC", "all labels pooled within a fold", chance=0.5),
    "auprc_micro": MetricLabel("AUPRC micro", "micro average precision", "all labels pooled within a fold"),
    "f1_macro": MetricLabel("Macro F1", "macro F1 at threshold .5", "mean over the labels of F1"),
    "f1_micro": MetricLabel("Micro F1", "micro F1 at threshold .5", "F1 of all labels pooled"),
    "precision_macro": MetricLabel("Precision", "macro precision", "mean over the labels that are ever called present"),
    "precision_micro": MetricLabel("Precision micro", "micro precision", "of all labels pooled"),
    "recall_macro": MetricLabel("Recall", "macro recall", "mean over the labels of the share found"),
    "recall_micro": MetricLabel("Recall micro", "micro recall", "of all labels pooled"),
    "specificity_macro": MetricLabel("Specificity", "macro specificity", "mean over the labels"),
    "hamming_accuracy": MetricLabel("Hamming", "Hamming accuracy", "share of all known labels that are right"),
    "exact_match": MetricLabel("Exact match", "exact match", "share of cases of which every known label is right"),
    "positive_rate": MetricLabel(
        "Called positive", "positive prediction rate", "share of all labels called present; above 60 % is an alarm"
    ),
    "labels_per_case": MetricLabel(
        "Labels / case", "labels per case", "how many labels a case is called to have", bounds=(0.0, None)
    ),
    "weighted_f1": MetricLabel("Weighted F1", "weighted F1", "F1 averaged with the classes' true shares"),
    "score_mae": MetricLabel(
        "Score MAE",
        "mean absolute error of the mean grade",
        "how far the mean grade of a case's gradable zones is off",
        lower_is_better=True,
        bounds=(0.0, None),
    ),
    "score_rmse": MetricLabel(
        "Score RMSE", "root mean squared error of the mean grade", lower_is_better=True, bounds=(0.0, None)
    ),
    "score_pearson": MetricLabel(
        "Score r", "Pearson correlation of the mean grade", "1 is perfect, 0 is chance", chance=0.0, bounds=(-1.0, 1.0)
    ),
    "risk_accuracy": MetricLabel("Risk accuracy", "accuracy of the risk class", "share of cases with the right class"),
    "risk_qwk": MetricLabel("Risk QWK", "quadratic weighted kappa of the risk class", chance=0.0, bounds=(-1.0, 1.0)),
    "mae": MetricLabel("MAE", "mean absolute error", "in the target's unit", lower_is_better=True, bounds=(0.0, None)),
    "rmse": MetricLabel("RMSE", "root mean squared error", lower_is_better=True, bounds=(0.0, None)),
    "pearson": MetricLabel("Pearson r", "Pearson correlation", chance=0.0, bounds=(-1.0, 1.0)),
    "r2": MetricLabel("R²", "share of variance explained", chance=0.0, bounds=(None, 1.0)),
    "dice": MetricLabel("Dice", "Dice", "twice the overlap over the sum of both sizes: 1 is perfect, 0 is no overlap"),
    "iou": MetricLabel("IoU", "intersection over union", "overlap over the union of both masks"),
    "sensitivity": MetricLabel("Sensitivity", "voxel sensitivity", "share of the true voxels that are found"),
    "specificity": MetricLabel("Specificity", "voxel specificity", "share of the background that is left out"),
    "hd95_mm": MetricLabel(
        "HD95 (mm)",
        "95 % Hausdorff distance in mm",
        "95 % of the surface voxels lie closer than this to the other surface; the image diagonal if nothing is found",
        lower_is_better=True,
        bounds=(0.0, None),
    ),
    "surface_dice": MetricLabel(
        "Surface Dice", "surface Dice", "share of both surfaces that lie within the tolerance of each other"
    ),
    "ece": MetricLabel(
        "ECE",
        "expected calibration error",
        "mean distance between stated and true confidence; 0 is perfect",
        lower_is_better=True,
    ),
}


def metric_label(name: str) -> MetricLabel:
    """The label of a metric; an unknown one is named after its key."""
    plain = name.replace("_", " ")
    return METRIC_LABELS.get(name) or MetricLabel(plain, plain, bounds=(None, None))


def spelled(text: str, metric: str) -> str:
    """A sentence that names a metric by its key, with its label: `gain in qwk` is `gain in QWK`."""
    return re.sub(rf"\b{re.escape(metric)}\b", metric_label(metric).short, text)


def format_value(value: float | None, digits: int = 3) -> str:
    """A number with a fixed count of decimals; None is an en dash."""
    if value is None:
        return UNDEFINED
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def format_interval(record: Mapping[str, Any] | None, digits: int = 3) -> str:
    """`0.781 [0.742, 0.815]`; only the value where there is no interval."""
    if record is None or record.get("value") is None:
        return UNDEFINED
    value = format_value(record["value"], digits)
    if record.get("low") is None or record.get("high") is None:
        return value
    return f"{value} [{format_value(record['low'], digits)}, {format_value(record['high'], digits)}]"


def format_count(value: float | None) -> str:
    """An integer with thin groups of three: 11 181 642."""
    return UNDEFINED if value is None else f"{int(value):,}".replace(",", "\u202f")


def format_si(value: float | None) -> str:
    """Parameters for a narrow column: 11.2 M, 850 k, 42."""
    if value is None:
        return UNDEFINED
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{0 if scaled >= 100 else 1}f}\u00a0{unit}"
    return f"{value:.0f}"


def format_ms(value: float | None) -> str:
    """Milliseconds with three significant digits."""
    if value is None:
        return UNDEFINED
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def format_rate(value: float | None) -> str:
    """Images per second."""
    if value is None:
        return UNDEFINED
    return format_count(round(value)) if value >= 10 else f"{value:.1f}"


def format_duration(seconds: float | None) -> str:
    """Seconds as a reader says them: 42 s, 6.5 min, 3.2 h."""
    if seconds is None:
        return UNDEFINED
    if seconds < 90:
        return f"{seconds:.0f}\u00a0s"
    if seconds < 5400:
        return f"{seconds / 60:.1f}\u00a0min"
    return f"{seconds / 3600:.1f}\u00a0h"


def format_p(value: float | None) -> str:
    """A p value, small ones as a bound."""
    if value is None:
        return UNDEFINED
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_share(value: float | None) -> str:
    """A share in per cent."""
    return UNDEFINED if value is None else f"{100 * value:.0f}\u00a0%"


@dataclass(frozen=True)
class Verdict:
    """What the paired comparison says of a model against the best one.

    Attributes:
        word: What stands in the table.
        tone: good, bad, even or open; the table colours and marks by it.
        detail: Difference to the best with its interval and p.
    """

    word: str
    tone: str
    detail: str = ""


_AGAINST_BEST = {
    "better": ("worse", "bad"),
    "better but trivial": ("worse, trivially", "even"),
    "equivalent": ("equivalent", "even"),
    "inconclusive": ("inconclusive", "open"),
    "worse": ("better", "good"),
    "worse but trivial": ("better, trivially", "even"),
}


def verdict_against_best(comparison: Mapping[str, Any] | None, model: str) -> Verdict | None:
    """The verdict of `comparison.json` on a model, seen from that model; None if there is none."""
    pair = pair_with_best(comparison, model)
    if comparison is None:
        return None
    if model == comparison.get("best") and len(comparison.get("models", [])) > 1:
        return Verdict("highest", "good")
    if pair is None:
        return None
    if predict_the_same(comparison, str(comparison["best"]), model):
        return Verdict(f"the same as {comparison['best']}", "even", "no difference in any redrawn group of patients")
    word, tone = _AGAINST_BEST.get(pair["verdict"], (str(pair["verdict"]), "open"))
    difference = {"value": pair["difference"], "low": pair.get("low"), "high": pair.get("high")}
    detail = f"by {format_interval(difference)}, p\u00a0{format_p(pair.get('p_holm'))}"
    return Verdict(word, tone, detail)


def predict_the_same(comparison: Mapping[str, Any] | None, first: str, second: str) -> bool:
    """Whether two models never differ in any resample: one model under two names, not two that are equivalent."""
    rows = {row.get("model"): row for row in (comparison or {}).get("models") or []}
    return second in (rows.get(first, {}).get("tied_with") or [])


_FLIPPED = {
    "better": "worse",
    "worse": "better",
    "better but trivial": "worse but trivial",
    "worse but trivial": "better but trivial",
}


def pair_with_best(comparison: Mapping[str, Any] | None, model: str) -> dict[str, Any] | None:
    """The pair (best, model), turned round if need be: difference = best minus model."""
    return None if comparison is None else pair_of(comparison, str(comparison.get("best")), model)


def pair_of(comparison: Mapping[str, Any], first: str, second: str) -> dict[str, Any] | None:
    """The pair of two models, turned round if need be: difference = first minus second."""
    for pair in comparison.get("pairs") or []:
        if (pair["a"], pair["b"]) == (first, second):
            return dict(pair)
        if (pair["a"], pair["b"]) == (second, first):
            return _turned(pair)
    return None


def _turned(pair: Mapping[str, Any]) -> dict[str, Any]:
    low, high = pair.get("low"), pair.get("high")
    difference = pair["difference"]
    return {
        **pair,
        "a": pair["b"],
        "b": pair["a"],
        "difference": None if difference is None else -difference,
        "low": None if high is None else -high,
        "high": None if low is None else -low,
        "verdict": _FLIPPED.get(pair["verdict"], pair["verdict"]),
    }


def architecture_of(entry: Mapping[str, Any]) -> str:
    """The architecture of a model entry of the study file."""
    return str(entry.get("architecture") or "")


def weights_of(entry: Mapping[str, Any]) -> str:
    """Where the weights of a model entry came from."""
    if entry.get("checkpoint"):
        return "given checkpoint"
    return str(entry.get("weights") or "")
