"""Lines of least log loss: found from anywhere, whatever the logits look like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archbench.label_lines import LabelLines


def lines_of(seed: int, *, scale: float, outlier: float) -> LabelLines:
    """Three labels of 80 cases, one rare, some cells unknown, one logit far out."""
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(80, 3)) + [-3.0, 0.0, 2.0]
    targets = (generator.random((80, 3)) < 1 / (1 + np.exp(-logits / scale))).astype(float)
    targets[3:, 0] = 0.0
    targets[generator.random((80, 3)) < 0.1] = np.nan
    logits[0, 1] += outlier
    return LabelLines(logits, targets)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.1, 1.0, 8.0]), st.sampled_from([0.0, 50.0, -3000.0]), st.booleans())
def test_the_loss_is_flat_where_the_search_ends(seed: int, scale: float, outlier: float, far: bool) -> None:
    lines = lines_of(seed, scale=scale, outlier=outlier)
    begun = (np.array([4.0, -1.0, 0.0]), np.array([-6.0, 3.0, 0.0])) if far else lines.start
    slope, intercept = lines.fit(*begun, centre=0.5, strength=2.0)
    of_slope, of_intercept, ss, _, ii = lines.derivatives(slope, intercept)
    np.testing.assert_allclose((of_slope + 2.0 * (slope - 0.5)) / np.sqrt(ss + 2.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(of_intercept / np.sqrt(ii), 0.0, atol=1e-6)


@given(st.integers(0, 99), st.sampled_from([0.0, -3000.0]))
@settings(max_examples=10, deadline=None)
def test_tied_labels_share_the_slope_at_which_their_losses_balance(seed: int, outlier: float) -> None:
    lines = lines_of(seed, scale=2.0, outlier=outlier)
    slope, intercept = lines.fit(np.full(3, 3.0), np.zeros(3), tied=True)
    of_slope, of_intercept, ss, _, ii = lines.derivatives(slope, intercept)
    assert np.ptp(slope) == pytest.approx(0.0, abs=1e-12)
    assert of_slope.sum() / np.sqrt(ss.sum()) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(of_intercept / np.sqrt(ii), 0.0, atol=1e-6)


def test_derivatives_are_those_of_the_loss() -> None:
    lines = lines_of(1, scale=1.0, outlier=0.0)
    slope, intercept, h, everyone = np.array([0.3, 1.0, -0.5]), np.array([0.2, -1.0, 0.0]), 1e-4, np.arange(3)
    values = lines.derivatives(slope, intercept)
    up, here, down = (lines.losses(slope + d, intercept, everyone) for d in (h, 0.0, -h))
    np.testing.assert_allclose(values[0], (up - down) / (2 * h), rtol=1e-5)
    np.testing.assert_allclose(values[2], (up - 2 * here + down) / h**2, rtol=1e-3)
    up, down = (lines.losses(slope, intercept + d, everyone) for d in (h, -h))
    np.testing.assert_allclose(values[1], (up - down) / (2 * h), rtol=1e-5)
    np.testing.assert_allclose(values[4], (up - 2 * here + down) / h**2, rtol=1e-3)


@pytest.mark.parametrize("column", [[0.0] * 6, [2.0] * 6, [np.nan] * 6])
def test_labels_that_say_nothing_get_a_finite_line(column: list[float]) -> None:
    targets = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0]) if not np.isnan(column[0]) else np.full(6, np.nan)
    lines = LabelLines(np.nan_to_num(column).reshape(-1, 1), targets[:, None])
    slope, intercept = lines.fit(*lines.start)
    assert np.isfinite([slope, intercept]).all()
