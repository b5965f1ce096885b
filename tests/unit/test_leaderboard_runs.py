"""Runs of several studies: ranked by quality, compared case by case, exchanged between sites."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_fixtures import predictions_of, script, write_results
from label_tables import label_table, zone_table

from archbench.artifacts import Predictions, read_json, write_json
from archbench.comparison import compare
from archbench.leaderboard.board_page import render_board
from archbench.leaderboard.database import DatabaseError, add_runs, open_database, read_runs
from archbench.leaderboard.exchange import export_runs, import_runs, read_key
from archbench.leaderboard.ranking import Group, PairTesting, Ranked, rank_runs
from archbench.leaderboard.run import Run, hidden_names
from archbench.leaderboard.run_board import headline, news, run_document, run_markdown, run_page
from archbench.leaderboard.study_runs import runs_of
from archbench.leaderboard.versus import compare_runs

QUICK = PairTesting(resamples=300)
leaderboard = script("leaderboard")


def runs(root: Path, skills: dict[str, float], study: str, day: int = 1, **settings: Any) -> list[Run]:
    """The runs of a study that was finished on a day of January."""
    found = runs_of(write_results(root, skills, study=study, **settings)).runs
    return [replace(run, added_at=f"2026-01-{day:02d}T00:00:00+00:00") for run in found]


def only(groups: list[Group]) -> Group:
    assert len(groups) == 1
    return groups[0]


def store(path: Path, found: list[Run]) -> Path:
    with open_database(path, write=True) as connection:
        add_runs(connection, found)
    return path


def everything(path: Path) -> list[Run]:
    with open_database(path) as connection:
        return read_runs(connection)


def test_quality_ranks_and_nothing_else(tmp_path: Path) -> None:
    """A seed's tracker ranked by success and speed."""
    speed = {"slow": 900.0, "fast": 0.1}
    found = runs(tmp_path, {"fast": 0.5, "slow": 3.0}, "first", latency_ms=speed)
    found[1] = replace(found[1], details={**found[1].details, "status": "incomplete"})
    group = only(rank_runs(found, QUICK))
    assert [(entry.rank, entry.run.model) for entry in group.ranked] == [(1, "slow"), (2, "fast")]
    assert group.ranked[1].against_first is not None
    assert group.ranked[1].against_first["verdict"] == "better", "the first is better, and that is tested"


def with_primary(run: Run, name: str, value: float | None) -> Run:
    record = {"name": name, "value": value, "low": None, "high": None, "reason": None if value else "one class"}
    return replace(run, primary_metric=name, metrics={name: {**record, "n_cases": 80, "n_patients": 40}})


def test_a_latency_is_the_headline_runtimes_and_marked_where_others_disturbed_it(tmp_path: Path) -> None:
    folder = write_results(tmp_path, {"good": 2.0}, latency_ms={"good": 9.0})
    content = read_json(folder / "results.json")
    timing = content["datasets"]["fundus"]["timing"]
    timing["results"].append({"model": "good", "runtime": "onnxruntime_cuda", "batch_size": 1, "median_ms": 2.0})
    timing |= {"headline": "onnxruntime_cuda", "isolation": {"disturbed": True}}
    write_json(folder / "results.json", content)
    (run,) = runs_of(folder).runs
    assert run.latency_ms == 2.0
    page = run_page([Group("fundus", "ordinal", "qwk", True, run.data_hash, [Ranked(run, 1)])], database="a.sqlite")
    latency = page.sections[0].table.rows[0][4]
    assert (latency.text, latency.tone) == ("2.00", "warn") and "others disturbed the timing" in latency.sub


def test_smaller_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 1.0, "b": 2.0}, "first")
    group = only(rank_runs([with_primary(found[0], "mae", 3.0), with_primary(found[1], "mae", 2.0)], PairTesting(0)))
    assert [entry.run.model for entry in group.ranked] == ["b", "a"]
    assert not group.greater_is_better


def value_table(skill: float, seed: int = 1) -> Predictions:
    """A regression of two cases a patient."""
    rows = predictions_of(1.0)
    truth = rows.targets.astype(float)
    noise = np.random.default_rng([seed, int(100 * skill)]).normal(size=truth.shape) / skill
    value = {"outputs": "value"}
    return replace(rows, logits=(truth + noise).astype(np.float32), classes=("grade",), metadata=value)


@pytest.mark.parametrize(
    ("task", "draw", "settings"),
    [
        ("multilabel", label_table, {}),
        ("multilabel", label_table, {"seeds": (1, 2)}),
        ("zones", zone_table, {"with_class": True}),
        ("zones", zone_table, {}),
        ("regression", value_table, {}),
    ],
)
def test_every_task_is_kept_ranked_and_compared(tmp_path: Path, task: str, draw: Any, settings: Any) -> None:
    folder = write_results(tmp_path, {"poor": 0.5, "good": 3.0}, task=task, draw=draw, **settings)
    found = runs_of(folder)
    assert found.left_out == []
    database = store(tmp_path / "d.sqlite", found.runs)
    group = only(rank_runs(everything(database), QUICK))
    assert [entry.run.model for entry in group.ranked] == ["good", "poor"]
    against = group.ranked[1].against_first
    assert against is not None
    assert against.get("verdict") == "better", against
    assert "good" in render_board(run_page([group], database="d"))
    assert import_runs(tmp_path / "theirs.sqlite", database, site="B").refused == []


def test_an_undefined_metric_is_last_and_has_no_rank(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 1.0, "b": 2.0}, "first")
    group = only(rank_runs([with_primary(found[0], "qwk", None), with_primary(found[1], "qwk", -0.2)], PairTesting(0)))
    assert [(entry.run.model, entry.rank) for entry in group.ranked] == [("b", 1), ("a", None)]
    assert "one class" in render_board(run_page([group], database="d"))


def test_equal_values_share_a_rank(tmp_path: Path) -> None:
    found = [
        *runs(tmp_path, {"m": 2.0}, "first"),
        *runs(tmp_path, {"m": 2.0}, "second", 2),
        *runs(tmp_path, {"m": 0.1}, "third", 3),
    ]
    group = only(rank_runs(found, QUICK))
    assert [entry.rank for entry in group.ranked] == [1, 1, 3]
    assert "Equal in value: m of second." in headline(group)


def test_the_paired_difference_is_that_of_the_shared_statistics(tmp_path: Path) -> None:
    before, after = runs(tmp_path, {"before": 1.0, "after": 2.0}, "first")
    row = compare_runs(before, after, resamples=500, confidence=0.95)
    tables = {"before": predictions_of(1.0), "after": predictions_of(2.0)}
    pair = compare(tables, primary="qwk", resamples=500, confidence=0.95, seed=0)["pairs"][0]
    assert pair["a"] == "after"
    for name in ("difference", "low", "high", "p"):
        assert row[name] == pytest.approx(pair[name], abs=1e-12)
    turned = compare_runs(after, before, resamples=500, confidence=0.95)
    assert turned["difference"] == pytest.approx(-row["difference"])
    assert turned["low"] == pytest.approx(-row["high"])


@pytest.mark.parametrize(
    ("skill", "answer"), [(4.0, "Yes: QWK +"), (1.5, "No, they are equivalent"), (0.3, "No, it is worse")]
)
def test_is_this_better_than_what_we_had(tmp_path: Path, skill: float, answer: str) -> None:
    found = runs(tmp_path, {"good": 1.5, "poor": 0.5}, "before") + runs(tmp_path, {"new": skill}, "after", 2)
    group = only(rank_runs(found, QUICK))
    said = news(group)
    assert said.startswith("Is the newest, new of after, better than the best before it, good of before?")
    assert answer in said


def test_with_one_study_there_is_nothing_to_be_better_than(tmp_path: Path) -> None:
    group = only(rank_runs(runs(tmp_path, {"a": 1.0, "b": 2.0}, "first"), QUICK))
    assert group.news is None
    assert news(group) == ""


def test_other_seeds_and_folds_are_compared_with_a_note(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 1.0}, "first") + runs(tmp_path, {"a": 3.0}, "second", 2, seed=7)
    group = only(rank_runs(found, QUICK))
    assert "Yes" in news(group)
    assert "no seed in common" in news(group)


def test_other_cases_are_not_ranked_together_and_not_compared(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 1.0}, "first") + runs(tmp_path, {"a": 3.0}, "second", 2, data_seed=9)
    groups = rank_runs(found, QUICK)
    assert [group.ranked[0].run.study for group in groups] == ["second", "first"], "the newest data first"
    said = news(groups[0])
    assert "It can't be said: not comparable:" in said
    assert "have another target in the second study" in said
    assert any("2 versions of this dataset" in note for note in groups[0].notes)
    other = replace(found[1], task="multiclass", primary_metric="auroc_macro")
    assert "ranked by different metrics" in compare_runs(found[0], other, resamples=300, confidence=0.95)["reason"]


def test_shared_cases_of_a_grown_dataset_are_compared(tmp_path: Path) -> None:
    """Cases that were added since leave the others comparable."""
    small = runs(tmp_path, {"a": 1.0}, "small")[0]
    grown = runs(tmp_path, {"a": 3.0}, "grown", 2)[0]
    rows = small.table()
    kept = rows.select(np.isin(rows.patient_id, np.unique(rows.patient_id)[:30]))
    from archbench.leaderboard.run import data_hash, stored_table

    small = replace(small, predictions=stored_table(kept), data_hash=data_hash(kept))
    groups = rank_runs([small, grown], QUICK)
    assert "Yes" in news(groups[0])
    assert "20 cases only in the second study were left out" in news(groups[0])


def test_a_damaged_table_is_named_and_loses_nothing_else(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 3.0, "b": 1.0}, "first")
    found[1] = replace(found[1], predictions=b"PAR1 no")
    group = only(rank_runs(found, QUICK))
    reason = group.ranked[1].against_first
    assert reason is not None
    assert "the stored predictions of b of first are damaged" in reason["reason"]


def test_text_of_the_data_stays_text(tmp_path: Path) -> None:
    found = runs(tmp_path, {"m": 1.0}, "first")
    evil = '<script>alert("x")</script>|'
    odd = replace(found[0], model=evil, study=f"'{evil}", dataset=evil, site=evil, task="ordinal")
    groups = rank_runs([odd], QUICK)
    page = render_board(run_page(groups, database=evil))
    assert "<script>alert" not in page
    assert page.count("<script>") == 1, "our own"
    assert "<script>" not in run_markdown(groups, database=evil)
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page


def test_the_document_holds_what_the_page_shows(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 3.0, "b": 0.5}, "first", latency_ms={"a": 4.0})
    groups = rank_runs(found, QUICK)
    write_json(tmp_path / "runs.json", run_document(groups, database="d"))
    first = read_json(tmp_path / "runs.json")["groups"][0]["runs"][0]
    assert (first["rank"], first["model"], first["timings"][0]["median_ms"]) == (1, "a", 4.0)
    assert first["primary"] == found[0].primary
    page = render_board(run_page(groups, database="d"))
    assert f"{found[0].primary['value']:.3f}" in page
    assert "It is better than 1 of the 1 others" in headline(groups[0])
    assert "chosen among 2 runs" in page


def export(tmp_path: Path, found: list[Run], **settings: Any) -> Path:
    target = tmp_path / "theirs.archbench"
    export_runs(store(tmp_path / "theirs.sqlite", found), target, site="site B", **settings)
    return target


def test_two_sites_compare(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours.sqlite", runs(tmp_path / "a", {"good": 3.0}, "ours"))
    source = export(tmp_path, runs(tmp_path / "b", {"poor": 0.4, "other": 1.0}, "theirs", 2))
    done = import_runs(ours, source)
    assert (done.new, done.known, done.refused) == (2, 0, [])
    group = only(rank_runs(everything(ours), QUICK))
    assert [entry.run.name for entry in group.ranked] == [
        "good of ours",
        "other of theirs (site B)",
        "poor of theirs (site B)",
    ]
    assert "site B" in render_board(run_page([group], database="d"))
    again = import_runs(ours, source)
    assert (again.new, again.known) == (0, 2), "duplicates are recognised"
    assert len(everything(ours)) == 3


def test_ones_own_runs_that_come_back_are_known(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours.sqlite", runs(tmp_path / "a", {"good": 3.0}, "ours"))
    export_runs(ours, tmp_path / "out", site="site A", key=b"")
    assert import_runs(ours, tmp_path / "out").known == 1
    (run,) = everything(ours)
    assert (run.site, run.hashed_with) == ("", None), "nothing of one's own is replaced"


def test_filters_choose_what_leaves(tmp_path: Path) -> None:
    path = store(tmp_path / "d.sqlite", runs(tmp_path, {"a": 1.0, "b": 2.0}, "s"))
    left = export_runs(path, tmp_path / "out", site="x", wanted={"model": ["b"], "study": []})
    assert [run.model for run in left] == ["b"]
    with pytest.raises(ValueError, match=r"no run of .* matches: nothing was exported"):
        export_runs(path, tmp_path / "none", site="x", wanted={"model": ["c"]})
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="exists: name a new file"):
        export_runs(path, tmp_path / "out", site="x")


@pytest.mark.parametrize("keyed", [False, True])
def test_hidden_case_names_still_compare(tmp_path: Path, keyed: bool) -> None:
    key = b"a key that both sites share" if keyed else b""
    ours = runs(tmp_path / "a", {"good": 3.0}, "ours")
    source = export(tmp_path, runs(tmp_path / "b", {"poor": 0.4}, "theirs"), key=key)
    content = source.read_bytes()
    assert b"p007" not in content
    database = store(tmp_path / "ours.sqlite", ours)
    assert import_runs(database, source).new == 1
    theirs = next(run for run in everything(database) if run.site)
    assert not np.isin(theirs.table().case_id, predictions_of(1.0).case_id).any()
    plain = compare_runs(ours[0], runs(tmp_path / "b", {"poor": 0.4}, "theirs")[0], resamples=300, confidence=0.95)
    hidden = compare_runs(ours[0], theirs, resamples=300, confidence=0.95, keys=(b"", key))
    assert hidden["difference"] == pytest.approx(plain["difference"])
    without = compare_runs(ours[0], theirs, resamples=300, confidence=0.95)
    assert ("give it with --key-file" in without.get("reason", "")) == keyed


def test_two_keys_can_not_be_paired(tmp_path: Path) -> None:
    found = runs(tmp_path, {"a": 1.0}, "s")[0]
    rows = [replace(found, hashed_with=name) for name in ("one", "two")]
    assert "two different keys" in compare_runs(*rows, resamples=300, confidence=0.95)["reason"]


def test_hidden_names_stay_apart() -> None:
    rows = predictions_of(1.0)
    hidden = hidden_names(rows, b"key")
    assert len(np.unique(hidden.case_id)) == len(np.unique(rows.case_id))
    assert len(np.unique(hidden.patient_id)) == len(np.unique(rows.patient_id))
    assert not np.array_equal(hidden.case_id, hidden_names(rows, b"other").case_id)


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("abc\n")
    with pytest.raises(ValueError, match="holds 3 bytes: a key needs 16"):
        read_key(tmp_path / "key")


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE metrics SET value = 0.99 WHERE name = 'qwk'", "metrics.json says qwk 0.990000"),
        ("UPDATE runs SET model = 'mine'", "its name or its data were changed"),
        ("UPDATE runs SET data_hash = 'abc'", "its name or its data were changed"),
        ("UPDATE predictions SET content = x'00'", "are damaged"),
    ],
)
def test_what_was_doctored_is_refused(tmp_path: Path, statement: str, said: str) -> None:
    source = export(tmp_path, runs(tmp_path, {"a": 1.0}, "s"))
    with sqlite3.connect(source) as connection:
        connection.execute(statement)
    done = import_runs(tmp_path / "ours.sqlite", source)
    assert done.new == 0
    assert said in done.refused[0]
    assert everything(tmp_path / "ours.sqlite") == []


def test_a_whole_database_needs_a_name_for_its_site(tmp_path: Path) -> None:
    theirs = store(tmp_path / "theirs.sqlite", runs(tmp_path, {"a": 1.0}, "s"))
    with pytest.raises(ValueError, match="name the place with --as-site"):
        import_runs(tmp_path / "ours.sqlite", theirs)
    assert import_runs(tmp_path / "ours.sqlite", theirs, site="B").new == 1
    assert everything(tmp_path / "ours.sqlite")[0].site == "B"


def test_a_file_that_is_no_export_is_named(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear colleague " * 100)
    with pytest.raises(DatabaseError, match=r"letter is damaged|letter is a database of another program"):
        import_runs(tmp_path / "ours.sqlite", tmp_path / "letter")


def test_the_commands_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_results(tmp_path, {"a": 3.0, "b": 0.5}, study="mine")
    assert leaderboard.main(["add", str(folder), str(tmp_path / "nowhere")]) == 1
    told = capsys.readouterr()
    assert "2 runs added to results/archbench.sqlite, 0 were there already" in told.out
    assert "nowhere" in told.err
    assert leaderboard.main(["runs", "--resamples", "200"]) == 0
    assert (tmp_path / "results/leaderboard/runs.html").is_file()
    assert "First: a of mine" in capsys.readouterr().out
    assert leaderboard.main(["runs", "--resamples", "0", "--model", "b"]) == 0
    assert "a of mine" not in capsys.readouterr().out
    assert leaderboard.main(["export", "out.archbench", "--as-site", "A", "--hash-cases"]) == 0
    assert "can be guessed" in capsys.readouterr().err
    assert leaderboard.main(["import", "out.archbench", "--database", "other.sqlite"]) == 0
    assert leaderboard.main(["runs", "--database", "other.sqlite", "--site", "B", "--output-dir", "none"]) == 0
    assert "No run matches" in (tmp_path / "none/runs.html").read_text()
    with pytest.raises(ValueError, match=r"leaderboard\.database: off"):
        leaderboard.main(["runs", "--database", ""])
