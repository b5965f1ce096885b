"""The results database: what is added, two writers at once, and files that can't be used."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from board_fixtures import predictions_of, write_results

from archbench.artifacts import read_json, read_predictions, write_json
from archbench.leaderboard import database
from archbench.leaderboard.database import DatabaseError, add_runs, open_database, read_runs
from archbench.leaderboard.run import data_hash, predictions_hash
from archbench.leaderboard.study_runs import runs_of

ROOT = Path(__file__).resolve().parents[2]


def add(path: Path, folder: Path) -> tuple[int, int]:
    with open_database(path, write=True) as connection:
        return add_runs(connection, runs_of(folder).runs)


def everything(path: Path) -> list[database.Run]:
    with open_database(path) as connection:
        return read_runs(connection)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_results(tmp_path_factory.mktemp("study"), {"good": 3.0, "poor": 0.5}, latency_ms={"good": 9.0})


def test_a_study_comes_back_as_it_was_written(study: Path, tmp_path: Path) -> None:
    assert add(tmp_path / "a.sqlite", study) == (2, 0)
    good, poor = everything(tmp_path / "a.sqlite")
    recorded = read_json(study / "results.json")["datasets"]["fundus"]["models"]["good"]["metrics"]
    assert good.metrics == recorded["metrics"]
    assert good.primary == recorded["metrics"]["qwk"]
    assert (good.model, good.study, good.dataset, good.task) == ("good", "first", "fundus", "ordinal")
    assert (good.latency_ms, poor.latency_ms) == (9.0, None)
    assert good.details["hardware"]["cpu"] == "Test CPU"
    assert good.details["train_seconds"] == pytest.approx(18.0)
    assert good.data_hash == poor.data_hash
    whole = read_predictions(study / "fundus" / "good" / "predictions.parquet")
    np.testing.assert_array_equal(good.table().logits, whole.sorted().logits)
    assert good.table().metadata["decision"] == "expected_grade"


def test_adding_again_changes_nothing_but_what_was_measured(study: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / "a.sqlite", tmp_path / "results" / "first"
    shutil.copytree(study, folder)
    add(path, folder)
    before = everything(path)
    assert add(path, folder) == (0, 2)
    assert everything(path) == before
    content = read_json(folder / "results.json")
    content["datasets"]["fundus"]["timing"]["results"][0]["median_ms"] = 7.0
    write_json(folder / "results.json", content)
    assert add(path, folder) == (0, 2)
    assert everything(path)[0].latency_ms == 7.0
    assert everything(path)[0].added_at == before[0].added_at


def test_another_recipe_or_other_predictions_are_another_run(study: Path, tmp_path: Path) -> None:
    add(tmp_path / "a.sqlite", study)
    other = write_results(tmp_path, {"good": 3.0}, training={"lr": 1e-2})
    assert add(tmp_path / "a.sqlite", other) == (1, 0)
    again = write_results(tmp_path, {"good": 3.1})
    assert add(tmp_path / "a.sqlite", again) == (1, 0)
    assert len(everything(tmp_path / "a.sqlite")) == 4


def test_where_data_and_weights_lie_is_no_part_of_the_settings(tmp_path: Path) -> None:
    here = runs_of(write_results(tmp_path / "here", {"m": 2.0})).runs[0]
    there = runs_of(write_results(tmp_path / "there", {"m": 2.0})).runs[0]
    assert here.config_hash == there.config_hash
    assert here.id == there.id


def test_hashes_know_content_and_not_order() -> None:
    rows = predictions_of(2.0)
    mixed = rows.select(np.random.default_rng(0).permutation(len(rows)))
    assert data_hash(mixed) == data_hash(rows)
    assert predictions_hash(mixed) == predictions_hash(rows)
    assert data_hash(predictions_of(2.0, data_seed=2)) != data_hash(rows)
    assert predictions_hash(predictions_of(2.0, seed=43)) != predictions_hash(rows)


def test_metrics_that_are_not_those_of_the_predictions_are_left_out(tmp_path: Path) -> None:
    """A seed's tracker ranked models whose Dice nobody had computed from a prediction."""
    folder = write_results(tmp_path, {"honest": 2.0, "boasting": 1.0})
    content = read_json(folder / "results.json")
    content["datasets"]["fundus"]["models"]["boasting"]["metrics"]["metrics"]["qwk"]["value"] = 0.99
    write_json(folder / "results.json", content)
    found = runs_of(folder)
    assert [run.model for run in found.runs] == ["honest"]
    assert found.left_out[0].startswith("fundus/boasting: metrics.json says qwk 0.990000, its predictions give")


def test_models_without_results_are_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path, {"a": 2.0, "b": 1.0, "c": 1.0})
    (folder / "fundus" / "a" / "predictions.parquet").unlink()
    (folder / "fundus" / "b" / "predictions.parquet").write_bytes(b"nothing")
    content = read_json(folder / "results.json")
    failed = {"status": "failed", "metrics": None, "missing": {"metrics": "out of memory"}}
    content["datasets"]["fundus"]["models"]["c"] = failed
    write_json(folder / "results.json", content)
    found = runs_of(folder)
    assert not found.runs
    assert "a/predictions.parquet is missing" in found.left_out[0]
    assert "b/predictions.parquet is damaged" in found.left_out[1]
    assert found.left_out[2] == "fundus/c: was not evaluated (out of memory)"


WRITER = """
import sys
from archbench.leaderboard.database import add_runs, open_database
from archbench.leaderboard.study_runs import runs_of
runs = runs_of(sys.argv[2]).runs
sys.stdin.readline()
for run in runs:
    with open_database(sys.argv[1], write=True) as connection:
        add_runs(connection, [run])
"""


def test_two_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "shared.sqlite"
    skills = {f"m{k}": 0.5 + 0.1 * k for k in range(12)}
    folders = [write_results(tmp_path / name, skills, study=name) for name in ("one", "two")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(folder)], stdin=subprocess.PIPE, env=environment, text=True
        )
        for folder in folders
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.wait(timeout=300) for writer in writers] == [0, 0]
    assert len(everything(path)) == 24
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert connection.execute("SELECT count(*) FROM predictions").fetchone()[0] == 24


def test_a_writer_waits_for_another_and_says_so_when_it_takes_too_long(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    add(path, study)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.3)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    with pytest.raises(DatabaseError, match=r"has been locked by another process for 0\.3 s"):
        add(path, study)
    assert time.monotonic() - start >= 0.3
    holder.execute("ROLLBACK")
    holder.close()
    assert add(path, study) == (0, 2)


def test_a_run_that_cant_be_written_takes_the_whole_study_back(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    good, poor = runs_of(study).runs
    poor.details["odd"] = object()  # can't be written
    with pytest.raises(TypeError), open_database(path, write=True) as connection:
        add_runs(connection, [good, poor])
    assert everything(path) == []


def older_database(path: Path, study: Path) -> None:
    """A database of schema 1 with the runs of a study, as the first version wrote it."""
    with sqlite3.connect(path) as connection:
        for statement in database.STEPS[0]:
            connection.execute(statement)
        for run in runs_of(study).runs:
            connection.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}')",
                (
                    *(run.id, run.added_at, run.study, run.dataset, run.task, run.model, run.data_hash),
                    *(run.config_hash, run.code, run.primary_metric, 0),
                ),
            )
            connection.execute("INSERT INTO predictions VALUES (?, ?)", (run.id, run.predictions))
        connection.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")


def test_an_older_schema_is_migrated_and_a_copy_kept(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite"
    older_database(path, study)
    before = path.read_bytes()
    assert [run.site for run in everything(path)] == ["", ""], "reading migrates in memory"
    assert path.read_bytes() == before
    assert add(path, study) == (0, 2)
    assert path.with_name("old.sqlite.schema1").read_bytes() == before
    migrated = everything(path)
    assert [run.table().classes for run in migrated] == [run.table().classes for run in runs_of(study).runs]
    assert migrated[0].hashed_with is None
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == database.VERSION


def test_a_newer_schema_is_refused_and_left_alone(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    add(path, study)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for write in (False, True):
        refused = pytest.raises(DatabaseError, match="has schema 99, this archbench knows up to 2")
        with refused, open_database(path, write=write):
            pass
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is no database, it is a letter to a friend" * 40, None])
def test_a_damaged_file_is_named_and_left_as_it_is(study: Path, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.sqlite"
    add(path, study)
    if content is None:  # pages in the middle overwritten
        content = bytearray(path.read_bytes())
        content[4096:-4096] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(DatabaseError, match=r"a\.sqlite is damaged .* move it away and begin a new one"):
        add(path, study)
    assert path.read_bytes() == bytes(content)


def test_a_database_of_another_program_is_refused(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "theirs.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE letters (text TEXT)")
    with pytest.raises(DatabaseError, match="is a database of another program"):
        add(path, study)


def test_a_missing_database_is_not_made_by_reading(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="no results database"):
        everything(tmp_path / "none.sqlite")
    assert not list(tmp_path.iterdir())


def add_script(folder: Path, path: Path, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, str(ROOT / "scripts" / "add_to_leaderboard.py"), "--results", str(folder)]
    command += ["--database", str(path), "--output", str(folder / "leaderboard.json")]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_folder_that_cant_be_written_fails_no_study(study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "first"
    shutil.copytree(study, folder)
    kept = tmp_path / "kept"
    kept.mkdir()
    before: list[str] = []
    if os.geteuid() == 0:  # root may write anywhere, unless it gives that up
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root without setpriv (util-linux) can't be kept from writing")
        before = [setpriv, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override"]
    kept.chmod(0o555)
    try:
        done = add_script(folder, kept / "a.sqlite", *before)
    finally:
        kept.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "the study is complete but was not added" in done.stderr
    assert "a.sqlite can't be written or opened" in done.stderr
    told = read_json(folder / "leaderboard.json")
    assert "set leaderboard.database to another file, or to off" in told["problem"]
    assert not list(kept.iterdir())


@pytest.mark.parametrize("trouble", ["file in the way", "damaged", "no results"])
def test_no_trouble_of_the_database_fails_a_study(study: Path, tmp_path: Path, trouble: str) -> None:
    folder = tmp_path / "results" / "first"
    shutil.copytree(study, folder)
    path = tmp_path / "a.sqlite"
    if trouble == "file in the way":
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "a.sqlite"
    elif trouble == "damaged":
        path.write_bytes(b"x" * 4096)
    else:
        (folder / "results.json").write_text("{")
    done = add_script(folder, path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert read_json(folder / "leaderboard.json")["problem"]


def test_adding_a_study_is_quick_and_needs_no_torch(study: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "import add_to_leaderboard\n"
        f"add_to_leaderboard.main(['--results', {str(study)!r}, '--database', {str(tmp_path / 'a.sqlite')!r},\n"
        f"    '--output', {str(tmp_path / 'told.json')!r}])\n"
        "assert 'torch' not in sys.modules\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "told.json")["new"] == 2
    assert float(done.stdout) < 3.0, "CPU seconds; it takes half a second on an idle machine"
