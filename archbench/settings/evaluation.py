"""Sections `protocol`, `ensemble` and `evaluation`: who is tested, what is combined, and how it is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archbench.settings.base import Name, Settings


class Protocol(Settings):
    """Who is trained on, validated on and tested on."""

    kind: Literal["cross_validation", "holdout", "given"] = Field(
        "cross_validation", description="Folds by patient, one split by patient, or the source's own folds."
    )
    folds: int = Field(5, ge=2, le=50, description="Folds (cross_validation, or a given fold column).")
    validation_fraction: float = Field(
        0.15, gt=0, lt=0.5, description="Share of the patients outside the test part that stops training."
    )
    test_fraction: float = Field(0.2, gt=0, lt=0.5, description="Share of the patients that is tested (holdout).")
    seeds: list[int] = Field(
        default=[42], min_length=1, description="Training seeds; each fold is trained once per seed."
    )
    split_seed: int = Field(42, ge=0, description="Seed of the split, shared by all training seeds.")


class StackingNetwork(Settings):
    """Training of the candidate mlp; one group of patients chooses the epoch."""

    hidden: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default=[256, 128], min_length=1, max_length=4, description="Units of each hidden layer."
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of hidden units left out in training.")
    epochs: int = Field(20, ge=1, description="Epochs at most.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of Adam.")
    plateau: int = Field(3, ge=1, description="Epochs without a better validation loss after which lr is halved.")
    patience: int = Field(7, ge=1, description="Epochs without one after which training ends.")
    batch_size: int = Field(32, ge=1, description="Cases per step.")


class Ensemble(Settings):
    """What is tried on the models' out-of-fold predictions."""

    candidates: list[Literal["mean", "calibrated_mean", "weighted", "greedy", "logistic", "attention", "mlp"]] = Field(
        default=["mean", "calibrated_mean", "logistic"],
        description="Tried from simple to complex, in any order here; an empty list switches the ensemble off.",
    )
    members: list[str] | None = Field(None, description="Models of this study to combine; default: all.")
    external: dict[Name, str] = Field(
        default_factory=dict,
        description="Members from other studies by name: a prediction table (predictions.parquet), the folder of a "
        "model, or a study's folder, where the model of this name is taken. Same cases and folds by patient.",
    )
    mlp: StackingNetwork = Field(default_factory=StackingNetwork)


class Thresholds(Settings):
    """How the thresholds of labels are chosen, always on other patients."""

    rule: Literal["f1", "youden", "sensitivity", "specificity", "cost"] = Field(
        "f1",
        description="Highest F1; highest sensitivity + specificity; the best specificity at a sensitivity of `value`, "
        "or the other way round; least cost, a missed positive as dear as `value` false alarms.",
    )
    value: float | None = Field(None, gt=0, description="Sensitivity or specificity to hold, or cost of a miss.")
    few_positive_patients: int = Field(
        25, ge=1, description="Positive patients below which a label takes the threshold of all labels."
    )


class Evaluation(Settings):
    """Intervals, comparisons, and what is fitted on other patients: calibration, thresholds, sets."""

    resamples: int = Field(2000, ge=200, description="Patient bootstrap draws for intervals.")
    comparison_resamples: int = Field(10000, ge=200, description="Draws for tests and ranks.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals.")
    delta: float | None = Field(
        None, gt=0, description="Margin of equivalence; default .01 (AUROC, Dice), .02 (QWK, others)."
    )
    clinical_cut: int = Field(2, ge=1, description="Class index from which a case counts as referable (ordinal).")
    thresholds: Thresholds = Field(default_factory=Thresholds)
    isotonic: bool = Field(
        False, description="Labels with enough patients are calibrated by isotonic steps instead of Platt's line."
    )
    isotonic_patients: int = Field(
        100, ge=10, description="Positive and negative patients that a label needs for isotonic steps."
    )
    conformal_coverage: float | None = Field(
        0.9, gt=0, lt=1, description="Chance with which prediction sets are to hold the truth; null makes none."
    )
    seed: int = Field(0, ge=0, description="Seed of the draws.")
