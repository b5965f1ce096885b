"""Values, sentences and verdicts of the report against the artifacts they come from."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fixtures import write_study
from sklearn.metrics import precision_recall_curve
from synthetic_study import MODELS, SyntheticStudy

from archbench.artifacts import read_json, write_json
from archbench.report.audit_tables import audit_tables
from archbench.report.collect import DatasetResult, StudyResult, collect_study
from archbench.report.comparison_tables import pairs_table, verdict_matrix
from archbench.report.curves import precision_at_recall
from archbench.report.figures import line_styles, wrap
from archbench.report.labels import format_count, format_share, format_si, format_value, verdict_against_best
from archbench.report.logs import find_failure_log, read_tail
from archbench.report.notices import warnings_of
from archbench.report.pareto_figure import Point, pareto_front
from archbench.report.results import refresh_results
from archbench.report.tables import escape_latex, result_rows, to_csv, to_latex, to_text
from archbench.report.text import answer


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return write_study(tmp_path_factory.mktemp("tables"), SyntheticStudy(label="tables", cam_cases=2, n_patients=60))


@pytest.fixture(scope="module")
def study(tree: tuple[dict[str, Any], Path]) -> StudyResult:
    return collect_study(configuration=tree[0], results=tree[1])


def test_csv_holds_the_values_of_the_artifacts(tree: tuple[dict[str, Any], Path], study: StudyResult) -> None:
    rows = list(csv.DictReader(to_csv(result_rows(study)).splitlines()))
    assert [row["model"] for row in rows] == [*MODELS, "ensemble"]
    assert list(rows[0])[:6] == ["dataset", "model", "architecture", "image_size", "weights", "qwk"]
    for row in rows:
        metrics = read_json(tree[1] / "fundus" / row["model"] / "metrics.json")
        for name, record in metrics["metrics"].items():
            for column, key in ((name, "value"), (f"{name}_low", "low"), (f"{name}_high", "high")):
                assert float(row[column]) == record[key], column
        calibration = read_json(tree[1] / "fundus" / row["model"] / "calibration.json")
        assert float(row["ece"]) == calibration["ece"]["calibrated"]["value"]
        assert (row["status"], row["data"]) == ("complete", "phantom")
    assert float(rows[0]["train_seconds"]) == pytest.approx(3 * 31.5)
    assert float(rows[0]["latency_ms"]) == 1.5
    assert rows[-1]["latency_ms"] == ""  # the ensemble is not timed


def test_undefined_is_empty_in_csv_and_a_dash_in_text(tmp_path: Path) -> None:
    spec = SyntheticStudy(label="undefined", undefined_metrics={"qwk": "one class only"}, gradcam=False, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    found = collect_study(configuration=configuration, results=results)
    row = next(csv.DictReader(to_csv(result_rows(found)).splitlines()))
    assert (row["qwk"], row["qwk_low"]) == ("", "")
    assert "–" in to_text(found)
    assert "undefined for every model" in answer(found.datasets[0]).sentences[0]


def test_text_table_is_aligned_and_narrow(study: StudyResult) -> None:
    text = to_text(study)
    assert text.count("PHANTOM DATA") == 1
    assert max(len(line) for line in text.splitlines()) <= 120
    record = study.datasets[0].models[0].record("qwk")
    assert record is not None
    assert f"{record['value']:.3f} [{record['low']:.3f}, {record['high']:.3f}]" in text


def test_latex_escapes_names(study: StudyResult) -> None:
    text = to_latex(study)
    assert r"effnet\_lite0" in text
    assert "Phantom data." in text
    assert escape_latex("50 % & $x_1$ {\\}") == r"50 \% \& \$x\_1\$ \{\textbackslash{}\}"


def test_answer_names_best_runner_up_interval_and_cost(study: StudyResult) -> None:
    dataset = study.datasets[0]
    found = answer(dataset)
    assert dataset.comparison is not None
    assert found.model == dataset.comparison["best"] == "ensemble"
    assert len(found.sentences) == 2
    first, second = found.sentences
    assert "95\u00a0% interval" in first
    assert "phantom cases" in first
    assert dataset.comparison["models"][1]["model"] in first
    assert "ms an image" in second
    assert "speaks" in second


def test_inconclusive_is_never_called_equal(study: StudyResult) -> None:
    dataset = study.datasets[0]
    assert dataset.comparison is not None
    pairs = [{**pair, "verdict": "inconclusive"} for pair in dataset.comparison["pairs"]]
    doubtful = replace(dataset, comparison={**dataset.comparison, "pairs": pairs})
    text = " ".join(answer(doubtful).sentences)
    assert "do not separate" in text
    assert "equal" not in text
    assert "equivalent" not in text


@pytest.mark.parametrize(
    ("pair", "word"),
    [
        (("top", "m", "better"), "worse"),
        (("m", "top", "worse"), "worse"),
        (("top", "m", "better but trivial"), "worse, trivially"),
        (("m", "top", "equivalent"), "equivalent"),
        (("top", "m", "inconclusive"), "inconclusive"),
    ],
)
def test_verdict_is_turned_to_the_model(pair: tuple[str, str, str], word: str) -> None:
    a, b, verdict = pair
    ends = (0.1, 0.05, 0.2) if a == "top" else (-0.1, -0.2, -0.05)
    record = dict(zip(("difference", "low", "high"), ends, strict=True))
    pair_record = {"a": a, "b": b, **record, "p_holm": 0.01, "verdict": verdict}
    comparison = {"best": "top", "models": [{}, {}], "pairs": [pair_record]}
    found = verdict_against_best(comparison, "m")
    assert found is not None
    assert found.word == word
    assert found.detail.startswith("by 0.100 [0.050, 0.200]")


def test_fallen_back_ensemble_names_its_base_model_and_does_not_hide_it(tmp_path: Path) -> None:
    spec = SyntheticStudy(label="fallback", ensemble="best base", gradcam=False, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    dataset = collect_study(configuration=configuration, results=results).datasets[0]
    assert answer(dataset).model == "effnet_lite0"
    base, ensemble = dataset.find("effnet_lite0"), dataset.ensemble
    assert base is not None and ensemble is not None
    assert ensemble in dataset.drawn, "the choice of single folds may differ from that of all"
    others = tuple(model for model in dataset.models if not model.is_ensemble)
    same = replace(dataset, models=(*others, replace(ensemble, metrics=base.metrics)))
    assert {model.name for model in same.evaluated} - {model.name for model in same.drawn} == {"ensemble"}


def test_an_ensemble_of_its_own_is_drawn(study: StudyResult) -> None:
    assert study.datasets[0].drawn == study.datasets[0].evaluated


def test_tie_of_equal_predictions_is_no_half_of_a_first_place(study: StudyResult) -> None:
    dataset = study.datasets[0]
    assert dataset.comparison is not None
    best, second = (row["model"] for row in dataset.comparison["models"][:2])
    other = {best: second, second: best}
    models = [
        {**row, "p_rank1": 0.5 if (twin := other.get(row["model"])) else 0.0, "tied_with": [twin] if twin else []}
        for row in dataset.comparison["models"]
    ]
    tie = {"a": best, "b": second, "difference": 0.0, "low": 0.0, "high": 0.0, "verdict": "equivalent"}
    tied = replace(dataset, comparison={**dataset.comparison, "models": models, "pairs": [tie]})
    text = answer(tied).sentences[1]
    assert f"first in 100\u00a0% of the redrawn groups of patients (with {second}, which predicts the same)" in text
    # nor two models that are equivalent
    found = verdict_against_best(tied.comparison, second)
    assert found is not None and (found.word, found.tone) == (f"the same as {best}", "even")
    (row,) = pairs_table(tied).rows
    assert row[-1].text == "the same predictions"
    assert {cell.sub for line in verdict_matrix(tied).rows for cell in line[1:]} == {"", "the same predictions"}


def test_disturbed_timing_is_warned_of(tree: tuple[dict[str, Any], Path], study: StudyResult) -> None:
    dataset = study.datasets[0]
    assert dataset.timing is not None
    rows = [{**row, "p95_ms": 3 * row["median_ms"]} for row in dataset.timing["results"]]
    disturbed = replace(study, datasets=(replace(dataset, timing={**dataset.timing, "results": rows}),))
    assert "Disturbed timing" in [notice.title for notice in warnings_of(disturbed)]
    assert "Disturbed timing" not in [notice.title for notice in warnings_of(study)]


def test_results_json_is_valid_after_each_model(tmp_path: Path) -> None:
    spec = SyntheticStudy(label="growing", cam_cases=1, n_patients=30)
    configuration, results = write_study(tmp_path, spec)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in (*MODELS, "ensemble"):
        (results / "fundus" / name).rename(hidden / name)
    output = results / "results.json"
    for done, name in enumerate(("", *MODELS, "ensemble")):
        if name:
            (hidden / name).rename(results / "fundus" / name)
        refresh_results(configuration=configuration, results=results, output=output)
        document = json.loads(output.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        states = [row["status"] for row in document["rows"]]
        assert states.count("pending") == len(states) - done
        assert document["status"] == ("complete" if done == 4 else "running")


def test_results_json_survives_concurrent_writers(tree: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    configuration, results = tree
    output = tmp_path / "results.json"

    def write_and_read(_: int) -> int:
        refresh_results(configuration=configuration, results=results, output=output)
        return len(json.loads(output.read_text(encoding="utf-8"))["rows"])

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(write_and_read, range(12))) == {4}
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == ["results.json"]


def test_damaged_artifact_is_noted_not_raised(tmp_path: Path) -> None:
    configuration, results = write_study(tmp_path, SyntheticStudy(label="damaged", gradcam=False, n_patients=30))
    (results / "fundus" / "resnet18" / "metrics.json").write_text("{ half", encoding="utf-8")
    write_json(results / "fundus" / "timing.json", [])
    found = collect_study(configuration=configuration, results=results)
    assert found.without_result == (("fundus", "resnet18"),)
    assert found.datasets[0].models[1].status == "failed"
    assert "not valid JSON" in found.datasets[0].models[1].missing["metrics"]
    assert "not an object" in found.datasets[0].missing["timing"]


def test_files_of_an_earlier_run_count_as_absent(tmp_path: Path) -> None:
    configuration, results = write_study(tmp_path, SyntheticStudy(label="earlier", n_patients=30))
    folder = results / "fundus"
    outdated = [folder / "resnet18/metrics.json", folder / "resnet18/gradcam", folder / "comparison.json"]
    found = collect_study(configuration=configuration, results=results, outdated=outdated).datasets[0]
    model = found.find("resnet18")
    assert model is not None and model.metrics is None and model.gradcam is None
    assert "earlier run" in model.missing["metrics"] and "earlier run" in model.missing["gradcam"]
    assert model.calibration is not None and found.comparison is None
    assert all(other.metrics is not None for other in found.models if other.name != "resnet18")


STOPPED = "train fundus/resnet18 fold 0 seed 42 | asked to leave by SIGTERM: the same job goes on"


@pytest.mark.parametrize(
    ("job", "text", "failed", "status", "told"),
    [
        ("train/fundus/resnet18/fold0", "Traceback (most recent call last):\nRuntimeError: no", None, "failed", True),
        (
            "train/fundus/resnet18/fold0",
            "Traceback (most recent call)\nKeyboardInterrupt",
            None,
            "not finished",
            True,
        ),
        ("train/fundus/resnet18/fold0", STOPPED, None, "not finished", True),
        ("train/fundus/resnet34/fold0", "RuntimeError: no", None, "not finished", False),
        ("train/fundus/resnet18/fold0", "epoch 7", True, "failed", True),
        ("train/fundus/resnet18/fold0", "RuntimeError: of an earlier run", False, "not finished", True),
        ("train/fundus/resnet34/fold0", "RuntimeError: no", True, "not finished", False),
        ("train/other/resnet18/fold0", "RuntimeError: no", True, "not finished", False),
        ("prepare_dataset/fundus", "labels.csv: no such file", True, "not finished", True),
        ("fetch_weights/resnet18-imagenet", "can't be fetched", True, "not finished", True),
        ("prepare_dataset/other", "labels.csv: no such file", True, "not finished", False),
    ],
)
def test_a_model_without_result_failed_only_where_a_job_of_it_did(
    tmp_path: Path, job: str, text: str, failed: bool | None, status: str, told: bool
) -> None:
    log = tmp_path / "logs" / f"{job}.log"
    log.parent.mkdir(parents=True)
    log.write_text(text, encoding="utf-8")
    found = collect_study(
        configuration={"study": "s", "datasets": {"fundus": {}}, "models": {"resnet18": {}}},
        results=tmp_path / "results" / "s",
        logs=tmp_path / "logs",
        failed_logs=None if failed is None else [log] * failed,
    )
    (model,) = found.datasets[0].models
    assert model.status == status
    assert (model.log is not None and model.log.lines == tuple(text.split("\n"))) == told
    assert found.without_result == (("fundus", "resnet18"),)


def test_log_of_another_model_is_not_taken(tmp_path: Path) -> None:
    for name in ("resnet18", "resnet18-large"):
        path = tmp_path / "logs" / "train" / "fundus" / name / "fold0.log"
        path.parent.mkdir(parents=True)
        path.write_text(f"RuntimeError: in {name}\n", encoding="utf-8")
    found = find_failure_log(tmp_path / "logs", tmp_path / "results" / "study" / "fundus", "resnet18")
    assert found is not None
    assert found.lines == ("RuntimeError: in resnet18",)
    assert find_failure_log(tmp_path / "logs", tmp_path / "results" / "study" / "fundus", "resnet") is None


def test_progress_bar_counts_as_its_last_state(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"start\n 10 %\r 50 %\r100 %\n\xff broken\n")
    assert read_tail(tmp_path / "a.log") == ("start", "100 %", "� broken")


def test_precision_at_recall_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    positive = rng.random(200) < 0.3
    score = np.round(rng.normal(size=200) + positive, 1)  # ties
    grid = np.linspace(0, 1, 51)
    precision, recall, _ = precision_recall_curve(positive, score)
    precision, recall = precision[:-1], recall[:-1]  # without the point that no threshold reaches
    expected = [precision[recall >= r - 1e-12].max() for r in grid]
    np.testing.assert_allclose(precision_at_recall(positive, score, grid), expected, atol=1e-12)


def test_pareto_front_keeps_what_no_other_beats() -> None:
    points = [
        Point(name, ms, None, None, value, None, None)
        for name, ms, value in (("slow_best", 9, 0.9), ("fast", 1, 0.5), ("beaten", 5, 0.4), ("middle", 4, 0.7))
    ]
    assert [p.name for p in pareto_front(points)] == ["fast", "middle", "slow_best"]
    assert [p.name for p in pareto_front(points, lower_is_better=True)] == ["fast", "beaten"]


def test_lines_of_many_models_are_distinct() -> None:
    styles = line_styles([f"m{k}" for k in range(20)])
    assert len({(style.color, style.dash) for style in styles.values()}) == 20


def test_numbers_as_a_reader_sees_them() -> None:
    assert format_value(-0.0004) == "0.000"
    assert format_value(-0.25, 2) == "−0.25"
    assert format_value(None) == "–"
    assert format_si(11_181_642) == "11.2\u00a0M"
    assert format_count(12345) == "12\u202f345"


def test_wrap_loses_no_letter() -> None:
    name = "vit_base_patch16_224.augreg_in1k_long"
    assert wrap(name, 12).replace("\n", "") == name
    assert max(len(line) for line in wrap(name, 12).split("\n")) <= 12


def test_the_share_of_a_label_is_that_of_the_cases_in_which_it_is_known() -> None:
    """It was its share of all positives: of two labels that every case has, half each."""
    labels = [("Edema", 6, 4, 0), ("Fracture", 6, 2, 2)]
    audit = {
        "classes": [{"name": name, "n_cases": positive, "n_patients": 3} for name, positive, _, _ in labels],
        "labels": [
            {"name": n, "n_positive": p, "n_negative": q, "n_unknown": u, "n_positive_patients": 3}
            for n, p, q, u in labels
        ],
    }
    dataset = DatasetResult(
        name="chest", entry={"task": "multilabel"}, models=(), audit=audit, comparison=None, timing=None,
        same_cases=False, confidence=0.95, missing={},
    )  # fmt: skip
    table = next(table for table in audit_tables(dataset) if table.identifier == "class-counts-chest")
    assert [(row[2].text, row[2].sort) for row in table.rows] == [(format_share(0.6), 0.6), (format_share(0.75), 0.75)]


def test_volumes_are_shown_as_they_came() -> None:
    volumes = {
        "n_volumes": 5, "slices": [40, 310], "spacing_mm": [[1.0, 0.7, 0.7], [5.0, 0.9, 0.9]],
        "orientations": {"LPS": 4, "RAS": 1}, "already_rescaled": 3,
    }  # fmt: skip
    audit = {"classes": [], "volumes": volumes}
    dataset = DatasetResult(
        name="ct", entry={"task": "multilabel"}, models=(), audit=audit, comparison=None, timing=None,
        same_cases=False, confidence=0.95, missing={},
    )  # fmt: skip
    table = next(table for table in audit_tables(dataset) if table.identifier == "volumes-ct")
    said = [row[1].text for row in table.rows]
    assert said == ["40 to 310", "1 × 0.7 × 0.7 to 5 × 0.9 × 0.9", "4 × LPS, 1 × RAS", "3"]
