"""Retraining claims, critical differences and ties: against hand values, SciPy and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from archbench.significance import TooFewDatasets, critical_difference, nadeau_bengio, tied_with


def test_nadeau_bengio_by_hand():
    values = np.array([[0.02, 0.04], [0.01, 0.01], [0.05, 0.03], [0.00, 0.02], [0.03, 0.03]])
    found = nadeau_bengio(values, test_share=0.25, confidence=0.95)
    by_fold = np.array([0.03, 0.01, 0.04, 0.01, 0.03])
    error = np.sqrt((1 / 5 + 0.25) * by_fold.var(ddof=1))
    assert found.difference == pytest.approx(0.024) and found.standard_error == pytest.approx(error)
    assert found.p == pytest.approx(2 * stats.t.sf(0.024 / error, 4))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 4, loc=0.024, scale=error))


def test_without_the_correction_it_is_the_paired_t_test():
    values = np.random.default_rng(0).normal(0.01, 0.02, size=(10, 1))
    found = nadeau_bengio(values, test_share=0.0, confidence=0.95)
    assert found.p == pytest.approx(stats.ttest_1samp(values[:, 0], 0.0).pvalue)


def test_one_fold_has_no_test_and_no_difference_has_p_one():
    assert np.isnan(nadeau_bengio(np.array([[0.1, 0.2]]), test_share=0.25, confidence=0.95).p)
    assert nadeau_bengio(np.zeros((5, 2)), test_share=0.25, confidence=0.95).p == 1.0


def test_critical_difference_of_demsars_example():
    """Table 6 of Demsar (2006): 14 data sets, 4 classifiers, CD 1.25 at .05."""
    found = critical_difference(demsar(), greater_is_better=True)
    expected = {"C4.5+m+cf": 1.964, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert {name: round(rank, 3) for name, rank in found.mean_ranks.items()} == expected
    assert found.difference == pytest.approx(1.25, abs=0.005)
    assert found.p == pytest.approx(stats.f.sf(3.69, 3, 39), abs=5e-4)
    assert found.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)


def demsar():
    rows = """.763 .768 .771 .798|.599 .591 .590 .569|.954 .971 .968 .967|.628 .661 .654 .657|.882 .888 .886 .898
        .936 .931 .916 .931|.661 .668 .609 .685|.583 .583 .563 .625|.775 .838 .866 .875|1.00 1.00 1.00 1.00
        .940 .962 .965 .962|.619 .666 .614 .669|.972 .981 .9751 .975|.957 .978 .946 .970"""
    table = np.array([line.split() for line in rows.replace("\n", "|").split("|")], dtype=float)
    return dict(zip(("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"), table.T, strict=True))


def test_it_agrees_with_scipys_friedman_test_and_ignores_the_scale():
    generator = np.random.default_rng(1)
    values = {f"m{k}": generator.normal(0.1 * k, 1.0, size=12) for k in range(5)}
    found = critical_difference(values, greater_is_better=True)
    chi = stats.friedmanchisquare(*values.values()).statistic
    assert found.p == pytest.approx(stats.f.sf(11 * chi / (12 * 4 - chi), 4, 44))
    turned = critical_difference({name: -np.exp(v) for name, v in values.items()}, greater_is_better=False)
    assert turned.mean_ranks == found.mean_ranks


def test_a_planted_order_is_told_apart():
    generator = np.random.default_rng(2)
    values = {f"m{k}": 0.9 - 0.1 * k + 0.01 * generator.random(20) for k in range(3)}
    found = critical_difference(values, greater_is_better=True)
    assert list(found.mean_ranks) == ["m0", "m1", "m2"] and found.groups == () and found.p < 1e-6


def test_fewer_than_eight_datasets_are_refused_with_the_reason():
    with pytest.raises(TooFewDatasets, match=r"7 data sets.*at least 8.*power"):
        critical_difference({"a": np.zeros(7), "b": np.ones(7)}, greater_is_better=True)
    with pytest.raises(ValueError, match="defined value"):
        critical_difference({"a": np.full(8, np.nan), "b": np.ones(8)}, greater_is_better=True)


def test_only_identical_models_are_tied():
    draws = np.random.default_rng(0).normal(size=50)
    draws[3] = np.nan
    close = draws + np.where(np.arange(50) == 7, 1e-6, 0.0)
    found = tied_with({"best": draws, "ensemble": draws.copy(), "close": close})
    assert found == {"best": ["ensemble"], "ensemble": ["best"], "close": []}
