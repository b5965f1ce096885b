"""The rule of adoption, fallback per label, and signs of a wrong stack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planted_labels import LABELS, planted_labels

from archbench.adoption import adopt, label_fallback
from archbench.ensemble_diagnostics import member_problems, permuted_labels
from archbench.members import stack_members
from archbench.metrics.scoring import Scores


def scores(point, *, spread=0.01, rng=0, shared=0):
    """One seed; draws share the noise of `shared`, so that differences are paired."""
    noise = 0.05 * np.random.default_rng(shared).normal(size=500) + spread * np.random.default_rng(rng).normal(size=500)
    return Scores(points=np.array([point]), draws=(point + noise)[None, :])


def test_a_clear_gain_is_adopted_and_an_unclear_one_is_not():
    found = adopt(
        [("base", scores(0.70)), ("mean", scores(0.75, rng=1)), ("greedy", scores(0.755, rng=2))],
        greater_is_better=True,
        metric="auroc",
    )
    assert found.choice == "mean" and [trial.adopted for trial in found.trials] == [True, True, False]
    assert found.trials[2].against == "mean" and found.trials[1].gain.value == pytest.approx(0.05)
    assert "mean was adopted over base" in found.reason and "simpler one stays" in found.reason


def test_a_loss_is_better_when_smaller():
    found = adopt([("base", scores(0.70)), ("mean", scores(0.60, rng=1))], greater_is_better=False, metric="log_loss")
    assert found.choice == "mean"
    with pytest.raises(ValueError, match="no candidates"):
        adopt([], greater_is_better=True, metric="auroc")


def test_an_undefined_candidate_is_not_adopted():
    nothing = Scores(points=np.array([np.nan]), draws=np.full((1, 500), np.nan))
    found = adopt([("base", scores(0.7)), ("mean", nothing)], greater_is_better=True, metric="auroc")
    assert found.choice == "base" and "no interval" in found.reason


def test_only_a_label_that_is_surely_worse_falls_back():
    base = {"good": scores(0.7), "unclear": scores(0.7), "bad": scores(0.7), "empty": scores(0.7)}
    nothing = Scores(points=np.array([np.nan]), draws=np.full((1, 500), np.nan))
    chosen = {"good": scores(0.8, rng=1), "unclear": scores(0.695, rng=2), "bad": scores(0.6, rng=3), "empty": nothing}
    found = label_fallback("mean", "m0", chosen=chosen, base=base, greater_is_better=True, metric="auroc")
    assert [item.choice for item in found] == ["mean", "mean", "m0", "mean"]
    assert "worse here" in found[2].reason and "no interval" in found[3].reason


def problems(*tables, aurocs):
    named = {f"m{k}": replace(table, metadata={"outputs": "labels"}) for k, table in enumerate(tables)}
    values = np.array(aurocs)
    return member_problems(
        stack_members(named), members=list(named), classes=LABELS, values=values, metric="auroc_macro"
    )


def test_a_permuted_label_order_is_flagged_and_only_there():
    first, second = planted_labels(noise=0.5, rng=1, unknown=0.2), planted_labels(noise=0.5, rng=2, unknown=0.2)
    assert problems(first, second, aurocs=[0.8, 0.8]) == []
    second.logits[:] = second.logits[:, [1, 0, 2, 3]]
    found = problems(first, second, aurocs=[0.8, 0.7])
    assert len(found) == 1 and found[0].startswith("m1") and "edema -> effusion, effusion -> edema" in found[0]
    assert permuted_labels(second.logits, second.targets) == [1, 0, 2, 3]


def test_two_swapped_labels_of_fourteen_are_found():
    labels = tuple("abcdefghijklmn")
    rows = planted_labels(noise=0.5, labels=labels, patients=300)
    assert permuted_labels(rows.logits, rows.targets) is None
    order = np.arange(14)
    order[[4, 9]] = 9, 4
    assert permuted_labels(rows.logits[:, order], rows.targets) == order.tolist()


def test_shuffled_rows_and_another_scale_are_flagged():
    first, second = planted_labels(noise=0.5, rng=1), planted_labels(noise=0.5, rng=2)
    second.logits[:] = second.logits[np.random.default_rng(0).permutation(len(second))]
    found = problems(first, second, aurocs=[0.8, 0.51])
    assert len(found) == 1 and "suspect row order" in found[0]
    third = planted_labels(noise=0.5, rng=3, slope=0.01)
    found = problems(first, planted_labels(noise=0.5, rng=2), third, aurocs=[0.8, 0.8, 0.8])
    assert len(found) == 1 and "suspect its scale" in found[0] and "m2" in found[0]
