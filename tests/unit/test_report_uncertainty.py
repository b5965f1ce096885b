"""How sure the report is: verdicts of all pairs, folds and seeds, models trained anew, the forest plot."""

from __future__ import annotations

import numpy as np
import pytest
from report_fixtures import write_study
from scipy.stats import t as student
from synthetic_study import SyntheticStudy

from archbench.artifacts import read_json, write_json
from archbench.report.build import write_report
from archbench.report.cells import record_cell
from archbench.report.collect import DatasetResult, collect_study
from archbench.report.comparison_tables import pairs_table, verdict_matrix
from archbench.report.exports import table_csv
from archbench.report.figures import render
from archbench.report.forest_figure import forest_panel
from archbench.report.labels import pair_of
from archbench.report.variance import fold_means, retraining, variance_panel, variance_table

VALUES = {"custom1": [0.50, 0.60, 0.55], "resnet18": [0.62, 0.66, 0.70]}


@pytest.fixture
def tree(tmp_path):
    """A study of two seeds with known values per fold, a known split and both parts of the standard error."""
    spec = SyntheticStudy(label="uncertainty", seeds=(1, 2), gradcam=False, timing=False, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    for name, values in VALUES.items():
        path = results / "fundus" / name / "metrics.json"
        metrics = read_json(path)
        for row in metrics["per_fold"]:
            row["metrics"]["qwk"] = values[row["fold"]] + (0.02 if row["seed"] == 1 else -0.02)
        metrics["standard_errors"] = {"qwk": {"patients": 0.03, "seeds": 0.04}}
        metrics["seed_sd"] = {"qwk": 0.0566}
        write_json(path, metrics)
    path = results / "fundus" / "data" / "audit.json"
    audit = read_json(path)
    for fold in audit["folds"]:
        fold["parts"] = {name: {**fold["parts"][name], "n_cases": n} for name, n in (("train", 40), ("test", 20))}
    write_json(path, audit)
    return configuration, results


def dataset_of(tree) -> DatasetResult:
    configuration, results = tree
    return collect_study(configuration=configuration, results=results).datasets[0]


def test_models_trained_anew_are_compared_by_nadeau_and_bengio(tree):
    dataset = dataset_of(tree)
    found = retraining(dataset, "resnet18", "custom1").test
    differences = np.subtract(VALUES["resnet18"], VALUES["custom1"])
    error = np.sqrt((1 / 3 + 20 / 40) * differences.var(ddof=1))
    assert found.p == pytest.approx(2 * student.sf(differences.mean() / error, 2))
    assert found.folds == 3
    table = pairs_table(dataset)
    column = [column.title for column in table.columns].index("p (trained anew)")
    assert all(row[column].sort == pytest.approx(retraining(dataset, *names(row)).test.p) for row in table.rows)


def test_delong_stands_beside_the_bootstrap_where_there_is_one(tree):
    path = tree[1] / "fundus" / "comparison.json"
    comparison = read_json(path)
    assert "p (DeLong)" not in [column.title for column in pairs_table(dataset_of(tree)).columns]
    for pair in comparison["pairs"]:
        pair["p_delong"] = 0.0321
    comparison["pairs"][0]["p_delong"] = None
    write_json(path, comparison)
    table = pairs_table(dataset_of(tree))
    column = [column.title for column in table.columns].index("p (DeLong)")
    assert [row[column].text for row in table.rows][1] == "0.032" and table.rows[0][column].reason


def test_an_interval_of_another_method_says_so():
    record = {"value": 0.97, "low": 0.94, "high": 0.99, "method": "logit_delong"}
    assert record_cell(record).sub == "0.940 to 0.990 (DeLong)"
    assert record_cell({**record, "method": "percentile"}).sub == "0.940 to 0.990"


def names(row):
    return row[0].text.split(" − ")


def test_one_fold_says_nothing_about_models_trained_anew(tmp_path):
    spec = SyntheticStudy(label="once", folds=1, gradcam=False, timing=False, n_patients=30)
    dataset = dataset_of(write_study(tmp_path, spec))
    found = retraining(dataset, "resnet18", "custom1")
    assert found.test is None and "one fold" in found.reason
    assert "one fold" in table_csv(pairs_table(dataset))


def test_an_undefined_fold_leaves_no_claim_about_training_anew(tree):
    path = tree[1] / "fundus" / "custom1" / "metrics.json"
    metrics = read_json(path)
    metrics["per_fold"][0]["metrics"]["qwk"] = None
    write_json(path, metrics)
    dataset = dataset_of(tree)
    assert sorted(fold_means(dataset.find("custom1"), "qwk")) == [1, 2]
    assert retraining(dataset, "resnet18", "custom1").reason == "undefined in a fold"


def test_the_matrix_holds_every_pair_from_both_sides(tree):
    dataset = dataset_of(tree)
    table = verdict_matrix(dataset)
    order = [row[0].text for row in table.rows]
    for i, row in enumerate(order):
        assert table.rows[i][i + 1].text == "·"
        for j, other in enumerate(order):
            if i != j:
                pair = pair_of(dataset.comparison, row, other)
                cell, mirror = table.rows[i][j + 1], table.rows[j][i + 1]
                assert cell.sort == pytest.approx(pair["difference"]) == pytest.approx(-mirror.sort)
                assert {cell.sub, mirror.sub} in ({"better", "worse"}, {"inconclusive"}, {"equivalent"})


def test_a_trivial_advantage_is_a_trivial_drawback_from_the_other_side():
    comparison = {"pairs": [{"a": "x", "b": "y", "difference": 0.01, "low": 0.0, "verdict": "better but trivial"}]}
    assert pair_of(comparison, "y", "x")["verdict"] == "worse but trivial"
    assert pair_of(comparison, "y", "z") is None


def test_both_parts_of_the_standard_error_are_shown(tree):
    rows = {row[0].text: row for row in variance_table(dataset_of(tree)).rows}
    patients, seeds, both, between_seeds, between_folds = rows["custom1"][1:]
    assert (patients.sort, seeds.sort, both.sort) == (0.03, 0.04, pytest.approx(0.05))
    assert between_seeds.sort == 0.0566
    assert between_folds.sort == pytest.approx(np.std(VALUES["custom1"], ddof=1))


def test_one_seed_has_no_seed_variance_and_says_so(tmp_path):
    spec = SyntheticStudy(label="seed", gradcam=False, timing=False, n_patients=30)
    rows = variance_table(dataset_of(write_study(tmp_path, spec))).rows
    assert all("not estimated" in row[2].reason and row[2].sort is None for row in rows)


def test_pictures_name_every_model_and_draw(tree):
    dataset = dataset_of(tree)
    for panel in (forest_panel(dataset), forest_panel(dataset, narrow=True), variance_panel(dataset)):
        assert render(panel).uri.startswith("data:image/svg+xml")
    assert all(model.name in forest_panel(dataset).alt for model in dataset.evaluated)
    assert variance_panel(dataset).title == "Folds and seeds"


def test_tables_and_texts_lie_beside_the_page(tree):
    configuration, results = tree
    (results / "tables").mkdir()
    (results / "tables" / "of_an_earlier_report.csv").write_text("x")
    write_report(configuration=configuration, results=results, output=results)
    stems = {path.stem for path in (results / "tables").glob("*.csv")}
    assert {"results-fundus", "verdicts-fundus", "variance-fundus", "checklist"} <= stems
    assert stems == {path.stem for path in (results / "tables").glob("*.tex")}
    assert "of_an_earlier_report" not in stems
    methods = (results / "methods.md").read_text(encoding="utf-8")
    checklist = (results / "checklist.md").read_text(encoding="utf-8")
    assert "phantom data" in methods and "bootstrap draws of patients" in methods
    assert "| 12 | De-identification | author must fill |" in checklist and "Phantom data" in checklist
