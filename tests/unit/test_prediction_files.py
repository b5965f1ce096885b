"""Reading predictions of other tools: what is right is read exactly, what is wrong is named by row and column."""

from __future__ import annotations

import numpy as np
import pytest

from archbench.artifacts import softmax
from archbench.prediction_files import PredictionFileError, read_prediction_file

HEAD = "case,patient,model,score_no,score_mild,score_severe,target"
ROWS = ["c1,p1,a,.7,.2,.1,no", "c2,p1,a,.1,.8,.1,1", "c1,p1,b,.5,.3,.2,no", "c2,p1,b,.2,.2,.6,mild"]


def write(path, rows=ROWS, head=HEAD):
    file = path / "predictions.csv"
    file.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return file


def problems(path, rows=ROWS, head=HEAD):
    with pytest.raises(PredictionFileError) as caught:
        read_prediction_file(write(path, rows, head), task="ordinal")
    assert "predictions.csv can't be used" in str(caught.value)
    return caught.value.problems


def changed(row, column, text):
    """The rows with one cell changed."""
    cells = ROWS[row].split(",")
    cells[HEAD.split(",").index(column)] = text
    return [*ROWS[:row], ",".join(cells), *ROWS[row + 1 :]]


def test_models_classes_targets_and_probabilities_are_read(tmp_path):
    found = read_prediction_file(write(tmp_path), task="ordinal")
    assert list(found) == ["a", "b"] and found["a"].classes == ("no", "mild", "severe")
    np.testing.assert_allclose(softmax(found["b"].logits), [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], atol=1e-6)
    np.testing.assert_array_equal(found["a"].y_true, [0, 1])
    assert (found["a"].fold == 0).all() and (found["a"].split == "test").all()


def test_several_labels_with_unknown_targets(tmp_path):
    head = "case,patient,model,score_a,score_b,target_a,target_b,fold,seed"
    rows = ["c1,p1,m,.9,.2,1,,0,3", "c2,p2,m,.1,1,0,1,1,3"]
    found = read_prediction_file(write(tmp_path, rows, head), task="multilabel")["m"]
    assert found.outputs == "labels"
    np.testing.assert_array_equal(found.targets, [[1, np.nan], [0, 1]])
    np.testing.assert_allclose(1 / (1 + np.exp(-found.logits.astype(float))), [[0.9, 0.2], [0.1, 1.0]], atol=1e-6)
    assert found.labels == ("a", "b") and found.fold.tolist() == [0, 1] and found.seed.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("task", "columns", "words"),
    [
        ("multiclass", "target_a,target_b", "the task multiclass needs target;"),
        ("multilabel", "target,note", "the task multilabel needs target_<label>;"),
        ("regression", "target,note", "the task regression can't be read from a CSV"),
    ],
)
def test_a_task_that_the_columns_do_not_fit_is_refused(tmp_path, task, columns, words):
    head = f"case,patient,model,score_a,score_b,{columns}"
    with pytest.raises(PredictionFileError) as caught:
        read_prediction_file(write(tmp_path, ["c1,p1,m,.9,.1,1,0"], head), task=task)
    assert any(words in problem for problem in caught.value.problems)


def test_logits_are_taken_as_they_are(tmp_path):
    head = HEAD.replace("score_", "logit_")
    found = read_prediction_file(write(tmp_path, ["c1,p1,a,-3,2.5,0,2"], head), task="ordinal")["a"]
    np.testing.assert_array_equal(found.logits, np.array([[-3, 2.5, 0]], dtype=np.float32))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (changed(1, "score_mild", "high"), "row 3, column score_mild: 'high' is not a finite number"),
        (changed(1, "score_mild", ""), "row 3, column score_mild: '' is not a finite number"),
        (changed(2, "score_no", "1.5"), "row 4, column score_no: '1.5' is no probability"),
        (changed(0, "score_no", ".9"), "row 2: the scores of the 3 classes sum to 1.2, not 1"),
        (changed(3, "target", "moderate"), "row 5, column target: 'moderate' is no class; use one of"),
        (changed(3, "target", "3"), "row 5, column target: '3' is no class"),
        (changed(0, "patient", ""), "row 2, column patient: '' is empty"),
        (changed(2, "patient", "p9"), "row 4: case 'c1' has another patient than in row 2"),
        (changed(3, "target", "no"), "row 5: case 'c2' has another target than in row 3"),
        ([*ROWS, ROWS[0]], "row 6: case 'c1' of model 'a', seed 1 stands in row 2 already"),
        (ROWS[:3], "model 'b' lacks 1 of 2 cases and seeds, e.g. case 'c2', seed 1"),
        ([], "there are no rows"),
        (changed(1, "model", "a/b"), "row 3, column model: 'a/b' can't name a folder"),
        (changed(1, "model", "x" * 300), "can't name a folder; rename the model"),
    ],
)
def test_what_is_wrong_is_named_by_row(tmp_path, rows, words):
    assert any(words in problem for problem in problems(tmp_path, rows)), problems(tmp_path, rows)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (HEAD.replace("patient", "subject"), "column patient is missing (found: case, subject"),
        (HEAD.replace("target", "truth"), "column target is missing"),
        (HEAD.replace("score_", "p_"), "no score_<class> column"),
        (HEAD.replace("score_no", "logit_no"), "score_ and logit_ columns"),
        (HEAD.replace("mild", "no"), "['score_no'] occur twice"),
    ],
)
def test_wrong_headings_are_named(tmp_path, head, words):
    assert any(words in problem for problem in problems(tmp_path, head=head))


def test_a_patient_in_two_folds_is_named_by_row(tmp_path):
    rows = ["c1,p1,a,.7,.2,.1,no,0", "c2,p2,a,.1,.8,.1,1,1", "c3,p1,a,.1,.8,.1,1,1"]
    found = problems(tmp_path, rows, f"{HEAD},fold")
    assert found == ["row 4: patient 'p1' is in fold 1, in row 2 in fold 0; all cases of a patient belong to one fold"]


def test_a_short_row_and_many_problems(tmp_path):
    assert "cells" in problems(tmp_path, [*ROWS, "c3,p1"])[0]
    many = problems(tmp_path, [f"c{k},p{k},a,x,.5,.5,no" for k in range(30)])
    assert len(many) == 30
    with pytest.raises(PredictionFileError, match="and 20 more"):
        read_prediction_file(tmp_path / "predictions.csv", task="ordinal")
