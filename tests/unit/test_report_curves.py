"""Bands of ROC and precision-recall curves: the same curves as of rows repeated one by one."""

from __future__ import annotations

import numpy as np
import pytest
from report_fixtures import write_study
from sklearn.metrics import precision_recall_curve, roc_curve
from synthetic_study import GRADES, SyntheticStudy

from archbench.artifacts import read_predictions
from archbench.report.collect import collect_study
from archbench.report.curve_bands import question_draws, read_bands
from archbench.report.curves import RECALL_GRID, groups, questions_of, read_precision_recall
from archbench.report.figures import drawn_svg
from archbench.report.panels import dataset_panels
from archbench.statistics import patient_weights


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    spec = SyntheticStudy(label="curves", gradcam=False, timing=False, n_patients=60, folds=2)
    return write_study(tmp_path_factory.mktemp("curves"), spec)


def test_a_draw_is_the_curve_of_its_rows_repeated(tree):
    test = read_predictions(tree[1] / "fundus" / "custom1" / "predictions.parquet").test
    drawn = patient_weights(test.patient_id, strata=test.fold, resamples=5, seed=3)
    (question,) = questions_of(test)["Moderate"]
    roc, precision = question_draws([question], drawn.patients, drawn.weights)
    times = drawn.weights[:, np.searchsorted(drawn.patients, test.patient_id.astype(str))]
    for draw in range(5):
        rates, precisions = [], []
        for rows in groups(test):
            y_true = np.repeat(question.positive[rows], times[draw][rows])
            y_score = np.repeat(question.score[rows], times[draw][rows])
            fpr, tpr, _ = roc_curve(y_true, y_score, drop_intermediate=False)
            highest = dict(zip(fpr, tpr, strict=True))  # the last of equal rates is the highest
            rates.append(np.interp(RECALL_GRID, list(highest), list(highest.values())) * (RECALL_GRID > 0))
            found, recall, _ = precision_recall_curve(y_true, y_score)
            precisions.append([found[:-1][recall[:-1] >= g - 1e-12].max() for g in RECALL_GRID])
        np.testing.assert_allclose(roc[draw], np.mean(rates, axis=0), atol=1e-12)
        np.testing.assert_allclose(precision[draw], np.mean(precisions, axis=0), atol=1e-12)


def test_bands_hold_the_curve_that_is_drawn(tree):
    path = tree[1] / "fundus" / "custom1" / "predictions.parquet"
    bands, curves = read_bands(path, confidence=0.95), read_precision_recall(path)
    assert set(bands) == set(curves) == set(GRADES)
    for name, band in bands.items():
        low, high = (np.array(band["precision_recall"][key]) for key in ("low", "high"))
        precision = np.array(curves[name]["precision"])
        assert ((low - 0.02 <= precision) & (precision <= high + 0.02)).mean() > 0.9
        assert (low <= high).all() and band["roc"]["high"][0] == 0.0


def test_the_best_model_is_drawn_with_its_band(tree):
    configuration, results = tree
    dataset = collect_study(configuration=configuration, results=results).datasets[0]
    for panel in (dataset_panels(dataset).roc[0], dataset_panels(dataset).precision_recall[0]):
        assert "FillBetweenPolyCollection" in drawn_svg(panel) or "PolyCollection" in drawn_svg(panel)


def test_no_table_no_band(tmp_path):
    assert read_bands(tmp_path / "predictions.parquet", confidence=0.95) == {}
