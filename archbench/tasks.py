"""What a task predicts, and what is reported for it: names only, so that nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from archbench.registry import suggest

Outputs = Literal["classes", "labels", "zones", "value", "masks"]
LINKS: dict[str, str] = {
    "classes": "softmax",
    "labels": "sigmoid",
    "zones": "softmax",
    "value": "identity",
    "masks": "softmax",
}
UNGRADABLE = "Ungradable"
BACKGROUND = "background"


@dataclass(frozen=True)
class Task:
    """One kind of prediction.

    Attributes:
        name: Name in a study file.
        primary: Metric that ranks models and stops training.
        metrics: All reported metrics, in the order of the report.
        default_loss: Loss when the study names none.
        decision: How probabilities become a class: argmax, or expected_grade (ordered classes).
        outputs: What the logits are. classes: one softmax over the classes; labels: one sigmoid per label; zones:
            one softmax per zone, logits in C order of (zone, class); value: a number in the target's unit; masks: one
            softmax per pixel over the background and the structures, which are the labels.
        laterality: Left and right mean different things, so mirroring is off unless the study asks for it.
    """

    name: str
    primary: str
    metrics: tuple[str, ...]
    default_loss: str
    decision: str
    outputs: Outputs = "classes"
    laterality: bool = False

    @property
    def link(self) -> str:
        """How logits become scores: softmax, sigmoid or identity."""
        return LINKS[self.outputs]

    def logit_names(self, classes: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the K logit columns of a dataset with these classes and labels (or zones)."""
        if self.outputs == "classes":
            return tuple(classes)
        if self.outputs == "zones":
            return tuple(f"{zone}:{name}" for zone in labels for name in classes)
        return (BACKGROUND, *labels) if self.outputs == "masks" else tuple(labels)

    def table_metadata(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return what a prediction table says of its outputs; nothing where one softmax over classes is meant."""
        if self.outputs == "classes":
            return {}
        return {"outputs": self.outputs, "class_names": list(classes) if self.outputs == "zones" else []}


MULTILABEL_METRICS = (
    *("auroc_macro", "auprc_macro", "auroc_micro", "auprc_micro", "f1_macro", "f1_micro", "precision_macro"),
    *("precision_micro", "recall_macro", "recall_micro", "specificity_macro", "hamming_accuracy", "exact_match"),
    *("positive_rate", "labels_per_case", "log_loss", "brier"),
)
ZONE_METRICS = (
    *("macro_f1", "weighted_f1", "accuracy", "qwk", "auroc_macro", "auprc_macro", "score_mae", "score_rmse"),
    *("score_pearson", "risk_accuracy", "risk_qwk", "log_loss", "brier"),
)

TASKS: dict[str, Task] = {
    "ordinal": Task(
        name="ordinal",
        primary="qwk",
        metrics=(
            "qwk",
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "macro_mae",
            "off_by_two",
            "auroc_macro",
            "auroc_clinical_cut",
            "log_loss",
            "brier",
        ),
        default_loss="weighted_cross_entropy",
        decision="expected_grade",
    ),
    "multiclass": Task(
        name="multiclass",
        primary="auroc_macro",
        metrics=("auroc_macro", "accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier"),
        default_loss="weighted_cross_entropy",
        decision="argmax",
    ),
    "multilabel": Task(
        name="multilabel",
        primary="auroc_macro",
        metrics=MULTILABEL_METRICS,
        default_loss="bce",
        decision="argmax",
        outputs="labels",
        laterality=True,
    ),
    "zones": Task(
        name="zones",
        primary="macro_f1",
        metrics=ZONE_METRICS,
        default_loss="weighted_cross_entropy",
        decision="argmax",
        outputs="zones",
        laterality=True,
    ),
    "regression": Task(
        name="regression",
        primary="mae",
        metrics=("mae", "rmse", "pearson", "r2"),
        default_loss="mse",
        decision="argmax",
        outputs="value",
    ),
    "segmentation": Task(
        name="segmentation",
        primary="dice",
        metrics=("dice", "iou", "sensitivity", "specificity", "hd95_mm", "surface_dice"),
        default_loss="dice_ce",
        decision="argmax",
        outputs="masks",
        laterality=True,
    ),
}


def get_task(name: str) -> Task:
    """Return a task by name; an unknown one raises ValueError with the known names."""
    if name not in TASKS:
        raise ValueError(f"unknown task '{name}'{suggest(name, list(TASKS))} (known: {', '.join(TASKS)})")
    return TASKS[name]
