"""From logits to what people read: members combined, probabilities, calibration, decisions. NumPy only.

Shapes: N cases, M members, K logits, L labels or zones. Labels have one logit each; zones have the logits of all
classes one zone after the other, the last class, ungradable, never being called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
UNGRADABLE = "Ungradable"
UNSCORED_LOGIT = -30.0


def log_softmax(logits: Array) -> Array:
    """Return log probabilities over the last axis, float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def sigmoid(logits: Array) -> Array:
    """Return probabilities of log odds, float64."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))))


@dataclass(frozen=True)
class Task:
    """What the logits of a bundle mean.

    Attributes:
        outputs: classes (one softmax), labels (one sigmoid each), zones (one softmax each) or value.
        classes: Class names; of a zone, Ungradable last. Empty for labels and a value.
        labels: Names of labels or zones, or the one name of the target.
        decision: argmax, or expected_grade: the mean grade rounded.
    """

    outputs: str
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    decision: str

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the classes that may be called."""
        return tuple(name for name in self.classes if self.outputs != "zones" or name != UNGRADABLE)

    def groups(self, logits: Array) -> list[Array]:
        """Return one table of class logits per label or zone, (..., K) -> (..., K'); others give themselves."""
        if self.outputs == "labels":
            return [np.stack([np.zeros(one.shape), one], axis=-1) for one in np.moveaxis(logits, -1, 0)]
        if self.outputs == "zones":
            width = len(self.classes)
            columns = [k for k, name in enumerate(self.classes) if name in self.scored]
            return [logits[..., [g * width + k for k in columns]] for g in range(len(self.labels))]
        return [logits]

    def joined(self, tables: Sequence[Array]) -> Array:
        """Return logits (N, K) of one table of log probabilities per label or zone: the way back from `groups`."""
        if self.outputs == "labels":
            return np.stack([table[..., 1] - table[..., 0] for table in tables], axis=-1)
        if self.outputs != "zones":
            return tables[0]
        width = len(self.classes)
        result = np.full((len(tables[0]), width * len(self.labels)), UNSCORED_LOGIT)
        columns = [k for k, name in enumerate(self.classes) if name in self.scored]
        for g, table in enumerate(tables):
            result[:, [g * width + k for k in columns]] = table
        return result

    def probabilities(self, logits: Array) -> Array:
        """Return probabilities: (N, K) of classes, (N, L) of labels, (N, L, K') of zones; values as they are."""
        if self.outputs == "labels":
            return sigmoid(logits)
        if self.outputs == "zones":
            return np.stack([np.exp(log_softmax(table)) for table in self.groups(logits)], axis=1)
        return logits.astype(np.float64) if self.outputs == "value" else np.exp(log_softmax(logits))

    def called(self, probabilities: Array) -> Array:
        """Return the class that each case (or zone) is called by the decision rule, probabilities (..., K)."""
        if self.decision == "expected_grade":
            return np.rint(probabilities @ np.arange(probabilities.shape[-1])).astype(np.int64)
        return probabilities.argmax(axis=-1)


def combine(logits: Array, combination: Mapping[str, Any], task: Task) -> Array:
    """Return the ensemble's logits, (N, M, K) -> (N, K).

    Args:
        logits: Of each member.
        combination: Its kind with what was fitted, per label or zone where these are fitted apart; `fallback` names
            the labels or zones that one member alone answers.
    Raises:
        ValueError: If the kind of combination is unknown.
    """
    result = _combined(logits, combination, task)
    fallback = combination.get("fallback")
    if fallback is None:
        return result
    tables, own = task.groups(result), task.groups(logits[:, fallback["member"]])
    for group in fallback["groups"]:
        tables[group] = log_softmax(own[group])
    return task.joined(tables)


def _combined(logits: Array, combination: Mapping[str, Any], task: Task) -> Array:
    kind = combination["kind"]
    if kind == "single":
        return np.asarray(logits[:, 0])
    if kind == "mean":
        if task.outputs == "value":
            return np.asarray(logits.astype(np.float64).mean(axis=1))
        return task.joined([_log_mean(table) for table in task.groups(logits)])
    if kind == "logistic":
        tables = zip(task.groups(logits), combination["fits"], strict=True)
        return task.joined([_stacked(table, fit) for table, fit in tables])
    if kind not in _SCORES:
        known = ", ".join(("single", "mean", "logistic", *_SCORES))
        raise ValueError(f"the bundle combines its members by {kind!r}; known are {known}")
    if task.outputs == "labels":
        return _SCORES[kind](logits.astype(np.float64), combination["fits"][0])
    tables = zip(task.groups(logits), combination["fits"], strict=True)
    return task.joined([log_softmax(_SCORES[kind](log_softmax(table), fit)) for table, fit in tables])


def _weighted(scores: Array, fit: Mapping[str, Any]) -> Array:
    """Weighted sum of the members' log odds or log probabilities, (N, M, K') -> (N, K'), and an intercept."""
    return np.asarray(np.einsum("nmk,mk->nk", scores, np.array(fit["weights"])) + fit["intercept"])


def _standardised(scores: Array, fit: Mapping[str, Any]) -> Array:
    """All members' scores of a case side by side, standardised, (N, M, K') -> (N, M K')."""
    return np.asarray((scores.reshape(len(scores), -1) - np.array(fit["centre"])) / np.array(fit["scale"]))


def _attended(scores: Array, fit: Mapping[str, Any]) -> Array:
    """Mean of the members' scores with weights that depend on the case, (N, M, K') -> (N, K')."""
    features = np.column_stack([_standardised(scores, fit), np.ones(len(scores))])
    attention = np.exp(log_softmax(features @ np.array(fit["coefficients"])))
    return np.asarray(np.einsum("nmk,nm->nk", scores, attention))


def _through_layers(scores: Array, fit: Mapping[str, Any]) -> Array:
    """A small network on the members' scores, ReLU between its layers, (N, M, K') -> (N, K')."""
    values, last = _standardised(scores, fit), sum(name.startswith("weights") for name in fit) - 1
    for k in range(last + 1):
        values = values @ np.array(fit[f"weights{k}"]) + np.array(fit[f"bias{k}"])
        values = values if k == last else np.maximum(values, 0.0)
    return np.asarray(values)


_SCORES: dict[str, Callable[[Array, Mapping[str, Any]], Array]] = {
    "linear": _weighted,
    "attention": _attended,
    "network": _through_layers,
}


def _log_mean(logits: Array) -> Array:
    """Logarithm of the members' mean probability, (N, M, K') -> (N, K')."""
    each = log_softmax(logits)
    largest = each.max(axis=1, keepdims=True)
    return np.asarray((largest + np.log(np.exp(each - largest).mean(axis=1, keepdims=True)))[:, 0])


def _stacked(logits: Array, fit: Mapping[str, Any]) -> Array:
    """Log odds = slope * mean of log probabilities + standardised logits @ coefficients + intercept."""
    wide = logits.astype(np.float64)
    features = (wide - wide.mean(axis=2, keepdims=True)).reshape(len(wide), -1)
    standardised = (features - np.array(fit["centre"])) / np.array(fit["scale"])
    uniform = log_softmax(logits).mean(axis=1)
    coefficients, intercept = np.array(fit["coefficients"]), np.array(fit["intercept"])
    return log_softmax(float(fit["slope"]) * uniform + standardised @ coefficients + intercept)


def calibrated(logits: Array, calibration: Mapping[str, Any], task: Task) -> Array | None:
    """Return calibrated probabilities, shaped as `Task.probabilities` says; None where nothing was fitted.

    Raises:
        ValueError: If the method is unknown.
    """
    method = calibration["method"]
    if method == "none":
        return None
    if method == "temperature":
        divisor = np.array(calibration["temperature"], dtype=np.float64)  # one, or one per zone
        per_logit = np.repeat(divisor, len(task.classes)) if task.outputs == "zones" else divisor
        return task.probabilities(logits / per_logit)
    if method in ("platt", "isotonic"):
        odds = np.array(calibration["slope"]) * logits.astype(np.float64) + np.array(calibration["intercept"])
        for label, corners in enumerate(calibration.get("steps", ())):  # a label without steps keeps its line
            if corners is not None:
                odds[:, label] = np.interp(logits[:, label], *corners)
        return sigmoid(odds)
    raise ValueError(f"the bundle is calibrated by {method!r}; known are none, temperature, platt and isotonic")


def present(logits: Array, thresholds: Mapping[str, Any]) -> Array:
    """Return which labels are called present, boolean (N, L): raw log odds at or above each label's threshold."""
    return np.asarray(logits >= np.array(thresholds["log_odds"]))


def grades_at_cuts(calibrated: Array, cuts: Sequence[float]) -> Array:
    """Return the grade of each case by where its calibrated mean grade lies between the cut points, (N, K) -> (N,)."""
    expected = calibrated @ np.arange(calibrated.shape[1])
    return np.asarray(np.searchsorted(np.array(cuts), expected, side="right"))
