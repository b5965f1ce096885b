"""Thresholds, cut points, net benefit, conformal sets and calibration by class, as the page shows them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from report_decisions import add_decisions, conformal_section, curve_section, tuned_section
from report_fixtures import write_study
from synthetic_study import GRADES, SyntheticStudy

from archbench.artifacts import read_json, write_json
from archbench.report.build import write_report
from archbench.report.calibration_view import question_panel, question_table
from archbench.report.collect import collect_study
from archbench.report.conformal_tables import conformal_parts_table, conformal_table
from archbench.report.decision_curves import decision_panels, longest_run, questions_of, useful_table
from archbench.report.figures import render
from archbench.report.threshold_view import (
    cut_panel,
    cut_spread_table,
    cut_table,
    threshold_panels,
    threshold_table,
    tuned_table,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    spec = SyntheticStudy(label="decisions", gradcam=False, timing=False, n_patients=45)
    configuration, results = write_study(tmp_path_factory.mktemp("decisions"), spec)
    add_decisions(results, "fundus", GRADES)
    return configuration, results


def dataset_of(tree):
    configuration, results = tree
    return collect_study(configuration=configuration, results=results).datasets[0]


def with_sections(tree, tmp_path, **sections):
    """A model of the tree whose metrics.json has other sections."""
    configuration, results = tree
    source = results / "fundus" / "custom1"
    folder = tmp_path / "results" / "fundus" / "custom1"
    write_json(folder / "metrics.json", {**read_json(source / "metrics.json"), **sections})
    write_json(folder / "calibration.json", read_json(source / "calibration.json"))
    return collect_study(configuration=configuration, results=tmp_path / "results").datasets[0]


def columns(table):
    return [column.title for column in table.columns]


def test_every_part_reaches_page_files_and_methods(tree):
    configuration, results = tree
    write_report(configuration=configuration, results=results, output=results)
    page = (results / "report.html").read_text(encoding="utf-8")
    for identifier in (
        *("questions-fundus-custom1", "cuts-fundus", "cut-spread-fundus", "benefit-fundus"),
        *("conformal-fundus", "sets-fundus-custom1"),
    ):
        assert f'<table id="{identifier}"' in page, identifier
        assert (results / "tables" / f"{identifier}.csv").stat().st_size > 50
        assert (results / "tables" / f"{identifier}.tex").stat().st_size > 50
    assert "Decision curves for Mild" in page and "Reliability of custom1 for No DR, Mild" in page
    methods = (results / "methods.md").read_text(encoding="utf-8")
    assert "Cut points of highest quadratic weighted kappa" in methods
    assert "with a chance of 90\u00a0%" in methods


def test_a_study_without_these_sections_shows_none_of_them(tmp_path):
    spec = SyntheticStudy(label="old", gradcam=False, timing=False, n_patients=30)
    dataset = dataset_of(write_study(tmp_path, spec))
    assert useful_table(dataset) is conformal_table(dataset) is cut_table(dataset) is tuned_table(dataset) is None
    assert decision_panels(dataset) == threshold_panels(dataset) == [] and cut_panel(dataset) is None
    assert all(question_table(dataset, model) is None is question_panel(model) for model in dataset.evaluated)


def test_calibration_is_marked_only_where_the_interval_says_so(tree):
    dataset = dataset_of(tree)
    table = question_table(dataset, dataset.find("custom1"))
    rows = {(row[0].text, row[1].text): row for row in table.rows}
    assert len(rows) == 2 * (len(GRADES) + 1)
    ece, slope = columns(table).index("ECE"), columns(table).index("Slope")
    before, after = rows["Mild", "before"], rows["Mild", "after"]
    assert (before[ece].tone, before[slope].tone) == ("warn", "warn")  # 0.09 to 0.11 over a floor of .02; .6 to .8
    assert (after[ece].tone, after[slope].tone) == ("", "")
    assert rows["mean over all", "after"][slope].reason


def test_thresholds_show_their_rule_and_their_spread_over_folds(tree, tmp_path):
    dataset = with_sections(tree, tmp_path, tuned=tuned_section(["Edema", "Rib"], "Rib"))
    assert "at a sensitivity of at least 0.9" in tuned_table(dataset).caption
    table = threshold_table(dataset, dataset.find("custom1"))
    rows = {row[0].text: row for row in table.rows}
    assert "below 7 the one for all is taken" in table.columns[-1].hint
    name, mean, sd, spread, patients = rows["Edema"]
    assert (mean.sort, sd.sort) == (pytest.approx(0.37), pytest.approx(0.02))
    assert (name.sub, spread.text, patients.sort) == ("", "0.350 to 0.390", 60)
    assert rows["Rib"][0].sub == "takes the one for all" and rows["all labels"][0].sub == ""
    assert render(threshold_panels(dataset)[0]).uri


def test_net_benefit_is_useful_where_the_lower_bound_beats_all_and_none(tree, tmp_path):
    dataset = with_sections(tree, tmp_path, decision_curve=curve_section(["Mild", "Moderate or worse"], 0.5))
    assert questions_of(dataset) == ["Moderate or worse", "Mild"]
    section = dataset.find("custom1").metrics["decision_curve"]
    curve = section["questions"]["Mild"]
    better = [
        threshold
        for threshold, low, every in zip(section["thresholds"], curve["low"], curve["all"], strict=True)
        if low > 0 and low > every
    ]
    (cell,) = [row[1] for row in useful_table(dataset).rows if row[0].text == "Mild"]
    assert cell.text == f"{better[0]:.2f} to {better[-1]:.2f}"
    assert 0.02 < better[0] < better[-1] < 0.5
    assert longest_run([True, False, True, True, False, True]) == (2, 4) and longest_run([False]) == (0, 0)
    none = with_sections(tree, tmp_path, decision_curve=curve_section(["Mild"], 0.01))
    assert useful_table(none).rows[0][1].text == "nowhere"


def test_coverage_below_the_promise_is_marked(tree, tmp_path):
    low = with_sections(tree, tmp_path, conformal=conformal_section(["a", "b"], "labels", coverage=0.8))
    at = columns(conformal_table(low)).index("Coverage")
    assert conformal_table(low).rows[0][at].tone == "bad"
    assert conformal_table(dataset_of(tree)).rows[0][at].tone == ""
    parts = conformal_parts_table(low, low.find("custom1"))
    assert {"Where present", "Where absent", "Undecided"} <= set(columns(parts))
    assert [row[0].sub for row in parts.rows] == ["", "too few patients: in every set"]


def test_what_could_not_be_fitted_says_why(tree, tmp_path):
    empty = {"target": None, "kind": "classes", "reason": "one fold: no other patients", "coverage": None}
    dataset = with_sections(tree, tmp_path, conformal=empty)
    cells = conformal_table(dataset).rows[0][1:]
    assert {cell.reason for cell in cells} == {"one fold: no other patients"}


def test_cut_points_stand_beside_the_decision_that_is_used(tree):
    dataset = dataset_of(tree)
    assert columns(cut_spread_table(dataset))[1:] == [f"{a} | {b}" for a, b in pairwise(GRADES)]
    assert cut_spread_table(dataset).rows[0][1].sub == "0.45 to 0.53"
    assert cut_table(dataset).rows[0][1].sort == 0.012
    for panel in (cut_panel(dataset), question_panel(dataset.find("custom1")), decision_panels(dataset)[0]):
        assert render(panel).uri.startswith("data:image/svg+xml")
