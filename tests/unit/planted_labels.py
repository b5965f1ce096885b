"""Multilabel prediction tables with known truth: patients with several images, masked labels, planted skill."""

from __future__ import annotations

import numpy as np
from planted import table

from archbench.artifacts import Predictions
from archbench.out_of_fold import OutOfFold, out_of_fold

LABELS = ("edema", "effusion", "nodule", "fracture")


def truth_of(*, patients=200, images=2, labels=LABELS, prevalence=None, rng=0):
    """Patient of each case (N,) and true log odds (N, L); labels of one patient resemble each other."""
    generator = np.random.default_rng(rng)
    owner = np.repeat(np.arange(patients), images)
    base = np.linspace(0.5, 0.15, len(labels)) if prevalence is None else np.asarray(prevalence)
    spread = generator.normal(size=(patients, len(labels)))[owner] + 0.5 * generator.normal(
        size=(len(owner), len(labels))
    )
    return owner, np.log(base / (1 - base)) + 1.5 * spread


def planted_labels(
    *,
    noise=1.0,
    slope=1.0,
    shift=0.0,
    unknown=0.0,
    rng=1,
    folds=5,
    seeds=(1,),
    split="test",
    labels=LABELS,
    **settings,
) -> Predictions:
    """Cross-validation table of a model whose logits are slope * (true log odds + noise) + shift.

    Targets are drawn from the true log odds and are the same for every `rng`.
    """
    owner, odds = truth_of(labels=labels, **settings)
    n = len(owner)
    drawn = np.random.default_rng(12345)
    targets = (drawn.random(odds.shape) < 1.0 / (1.0 + np.exp(-odds))).astype(float)
    targets[drawn.random(odds.shape) < unknown] = np.nan
    logits = []
    for seed in seeds:
        generator = np.random.default_rng([rng, seed])
        logits.append(slope * (odds + noise * generator.normal(size=odds.shape)) + shift)
    count = len(seeds)
    fold = (np.arange(owner.max() + 1) % folds)[owner]
    rows = table(
        np.tile([f"case{i:05d}" for i in range(n)], count),
        np.tile([f"patient{i:05d}" for i in owner], count),
        np.tile(fold, count),
        np.zeros(n * count),
        np.concatenate(logits),
        seed=np.repeat(seeds, n),
        split=split,
        classes=labels,
    )
    return Predictions(
        **{
            **{name: getattr(rows, name) for name in ("case_id", "patient_id", "split", "fold", "seed", "logits")},
            "targets": np.tile(targets, (count, 1)),
            "classes": tuple(labels),
            "labels": tuple(labels),
        }
    )


def halves(predictions: Predictions, *, of_five: int = 1) -> tuple[OutOfFold, Predictions]:
    """Out-of-fold rows of the later folds to fit on, and the rows of the first ones to apply to."""
    applied = predictions.fold < of_five
    return out_of_fold(predictions.select(~applied)), predictions.select(applied)
