"""Nothing may be fitted on a patient that it is applied to, however the rows are arranged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import holdout, planted
from planted_labels import planted_labels

from archbench.out_of_fold import (
    LeakError,
    OutOfFold,
    answered,
    check_disjoint,
    check_not_trained,
    fitting_problem,
    fitting_source,
    from_validation,
    out_of_fold,
    patient_groups,
    source_rows,
)
from archbench.stacking import fit_stacker
from archbench.temperature import fit_temperature


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 6), st.integers(6, 30))
def test_fit_rows_never_share_a_patient_with_the_fold(rng, folds, patients):
    predictions = planted(patients=patients, folds=folds, rng=rng)
    source = out_of_fold(predictions.select(np.random.default_rng(rng).permutation(len(predictions))))
    for fold in source.groups:
        fit, applied = source.fit_rows_for(fold), source.of(fold)
        assert not set(fit.patient_id) & set(applied.patient_id)
        assert len(fit) + len(applied) == len(predictions)
        inner = source.without(fold)
        assert len(inner.groups) >= 2
        for group in inner.groups:
            assert not set(inner.fit_rows_for(group).patient_id) & set(inner.of(group).patient_id)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_smuggled_patient_is_refused(data):
    """Rows of one patient are moved to another fold, renamed, or repeated: no arrangement gets through."""
    predictions = planted(patients=20, folds=4)
    row = data.draw(st.integers(0, len(predictions) - 1))
    way = data.draw(st.sampled_from(["fold", "patient", "repeat"]))
    if way == "fold":
        fold = predictions.fold.copy()
        fold[row] = (fold[row] + data.draw(st.integers(1, 3))) % 4
        changed = replace(predictions, fold=fold)
    elif way == "patient":
        others = np.unique(predictions.patient_id[predictions.fold != predictions.fold[row]])
        patient = predictions.patient_id.copy()
        patient[row] = data.draw(st.sampled_from(others.tolist()))
        changed = replace(predictions, patient_id=patient)
    else:
        changed = predictions.select(np.r_[np.arange(len(predictions)), row])
    with pytest.raises(ValueError, match=r"more than one|other patients"):
        out_of_fold(changed)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 39))
def test_fitting_refuses_rows_of_the_patients_it_is_applied_to(row):
    predictions = planted(patients=20, folds=4)
    source = out_of_fold(predictions)
    applied = predictions.select(np.array([row]))
    with pytest.raises(LeakError, match="other patients"):
        fit_temperature(source, applied=applied, seed=1)
    with pytest.raises(LeakError, match="other patients"):
        fit_stacker(source, applied=applied, n_members=1, seed=1)
    fold = int(applied.fold[0])
    assert fit_temperature(source.without(fold), applied=applied, seed=1).n_patients == 15


def test_fitting_takes_no_plain_table():
    predictions = planted(patients=20)
    with pytest.raises(TypeError, match="OutOfFold"):
        fit_temperature(predictions, applied=predictions.select(np.arange(0)), seed=1)
    with pytest.raises(TypeError, match="OutOfFold"):
        fit_stacker(predictions, applied=predictions.select(np.arange(0)), n_members=1, seed=1)
    with pytest.raises(TypeError):
        source_rows(predictions.logits, applied=predictions)


def test_training_rows_are_refused():
    predictions = planted(patients=20)
    object.__setattr__(predictions, "split", np.full(len(predictions), "train"))  # past the table's own check
    for make in (
        out_of_fold,
        from_validation,
        lambda rows: OutOfFold(rows=rows, group=rows.fold, crossed=True),
    ):
        with pytest.raises(LeakError, match="training rows"):
            make(predictions)


def test_validation_rows_are_no_out_of_fold_rows_of_a_cross_validation():
    with pytest.raises(ValueError, match="two test folds"):
        out_of_fold(planted(patients=20, split="val"))


def test_a_holdout_fits_on_validation_rows_and_keeps_patients_apart():
    predictions = holdout(patients=60)
    source = from_validation(predictions)
    assert not source.crossed and (source.rows.split == "val").all()
    check_disjoint(source.rows, predictions.test)
    shared = replace(predictions, patient_id=predictions.patient_id.copy())
    shared.patient_id[shared.split == "test"] = shared.val.patient_id[0]
    with pytest.raises(LeakError):
        from_validation(shared)


def test_unknown_targets_are_not_fitted_on():
    predictions = planted(patients=20)
    predictions.targets[0] = np.nan
    assert len(out_of_fold(predictions).rows) == len(predictions) - 1


def test_nothing_to_fit_on_is_said():
    assert "no test part" in str(fitting_problem(planted(patients=20, split="val")))
    assert "single test fold" in str(fitting_problem(planted(patients=20, folds=1)))
    assert fitting_problem(planted(patients=20)) is None
    with pytest.raises(ValueError, match="no test part"):
        fitting_source(planted(patients=20, split="val"))


def test_several_labels_may_be_partly_unknown():
    predictions = planted_labels(patients=40, unknown=0.3)
    predictions.targets[0] = np.nan
    source = out_of_fold(predictions)
    assert len(source.rows) == len(answered(predictions)) < len(predictions)
    assert np.isnan(source.rows.targets).any() and not np.isnan(source.rows.targets).all(axis=1).any()
    assert len(np.unique(patient_groups(source.rows))) == 5


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_predictions_of_trained_patients_are_refused(data):
    """A patient of any fold is put into its own training part: whatever the split column says, it is found."""
    predictions = planted(patients=20, folds=4)
    patients = set(predictions.patient_id.tolist())
    trained = {
        fold: patients - set(predictions.patient_id[predictions.fold == fold].tolist())
        for fold in np.unique(predictions.fold).tolist()
    }
    check_not_trained(predictions, trained)
    fold = data.draw(st.integers(0, 3))
    tested = sorted(patients - trained[fold])
    smuggled = {**trained, fold: trained[fold] | {data.draw(st.sampled_from(tested))}}
    with pytest.raises(LeakError, match=f"fold {fold} predicts 1 patients that it was trained on"):
        check_not_trained(predictions, smuggled)
    with pytest.raises(ValueError, match="not known"):
        check_not_trained(predictions, {})
