"""What a task predicts, and what is reported for it: names only, so that nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archbench.registry import suggest

Outputs = Literal["classes", "labels", "zones", "value"]


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
            one softmax per zone, logits in C order of (zone, class); value: a number in the target's unit.
        laterality: Left and right mean different things, so mirroring is off unless the study asks for it.
    """

    name: str
    primary: str
    metrics: tuple[str, ...]
    default_loss: str
    decision: str
    outputs: Outputs = "classes"
    laterality: bool = False


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
}


def get_task(name: str) -> Task:
    """Return a task by name; an unknown one raises ValueError with the known names."""
    if name not in TASKS:
        raise ValueError(f"unknown task '{name}'{suggest(name, list(TASKS))} (known: {', '.join(TASKS)})")
    return TASKS[name]
