"""What the report says of the timing: budget, runtimes, noise, disturbance, and what could not be timed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import write_study
from synthetic_study import SyntheticStudy
from synthetic_timing import isolation_account

from archbench.artifacts import read_json, write_json
from archbench.report.build import write_report
from archbench.report.collect import DatasetResult, StudyResult, collect_study
from archbench.report.cost_tables import training_table
from archbench.report.figures import render
from archbench.report.notices import warnings_of
from archbench.report.pareto_figure import pareto_panel
from archbench.report.quality_tables import main_table
from archbench.report.tables import to_text
from archbench.report.text import answer
from archbench.report.timing import isolation_sentence, runtime_name
from archbench.report.timing_budget import budget_sentences, budget_table, candidates
from archbench.report.timing_figures import TRADES, Spot, front_of, spots_of, stages_panel, trade_panels
from archbench.report.timing_tables import (
    batch_table,
    rounds_table,
    runtime_table,
    stages_table,
    start_table,
    work_table,
)
from archbench.report.timing_view import speed_view


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return write_study(tmp_path_factory.mktemp("timing"), SyntheticStudy(label="timing"))


@pytest.fixture(scope="module")
def study(tree: tuple[dict[str, Any], Path]) -> StudyResult:
    configuration, results = tree
    return collect_study(configuration=configuration, results=results)


@pytest.fixture
def dataset(study: StudyResult) -> DatasetResult:
    return study.datasets[0]


def changed(dataset: DatasetResult, **parts: Any) -> DatasetResult:
    return replace(dataset, timing={**(dataset.timing or {}), **parts})


def disturbed(dataset: DatasetResult) -> DatasetResult:
    return changed(dataset, isolation=isolation_account(disturbed=True))


def texts(table: Any) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_the_budget_is_kept_by_nearly_all_images_not_by_the_median(dataset: DatasetResult) -> None:
    found = candidates(dataset)
    values = [(c.model.record(dataset.primary) or {})["value"] for c in found]
    assert values == sorted(values, reverse=True)
    assert {c.runtime for c in found if c.measured} == {"onnxruntime"}, "each model in its fastest runtime"
    for c in (c for c in found if c.measured):
        assert (c.tail, c.high_ms) == ("p95", pytest.approx(1.3 * c.median_ms))
    fastest = min(found, key=lambda c: c.high_ms)
    between = (fastest.median_ms + fastest.high_ms) / 2
    assert "No model keeps within" in budget_sentences(dataset, between)[0]
    assert f"The nearest is {fastest.model.name}" in budget_sentences(dataset, between)[0]
    assert fastest.model.name in budget_sentences(dataset, fastest.high_ms)[0]


def test_a_wide_budget_takes_the_best_and_a_narrow_one_says_what_was_too_slow(dataset: DatasetResult) -> None:
    found = candidates(dataset)
    assert f": {found[0].model.name}" in budget_sentences(dataset, 1e6)[0]
    slow = max(found, key=lambda c: c.high_ms)
    best = changed(dataset)
    narrow = slow.high_ms * 0.999
    sentences = " ".join(budget_sentences(best, narrow))
    fits = [c for c in found if c.high_ms <= narrow]
    assert f"from file to answer: {fits[0].model.name}" in sentences
    assert ("Better, but too slow" in sentences) == (found[0] is slow)
    table = budget_table(dataset, narrow)
    assert table is not None
    assert [row[-1] for row in texts(table)] == ["no" if c is slow else "yes" for c in found]


def test_without_whole_images_the_budget_says_so(dataset: DatasetResult) -> None:
    assert "on prepared input" in budget_sentences(changed(dataset, end_to_end=[]), 1e6)[0]
    assert budget_sentences(replace(dataset, timing=None), 50.0) == []


def test_an_ensemble_costs_the_sum_of_its_members(dataset: DatasetResult) -> None:
    summed = [c for c in candidates(dataset) if not c.measured]
    ensemble = dataset.ensemble
    assert ensemble is not None and len(ensemble.members) > 1
    (found,) = summed
    members = {c.model.name: c for c in candidates(dataset) if c.measured}
    assert found.median_ms == pytest.approx(sum(members[name].median_ms for name in ensemble.members))


def test_the_batch_table_has_every_runtime_and_owes_a_reason(dataset: DatasetResult) -> None:
    table = batch_table(dataset)
    assert table is not None
    models = list(dict.fromkeys(row["model"] for row in (dataset.timing or {})["results"]))
    assert [row[:2] for row in texts(table)] == [[m, r] for m in models for r in ("ONNX Runtime", "PyTorch")]
    assert table.notes == ["p99 and its interval need 368 calls: raise inference.calls or rounds"]


def test_what_failed_is_struck_through_and_never_ranked(dataset: DatasetResult) -> None:
    model = dataset.evaluated[0].name
    failed = {
        **(dataset.timing or {})["contenders"][0],
        "model": model,
        "runtime": "onnxruntime_int8",
        "status": "unsupported",
        "reason": "no rung exports it",
    }
    with_failed = changed(dataset, contenders=[*(dataset.timing or {})["contenders"], failed])
    table = runtime_table(with_failed)
    assert table is not None
    row = table.rows[-1]
    assert [cell.tone for cell in row[:2]] == ["struck", "struck"] and row[1].text == "ONNX Runtime, int8"
    assert all(cell.interval is None for cell in row) and "no rung exports it" in table.notes[-1]
    assert "onnxruntime_int8" not in {c.runtime for c in candidates(with_failed)}
    assert start_table(with_failed) == start_table(dataset)


@pytest.mark.parametrize(("verdict", "tone"), [("slower", "bad"), ("faster", "good"), ("indistinguishable", "even")])
def test_verdicts_of_runtimes_are_toned(dataset: DatasetResult, verdict: str, tone: str) -> None:
    rows = [{**row, "verdict": verdict} for row in (dataset.timing or {})["speedups"]]
    table = runtime_table(changed(dataset, speedups=rows))
    assert table is not None
    assert {(row[-1].text, row[-1].tone) for row in table.rows} == {(verdict, tone)}
    doubtful = runtime_table(disturbed(changed(dataset, speedups=rows)))
    assert doubtful is not None
    assert {(row[-1].sub, row[-1].tone) for row in doubtful.rows} == {("disturbed", "open")}


def test_stages_start_work_and_rounds_are_told(dataset: DatasetResult) -> None:
    stages, start, work, rounds = (make(dataset) for make in (stages_table, start_table, work_table, rounds_table))
    assert stages is not None and start is not None and work is not None and rounds is not None
    assert stages.rows[0][2].text == "3.00" and stages.rows[0][2].sub.endswith("%")
    assert start.rows[0][2].text == "900\u00a0ms" and start.rows[0][4].sub == "130"
    assert "unavailable: no counter" in start.notes
    assert work.rows[0][3].text == "0.250" and work.rows[0][4].text == "relu, batch_norm_legit_no_training"
    assert [row[1] for row in texts(rounds)] == ["no"] + ["yes"] * 9
    panel = stages_panel(dataset)
    assert panel is not None and "decode 3.00 ms" in panel.alt and render(panel).uri


def test_a_disturbed_timing_is_marked_and_in_no_headline(study: StudyResult, dataset: DatasetResult) -> None:
    quiet, marked = dataset, disturbed(dataset)
    assert "ms an image" in " ".join(answer(quiet).sentences).replace("\u00a0", " ")
    said = " ".join(answer(marked).sentences).replace("\u00a0", " ")
    assert "ms an image" not in said and "times faster" not in said
    notices = {n.title: n.text for n in warnings_of(replace(study, datasets=(marked,)))}
    assert "others used the processors" in notices["Disturbed timing"]
    assert "The timing was disturbed" in budget_sentences(marked, 1e6)[-1]
    quiet_panel, panel = pareto_panel(quiet), pareto_panel(marked)
    assert panel is not None and "(timing disturbed)" in panel.title
    assert quiet_panel is not None and "disturbed" not in quiet_panel.title


def test_the_isolation_is_told_in_a_sentence(dataset: DatasetResult) -> None:
    assert isolation_sentence(dataset) == (
        "No neighbour disturbed the 9 rounds (others used at most 1\u00a0% of the processors); "
        "1 more was timed and left out."
    )
    assert "The result counts as disturbed" in isolation_sentence(disturbed(dataset))
    few = isolation_account(disturbed=True) | {"disturbed": False, "disturbed_rounds": 2}
    assert "The medians stand" in isolation_sentence(changed(dataset, isolation=few))


def test_fronts_follow_the_direction_of_both_axes() -> None:
    def spot(name: str, cost: float, quality: float) -> Spot:
        return Spot(name, (cost, None, None), (quality, None, None))

    spots = [spot("cheap", 1, 0.6), spot("good", 4, 0.9), spot("beaten", 5, 0.8)]
    names = [s.name for s in front_of(spots, more_is_better=False, lower_is_better=False)]
    assert names == ["cheap", "good"]
    assert [s.name for s in front_of(spots, more_is_better=True, lower_is_better=False)] == ["beaten", "good"]
    assert [s.name for s in front_of(spots, more_is_better=False, lower_is_better=True)] == ["cheap"]


def test_every_trade_is_drawn_with_its_intervals(dataset: DatasetResult) -> None:
    panels = trade_panels(dataset)
    assert [panel.title.split(",")[0].split(" against ")[1] for panel in panels] == ["throughput", "memory", "size"]
    throughput = spots_of(dataset, TRADES[0])[0]
    value, low, high = throughput.cost
    assert low is not None and high is not None and low < value < high
    for panel in panels:
        assert render(panel).uri.startswith("data:image/svg+xml")
        assert "Pareto front:" in panel.alt


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("onnxruntime", "ONNX Runtime"),
        ("torch_compile_cuda", "torch.compile, cuda"),
        ("onnxruntime_int8_dynamic", "ONNX Runtime, int8 dynamic"),
        ("tvm", "tvm"),
    ],
)
def test_runtimes_have_names(label: str, name: str) -> None:
    assert runtime_name(label) == name


def test_the_page_shows_it_and_lives_without_what_older_timings_lack(
    tree: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    configuration, results = tree
    budget = {**configuration, "inference": {**configuration["inference"], "budget_ms": 12.5}}
    write_report(configuration=budget, results=results, output=tmp_path / "new", logs=tmp_path / "logs")
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert "Which one for 12.5" in page and "Where the time goes" in page and "Each round of the timing" in page
    file = results / next(iter(configuration["datasets"])) / "timing.json"
    timing = read_json(file)
    try:
        keys = ("provenance", "hardware", "rounds", "results", "speedups")
        plain = [{k: v for k, v in row.items() if k not in ("floor", "verdict")} for row in timing["speedups"]]
        write_json(file, {key: timing[key] for key in keys} | {"speedups": plain})
        write_report(configuration=budget, results=results, output=tmp_path / "old", logs=tmp_path / "logs")
    finally:
        write_json(file, timing)
    page = (tmp_path / "old" / "report.html").read_text(encoding="utf-8")
    assert "Which one for 12.5" in page and "Whether others used the machine was not recorded" in page


def words_of(view: Any) -> str:
    """Every text of nested results: sentences, tables, alternative texts."""
    if isinstance(view, str):
        return view
    if isinstance(view, dict):
        return " ".join(words_of(part) for part in view.values())
    if isinstance(view, list | tuple):
        return " ".join(words_of(part) for part in view)
    if hasattr(view, "__dataclass_fields__"):
        return " ".join(words_of(getattr(view, name)) for name in view.__dataclass_fields__)
    return ""


def test_volumes_are_not_called_images(study: StudyResult, dataset: DatasetResult) -> None:
    of_volumes = replace(dataset, entry={**dataset.entry, "volumes": {"slices": {"count": 4}}})
    for one, unit, other in ((dataset, "image", "volume"), (of_volumes, "volume", "image")):
        told = replace(study, datasets=(one,))
        tables = [training_table(one), main_table(one), speed_view(told, one)]
        said = words_of([*tables, answer(one).sentences, pareto_panel(one)]).replace("\u00a0", " ")
        said = re.sub(r"data:image\S+", "", said)
        article = "an image" if unit == "image" else "a volume"
        for words in (f"ms {article}", f"ms / {unit}", f"{unit}s / s", f"{unit}s per second", f"one {unit}"):
            assert words in said, (unit, words)
        wrong = re.findall(rf"[^.;]*\b{other}s?\b[^.;]*", said)
        assert not wrong
        text = to_text(told)
        assert f"ms/{unit}" in text and f"{unit}s/s" in text and f"{other}s/s" not in text
        assert f"ms per {unit}" in drawn_words(pareto_panel(one)) + drawn_words(stages_panel(one))


def drawn_words(panel: Any) -> str:
    """The labels of the axes of a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel.width, panel.height), layout="constrained")
    panel.draw(figure)
    return " ".join(axes.get_xlabel().replace("\n", " ") for axes in figure.axes)
