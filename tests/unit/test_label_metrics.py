"""Metrics of labels, zones and numbers: against scikit-learn, by hand, resampled, and undefined where they are."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from label_tables import GRADES, LABELS, label_table, zone_table
from sklearn import metrics as sklearn_metrics

from archbench.artifacts import Predictions, softmax
from archbench.evaluation import evaluate
from archbench.metrics import scoring
from archbench.metrics.scoring import frozen_classes, score, validation_value
from archbench.metrics.views import risk_class, risk_view, score_view, view_of
from archbench.registry import METRICS
from archbench.resampling import average_precision
from archbench.statistics import patient_weights
from archbench.tasks import TASKS

EXACT = {"rtol": 0, "atol": 1e-12}


def run(table: Predictions, task: str, **changes) -> dict:
    settings = {"resamples": 200, "confidence": 0.95, "seed": 0}
    return evaluate(table, metrics=TASKS[task].metrics, primary=TASKS[task].primary, **{**settings, **changes})


def one_fold(table: Predictions) -> Predictions:
    return replace(table, fold=np.zeros(len(table), dtype=int))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits.astype(float)))


def test_label_metrics_equal_scikit_learn() -> None:
    table = one_fold(label_table(skill=0.6))
    found = run(table, "multilabel")["metrics"]
    truth, chance = table.targets.astype(int), sigmoid(table.logits)
    said = (chance > 0.5).astype(int)
    values = {name: record["value"] for name, record in found.items()}
    for average in ("macro", "micro"):
        auroc = sklearn_metrics.roc_auc_score(truth, chance, average=average)
        precision_area = sklearn_metrics.average_precision_score(truth, chance, average=average)
        np.testing.assert_allclose(values[f"auroc_{average}"], auroc, **EXACT)
        np.testing.assert_allclose(values[f"auprc_{average}"], precision_area, **EXACT)
        expected = sklearn_metrics.precision_recall_fscore_support(truth, said, average=average)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            np.testing.assert_allclose(values[f"{name}_{average}"], value, **EXACT)
    np.testing.assert_allclose(values["hamming_accuracy"], 1 - sklearn_metrics.hamming_loss(truth, said), **EXACT)
    np.testing.assert_allclose(values["exact_match"], sklearn_metrics.accuracy_score(truth, said), **EXACT)
    np.testing.assert_allclose(values["positive_rate"], said.mean(), **EXACT)
    np.testing.assert_allclose(values["labels_per_case"], said.sum(axis=1).mean(), **EXACT)


def test_average_precision_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 12, 300) / 12, rng.random(300) < 0.3
    weights = rng.integers(0, 4, (300, 5))
    found = average_precision(scores, positive, weights)
    for draw in range(5):
        rows = np.repeat(np.arange(300), weights[:, draw])
        expected = sklearn_metrics.average_precision_score(positive[rows], scores[rows])
        assert found[draw] == pytest.approx(expected, abs=1e-12)


def test_average_precision_without_positives_is_undefined() -> None:
    assert np.isnan(average_precision(np.array([0.1, 0.9]), np.array([False, False]))[0])
    assert np.isnan(average_precision(np.zeros(0), np.zeros(0, dtype=bool))[0])


@pytest.mark.parametrize("name", TASKS["multilabel"].metrics)
def test_resampled_label_metric_equals_a_loop(name: str) -> None:
    _resampled_equals_loop(label_table(n=240, skill=0.5), name)


@pytest.mark.parametrize("name", TASKS["zones"].metrics)
def test_resampled_zone_metric_equals_a_loop(name: str) -> None:
    _resampled_equals_loop(zone_table(n=200, skill=1.0, with_class=True), name)


@pytest.mark.parametrize("name", TASKS["regression"].metrics)
def test_resampled_regression_metric_equals_a_loop(name: str) -> None:
    _resampled_equals_loop(number_table(), name)


def _resampled_equals_loop(table: Predictions, name: str) -> None:
    metric = METRICS.get(name)
    drawn = patient_weights(table.patient_id, strata=table.fold, resamples=4, seed=1)
    questions = frozen_classes(table) if table.outputs != "value" else None
    found = score(table, metric, drawn.patients, drawn.weights, questions)
    for draw in range(4):
        count = dict(zip(drawn.patients.tolist(), drawn.weights[draw].tolist(), strict=True))
        rows = np.repeat(np.arange(len(table)), [count[patient] for patient in table.patient_id.tolist()])
        again = table.select(rows)
        patients = np.unique(again.patient_id)
        naive = score(again, metric, patients, np.zeros((0, len(patients))), questions)
        assert found.draws[0, draw] == pytest.approx(naive.point, abs=1e-9)


def number_table(n: int = 200) -> Predictions:
    base = label_table(n)
    truth = np.random.default_rng(3).normal(50, 10, size=(n, 1))
    said = truth + np.random.default_rng(4).normal(0, 5, size=(n, 1))
    return replace(
        base,
        logits=said.astype(np.float32),
        targets=truth,
        classes=("score",),
        labels=("score",),
        metadata={"outputs": "value"},
    )


def test_regression_metrics_equal_scikit_learn() -> None:
    table = number_table()
    found = {name: record["value"] for name, record in run(table, "regression")["metrics"].items()}
    y, said = table.targets[:, 0], table.logits[:, 0].astype(float)
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(y, said))
    assert found["rmse"] == pytest.approx(sklearn_metrics.root_mean_squared_error(y, said))
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(y, said))
    assert found["pearson"] == pytest.approx(np.corrcoef(y, said)[0, 1])


def test_constant_predictions_have_no_correlation() -> None:
    table = number_table()
    flat = replace(table, logits=np.full_like(table.logits, 0.1))
    record = run(flat, "regression")["metrics"]["pearson"]
    assert record["value"] is None
    assert "constant" in record["reason"]


# What the seed systems got wrong


def test_an_undefined_auroc_is_null_and_never_one_half() -> None:
    """A label without positives counted .5 in the macro mean."""
    table = label_table(skill=3.0)
    targets = table.targets.copy()
    targets[:, 2] = 0
    found = run(replace(table, targets=targets), "multilabel")
    record = found["per_class"]["Fracture"]["auroc"]
    assert record["value"] is None
    assert record["reason"]
    others = [found["per_class"][name]["auroc"]["value"] for name in LABELS[:2]]
    assert found["metrics"]["auroc_macro"]["value"] == pytest.approx(np.mean(others))
    assert found["per_class"]["Fracture"]["auprc"]["value"] is None
    assert any("Fracture" in text and "leave out" in text for text in found["warnings"])


def test_f1_of_an_absent_label_is_undefined() -> None:
    table = label_table()
    targets, logits = table.targets.copy(), table.logits.copy()
    targets[:, 2], logits[:, 2] = 0, -5
    found = run(replace(table, targets=targets, logits=logits), "multilabel")
    assert found["per_class"]["Fracture"]["f1"]["value"] is None
    assert found["per_class"]["Fracture"]["specificity"]["value"] == 1.0


def test_the_label_set_is_frozen_by_patients_not_images() -> None:
    table = label_table(n=400)
    targets = table.targets.copy()
    targets[:, 2] = 0
    nine = np.unique(table.patient_id)[:9]
    targets[np.isin(table.patient_id, nine), 2] = 1  # 18 images of 9 patients
    assert frozen_classes(replace(table, targets=targets))[:, 1].tolist() == [True, True, False]
    ten = np.unique(table.patient_id)[:10]
    targets[np.isin(table.patient_id, ten), 2] = 1
    assert frozen_classes(replace(table, targets=targets))[:, 1].tolist() == [True, True, True]


def test_masked_cells_are_not_scored() -> None:
    """Blanks had become NaN scores, or negatives."""
    table = label_table(skill=0.5)
    targets = table.targets.copy()
    hidden = np.random.default_rng(5).random(targets.shape) < 0.3
    targets[hidden] = np.nan
    soft = np.flatnonzero(~hidden[:, 0])[:7]
    targets[soft, 0] = 0.7  # a soft training target is no truth either
    found = run(one_fold(replace(table, targets=targets)), "multilabel")
    for k, name in enumerate(LABELS):
        known = np.isin(targets[:, k], (0, 1))
        expected = sklearn_metrics.roc_auc_score(targets[known, k], table.logits[known, k])
        assert found["per_class"][name]["auroc"]["value"] == pytest.approx(expected)
    assert found["per_class"]["Edema"]["support"] == int((targets[:, 0] == 1).sum())


def test_over_prediction_raises_the_alarm() -> None:
    table = label_table()
    found = run(replace(table, logits=table.logits + 4), "multilabel")
    assert found["metrics"]["positive_rate"]["value"] > 0.6
    assert any("over-prediction" in text for text in found["warnings"])
    assert not any("over-prediction" in text for text in run(table, "multilabel")["warnings"])


def test_thresholds_never_see_the_patients_they_decide() -> None:
    """Thresholds had been tuned on the evaluated set: changing a fold's truth may not move its own threshold."""
    table = label_table(skill=0.5)
    targets = table.targets.copy()
    inside = table.fold == 0
    targets[inside] = 1 - targets[inside]
    before = run(table, "multilabel")["tuned"]["parameters"]
    after = run(replace(table, targets=targets), "multilabel")["tuned"]["parameters"]
    assert [p["logit"] for p in before if p["fold"] == 0] == [p["logit"] for p in after if p["fold"] == 0]
    assert [p["logit"] for p in before if p["fold"] == 1] != [p["logit"] for p in after if p["fold"] == 1]


def test_noise_labels_gain_nothing_from_tuned_thresholds() -> None:
    table = label_table(skill=0.0, prevalence=(0.5, 0.5, 0.5))
    found = run(table, "multilabel")
    tuned = found["tuned"]["label"]["per_label"]
    for name in LABELS:  # calling everything present gives F1 2/3; more would be leaked truth
        assert tuned[name]["f1"]["value"] < 0.72
    assert 0.4 < found["metrics"]["auroc_macro"]["value"] < 0.6


def test_ungradable_is_no_class_to_predict() -> None:
    """Macro F1 had averaged a class that could never be right."""
    table = zone_table(skill=50.0, with_class=True)
    found = run(table, "zones")
    assert found["metrics"]["macro_f1"]["value"] == pytest.approx(1.0)
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(1.0)
    assert found["classes"] == list(GRADES)
    assert len(found["confusion_matrix"]) == 4
    # a model that calls everything ungradable is scored by what it says of the grades alone
    called = table.logits.reshape(len(table), 3, 5).copy()
    called[:, :, 4] = 100
    again = run(replace(table, logits=called.reshape(len(table), 15)), "zones")
    assert again["metrics"]["macro_f1"]["value"] == pytest.approx(1.0)


def test_a_case_without_a_gradable_zone_has_no_risk_class() -> None:
    """It had become low risk."""
    table = zone_table(skill=50.0, with_class=True)
    assert "c0000" not in score_view(table).case_id
    assert "c0000" not in risk_view(table).case_id
    assert np.isnan(risk_class(np.array([np.nan]))[0])
    found = run(table, "zones")
    assert found["risk"]["n_undefined"] == 1
    assert found["risk"]["n_cases"] == len(table) - 1
    assert sum(map(sum, found["risk"]["confusion_matrix"])) == len(table) - 1


def test_risk_classes_are_cut_as_published() -> None:
    assert risk_class(np.array([0.0, 1.3, 1.31, 2.2, 2.21, 3.0])).tolist() == [0, 0, 1, 1, 2, 2]


def test_zone_metrics_equal_scikit_learn() -> None:
    table = one_fold(zone_table(skill=1.0))
    found = run(table, "zones")
    by_zone = []
    for k, name in enumerate(table.labels):
        zone = view_of(table, k)
        y, said = zone.y_true, softmax(zone.logits).argmax(axis=1)
        f1 = sklearn_metrics.f1_score(y, said, average="macro", labels=range(4))
        kappa = sklearn_metrics.cohen_kappa_score(y, said, weights="quadratic", labels=range(4))
        assert found["per_zone"][name]["macro_f1"]["value"] == pytest.approx(f1)
        assert found["per_zone"][name]["qwk"]["value"] == pytest.approx(kappa)
        by_zone.append(f1)
    assert found["metrics"]["macro_f1"]["value"] == pytest.approx(np.mean(by_zone))
    scores = score_view(table)
    grades = table.targets[table.case_id == "c0005"][0]
    assert scores.targets[scores.case_id == "c0005"][0, 0] == pytest.approx(np.nanmean(grades))


def test_validation_value_is_the_metric_of_one_part() -> None:
    table = one_fold(label_table(skill=0.5))
    found = validation_value(METRICS.get("auroc_macro"), table.logits, table.targets, metadata=table.metadata)
    assert found == pytest.approx(sklearn_metrics.roc_auc_score(table.targets, table.logits, average="macro"))
    nothing = validation_value(
        METRICS.get("auroc_macro"), table.logits, np.full_like(table.targets, np.nan), metadata=table.metadata
    )
    assert np.isnan(nothing)


@pytest.mark.parametrize("make", [label_table, zone_table])
def test_a_score_leaves_its_resamples_to_nobody(monkeypatch, make) -> None:
    """Groups know their table: a cycle would keep the weights of all resamples of every model compared."""
    made = []

    class Watched(scoring.Drawn):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(weakref.ref(self))

    monkeypatch.setattr(scoring, "Drawn", Watched)
    table = make()
    drawn = patient_weights(table.patient_id, strata=table.fold, resamples=10, seed=0)
    gc.disable()
    try:
        score(table, METRICS.get("macro_f1" if make is zone_table else "f1_macro"), drawn.patients, drawn.weights)
        assert made and made[0]() is None
    finally:
        gc.enable()
