"""DeLong of prediction tables: the value is the metric's own, the error and the test those of the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from planted import planted

from archbench.auroc_tests import delong_interval, delong_p_value, has_delong, why_delong
from archbench.metrics.scoring import frozen_questions, score
from archbench.registry import METRICS
from archbench.statistics import bootstrap_p_value, difference, estimate, patient_weights

MACRO = METRICS.get("auroc_macro")


def tables(**settings):
    return planted(skill=1.5, rng=1, **settings), planted(skill=1.1, rng=2, **settings)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_it_agrees_with_the_patient_bootstrap(seeds):
    a, b = tables(patients=400, folds=2, seeds=seeds)
    drawn = patient_weights(a.patient_id, strata=a.fold, resamples=2000, seed=0)
    questions = frozen_questions(a, MACRO)
    ours, other = (score(rows, MACRO, drawn.patients, drawn.weights, questions) for rows in (a, b))
    value, low, high = delong_interval(a, MACRO, questions, 0.95)
    by_bootstrap = estimate(type(ours)(ours.points.mean(keepdims=True), ours.mean_draws[None]), confidence=0.95)
    assert value == pytest.approx(ours.point, abs=1e-12)
    assert high - low == pytest.approx(by_bootstrap.high - by_bootstrap.low, rel=0.12)
    gap = difference(ours, other)
    paired = type(gap)(gap.points.mean(keepdims=True), gap.mean_draws[None])
    assert delong_p_value(a, b, MACRO, questions) == pytest.approx(bootstrap_p_value(paired), abs=0.02)


def test_a_table_equals_itself_and_nothing_is_undefined_silently():
    a, _ = tables(patients=200)
    questions = frozen_questions(a, MACRO)
    assert delong_p_value(a, a, MACRO, questions) == 1.0
    few, _ = tables(patients=60)  # some fold has a class of one patient, whose variance nobody knows
    assert np.isnan(delong_p_value(few, few, MACRO, questions))
    assert np.isnan(delong_interval(a, MACRO, np.zeros(5, bool), 0.95)).all()


def test_when_it_stands_in():
    a, _ = tables(patients=20)
    assert has_delong(MACRO, a) and not has_delong(METRICS.get("qwk"), a)
    assert "29 patients" in str(why_delong(0.8, 29)) and "above 0.95" in str(why_delong(0.97, 200))
    assert why_delong(0.8, 30) is None and why_delong(float("nan"), 100) is None
