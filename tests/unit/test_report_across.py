"""Several datasets in one study, searches of hyper-parameters, models trained on all data."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from report_fixtures import write_study
from synthetic_study import SyntheticStudy

from archbench.artifacts import read_json, write_json
from archbench.report.across import across_view, mean_ranks
from archbench.report.build import write_report
from archbench.report.collect import collect_study
from archbench.report.figures import render
from archbench.report.tuning_view import final_table, search_table

SHARES = {"custom1": {"1": 0.9, "2": 0.1}, "resnet18": {"1": 0.1, "2": 0.9}}


def study_of(tmp_path, n_datasets, *, shares=True, failed=""):
    """A study of two models on several datasets with a known distribution of the ranks."""
    names = tuple(f"site{k}" for k in range(n_datasets))
    spec = SyntheticStudy(
        models=tuple(SHARES), datasets=names, ensemble="", gradcam=False, timing=False, n_patients=20, label="across"
    )
    configuration, results = write_study(tmp_path, spec)
    for name in names:
        path = results / name / "comparison.json"
        comparison = read_json(path)
        for row in comparison["models"]:
            of = SHARES[row["model"]]
            row["mean_rank"] = sum(float(rank) * share for rank, share in of.items())
            row |= {"rank_shares": of} if shares else {}
        if failed and name == names[-1]:
            comparison["models"] = [row for row in comparison["models"] if row["model"] != failed]
            (results / name / failed / "metrics.json").unlink()
        write_json(path, comparison)
    return configuration, results, collect_study(configuration=configuration, results=results)


def test_mean_rank_over_datasets_has_the_distribution_of_independent_datasets(tmp_path):
    datasets = study_of(tmp_path, 3)[2].datasets
    found = mean_ranks(datasets, confidence=0.8)
    assert list(found) == ["custom1", "resnet18"]
    outcomes = sorted(
        (np.mean([float(rank) for rank in ranks]), np.prod([SHARES["custom1"][rank] for rank in ranks]))
        for ranks in product(("1", "2"), repeat=3)
    )
    values, chances = np.array(outcomes).T
    cumulated = np.cumsum(chances)
    assert found["custom1"].value == pytest.approx(float(values @ chances)) == pytest.approx(1.1)
    assert found["custom1"].low == pytest.approx(values[np.searchsorted(cumulated, 0.1)])
    assert found["custom1"].high == pytest.approx(values[np.searchsorted(cumulated, 0.9)])


def test_ties_are_half_ranks(tmp_path):
    datasets = study_of(tmp_path, 2)[2].datasets
    for dataset in datasets:
        for row in dataset.comparison["models"]:
            row |= {"mean_rank": 1.5, "rank_shares": {"1.5": 1.0}}
    assert mean_ranks(datasets, confidence=0.95)["custom1"].record == {
        **{"value": 1.5, "low": 1.5, "high": 1.5},
        "reason": "",
    }


def test_a_model_that_one_dataset_lacks_has_no_mean_rank(tmp_path):
    found = mean_ranks(study_of(tmp_path, 2, failed="resnet18")[2].datasets, confidence=0.95)
    assert found["resnet18"].value is None and "every dataset" in found["resnet18"].reason
    assert found["custom1"].value is None and "different models" in found["custom1"].reason


def test_old_comparisons_give_a_mean_rank_without_interval(tmp_path):
    found = mean_ranks(study_of(tmp_path, 2, shares=False)[2].datasets, confidence=0.95)
    assert found["custom1"].value == pytest.approx(1.1) and found["custom1"].low is None


def test_few_datasets_have_no_critical_difference_and_say_so(tmp_path):
    configuration, results, study = study_of(tmp_path, 2)
    assert across_view(study)["difference"] is None
    write_report(configuration=configuration, results=results, output=results)
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "needs at least 8" in page and '<table id="across"' in page
    assert (results / "tables" / "across.csv").read_text(encoding="utf-8").startswith('Model,"site0, QWK"')


def test_eight_datasets_have_a_critical_difference(tmp_path):
    view = across_view(study_of(tmp_path, 8)[2])
    assert "custom1" in view["difference"].alt and view["no_difference"] == ""
    assert view["p"] == "< 0.001", "no p value is 0"
    for panel in (view["difference"], view["panel"], view["narrow"]):
        assert render(panel).uri.startswith("data:image/svg+xml")


def test_one_dataset_is_not_shown_across(tmp_path):
    assert across_view(study_of(tmp_path, 1)[2]) is None


@pytest.fixture
def searched(tmp_path):
    """A study with the account of a search in two folds and a final model."""
    spec = SyntheticStudy(label="searched", gradcam=False, timing=False, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    folder = results / "fundus" / "custom1"
    for fold, best in ((0, 0.7), (1, 0.64)):
        trials = [{"number": k, "state": "complete", "value": v} for k, v in enumerate((0.6, 0.5, best))]
        account = {"fold": fold, "metric": "qwk", "maximize": True, "budget": 4, "trials_run": 3, "trials": trials}
        account |= {"untuned_value": 0.6, "best_value": best, "best_of_n": [0.6, 0.6, best]}
        write_json(
            folder / "tuning" / f"fold{fold}.json", {**account, "training": {"lr": 0.00123, "asl": {"clip": 0.1}}}
        )
        write_json(folder / "tuning" / f"fold{fold}-worker0.json", {"worker": 0})
    final = {"evaluated": False, "cases": 60, "patients": 30, "epochs": 7, "best_epochs_of_folds": [5, 7, 9]}
    write_json(folder / "final" / "settings.json", {**final, "train_seconds": 40.0})
    return configuration, results


def test_a_search_and_a_final_model_are_shown(searched):
    configuration, results = searched
    dataset = collect_study(configuration=configuration, results=results).datasets[0]
    rows = search_table(dataset).rows
    assert [[cell.text for cell in row[1:]] for row in rows] == [
        ["0", "3 of 4", "0.600", "0.700", "0.100", "lr 0.00123, asl.clip 0.1"],
        ["1", "3 of 4", "0.600", "0.640", "0.040", "lr 0.00123, asl.clip 0.1"],
    ]
    assert "custom1 0.070" in search_table(dataset).caption
    assert final_table(dataset).rows[0][1].text == "not evaluated" and final_table(dataset).rows[0][4].sub == "5, 7, 9"
    write_report(configuration=configuration, results=results, output=results)
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "Search of custom1" in page and "not evaluated" in page and "shown only" in page
    models = read_json(results / "results.json")["datasets"]["fundus"]["models"]
    assert len(models["custom1"]["tuning"]) == 2 and models["custom1"]["final"]["epochs"] == 7
    assert models["resnet18"]["tuning"] == [] and models["resnet18"]["final"] is None
