"""The results database: one SQLite file that remembers every finished study.

Writers may be on several nodes of a cluster that share the file over the network, where SQLite's write-ahead
log doesn't work; so transactions are short, take the write lock first, and wait for each other.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from archbench.leaderboard.run import Run

APPLICATION_ID = 0x61726368  # "arch": says whose file it is
BUSY_TIMEOUT_S = 60.0

# Each step leads from one version of the schema to the next; a released step is never edited.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            id TEXT PRIMARY KEY, added_at TEXT NOT NULL, study TEXT NOT NULL, dataset TEXT NOT NULL,
            task TEXT NOT NULL, model TEXT NOT NULL, data_hash TEXT NOT NULL, config_hash TEXT NOT NULL,
            code TEXT NOT NULL, primary_metric TEXT NOT NULL, phantom INTEGER NOT NULL, details TEXT NOT NULL)""",
        """CREATE TABLE metrics (
            run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, name TEXT NOT NULL, value REAL, low REAL,
            high REAL, n_cases INTEGER, n_patients INTEGER, reason TEXT, PRIMARY KEY (run_id, name))""",
        """CREATE TABLE timings (
            run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, runtime TEXT NOT NULL,
            batch_size INTEGER NOT NULL, median_ms REAL, p95_ms REAL, throughput_img_per_s REAL,
            PRIMARY KEY (run_id, runtime, batch_size))""",
        """CREATE TABLE predictions (
            run_id TEXT PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE, content BLOB NOT NULL)""",
        "CREATE INDEX runs_by_dataset ON runs (dataset, task, data_hash)",
    ),
    (  # runs of other sites; how an interval was made
        "ALTER TABLE runs ADD COLUMN site TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE metrics ADD COLUMN method TEXT",
        "ALTER TABLE predictions ADD COLUMN hashed_with TEXT",
    ),
)
VERSION = len(STEPS)
METRIC_COLUMNS = ("name", "value", "low", "high", "n_cases", "n_patients", "method", "reason")
TIMING_COLUMNS = ("runtime", "batch_size", "median_ms", "p95_ms", "throughput_img_per_s")
RUN_COLUMNS = (
    *("id", "added_at", "study", "dataset", "task", "model", "data_hash", "config_hash"),
    *("code", "primary_metric", "phantom", "details", "site"),
)


class DatabaseError(ValueError):
    """A results database that can't be used; the message says which file, why, and what to do."""


@contextmanager
def open_database(path: str | Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database, brought to the present schema; nothing is created unless `write`.

    An older file is copied aside before it is changed; read-only it is migrated in memory.

    Raises:
        DatabaseError: If it is missing, damaged, someone else's, newer than this code, locked or read-only.
    """
    path = Path(path)
    if write:
        _make_folder(path)
    elif not path.is_file():
        raise DatabaseError(f"no results database {path}: it is begun by the first study that finishes")
    try:
        with closing(_connect(path, write=write)) as connection:
            connection = _prepare(connection, path, write=write)
            with closing(connection):
                yield connection
    except sqlite3.Error as error:
        raise DatabaseError(_explained(path, error)) from error


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"{path} can't be made ({error.strerror}): set leaderboard.database to a file in a folder that exists and"
            " can be written, or to off"
        ) from error


def _connect(path: Path, *, write: bool) -> sqlite3.Connection:
    address = f"file:{quote(str(path.absolute()))}?mode={'rwc' if write else 'ro'}"
    connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA trusted_schema = OFF")  # an imported file runs no code
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, *, write: bool) -> sqlite3.Connection:
    """Check whose file it is and bring its schema to this version, under the write lock."""
    version = _checked_version(connection, path)
    if version == VERSION:
        return connection
    if not write:
        return _migrated_in_memory(connection, version)
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _checked_version(connection, path)  # another process may have been quicker
        if 0 < version < VERSION:
            _keep_copy(path, version)
        _migrate(connection, version)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return connection


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if owner != APPLICATION_ID and (tables or version):
        raise DatabaseError(f"{path} is a database of another program: name another file in leaderboard.database")
    if version > VERSION:
        raise DatabaseError(
            f"{path} has schema {version}, this archbench knows up to {VERSION}: a newer archbench wrote it; update"
            " this one, or name another file in leaderboard.database (nothing was changed)"
        )
    return version


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for step in STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _keep_copy(path: Path, version: int) -> None:
    """Copy an older file aside; the caller holds the write lock, so it is at rest."""
    kept = path.with_name(f"{path.name}.schema{version}")
    if not kept.exists():
        partial = kept.with_name(f"{kept.name}.{os.getpid()}")
        shutil.copy2(path, partial)
        os.replace(partial, kept)


def _migrated_in_memory(connection: sqlite3.Connection, version: int) -> sqlite3.Connection:
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.row_factory = sqlite3.Row
    connection.backup(memory)
    _migrate(memory, version)
    return memory


def _explained(path: Path, error: sqlite3.Error) -> str:
    text = str(error)
    if "locked" in text or "busy" in text:
        return f"{path} has been locked by another process for {BUSY_TIMEOUT_S:g} s: try again when it has finished"
    if isinstance(error, sqlite3.OperationalError) and ("readonly" in text or "unable to open" in text):
        return (
            f"{path} can't be written or opened ({text}): make its folder and file writable, or set"
            " leaderboard.database to another file, or to off"
        )
    if isinstance(error, sqlite3.OperationalError) and ("full" in text or "disk I/O" in text):
        return f"{path}: {text}; nothing of this study was added"
    return (
        f"{path} is damaged ({text}): move it away and begin a new one with"
        " `python scripts/leaderboard.py add results/*`; it was left as it is"
    )


def add_runs(connection: sqlite3.Connection, runs: Iterable[Run], *, update: bool = True) -> tuple[int, int]:
    """Add runs in one transaction; return how many were new and how many were there already.

    A run that is there keeps the day it came and its site.

    Args:
        update: Bring up to date what was measured of a run that is there.
    """
    new = known = 0
    connection.execute("BEGIN IMMEDIATE")
    try:
        for run in runs:
            if connection.execute("SELECT 1 FROM runs WHERE id = ?", (run.id,)).fetchone():
                if update:
                    _update(connection, run)
                known += 1
            else:
                _insert(connection, run)
                new += 1
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return new, known


def _insert(connection: sqlite3.Connection, run: Run) -> None:
    values = {**vars(run), "details": json.dumps(run.details, sort_keys=True, ensure_ascii=False)}
    places = ", ".join(f":{name}" for name in RUN_COLUMNS)
    connection.execute(f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}) VALUES ({places})", values)
    connection.execute(
        "INSERT INTO predictions (run_id, content, hashed_with) VALUES (?, ?, ?)",
        (run.id, run.predictions, run.hashed_with),
    )
    _insert_measured(connection, run)


def _update(connection: sqlite3.Connection, run: Run) -> None:
    details = json.dumps(run.details, sort_keys=True, ensure_ascii=False)
    connection.execute("UPDATE runs SET code = ?, details = ? WHERE id = ?", (run.code, details, run.id))
    for table in ("metrics", "timings"):
        connection.execute(f"DELETE FROM {table} WHERE run_id = ?", (run.id,))
    _insert_measured(connection, run)


def _insert_measured(connection: sqlite3.Connection, run: Run) -> None:
    for table, columns, rows in (
        ("metrics", METRIC_COLUMNS, run.metrics.values()),
        ("timings", TIMING_COLUMNS, run.timings),
    ):
        places = ", ".join("?" * (len(columns) + 1))
        connection.executemany(
            f"INSERT INTO {table} (run_id, {', '.join(columns)}) VALUES ({places})",
            [(run.id, *(row.get(name) for name in columns)) for row in rows],
        )


def read_runs(connection: sqlite3.Connection, wanted: Mapping[str, Sequence[str]] | None = None) -> list[Run]:
    """Return runs in the order in which they came.

    Args:
        wanted: Column (dataset, task, study, model, site, id) -> accepted values; empty lists accept all.
    """
    conditions = {name: list(values) for name, values in (wanted or {}).items() if values}
    where = " AND ".join(f"runs.{name} IN ({', '.join('?' * len(values))})" for name, values in conditions.items())
    rows = connection.execute(
        "SELECT runs.*, content, hashed_with FROM runs JOIN predictions ON run_id = id"
        f"{' WHERE ' + where if where else ''} ORDER BY added_at, runs.rowid",
        [value for values in conditions.values() for value in values],
    ).fetchall()
    return [_run(connection, row) for row in rows]


def _run(connection: sqlite3.Connection, row: sqlite3.Row) -> Run:
    def of(table: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        found = connection.execute(
            f"SELECT {', '.join(columns)} FROM {table} WHERE run_id = ? ORDER BY rowid", (row["id"],)
        )
        return [dict(item) for item in found]

    return Run(
        **{name: row[name] for name in RUN_COLUMNS if name not in ("details", "phantom")},
        phantom=bool(row["phantom"]),
        details=json.loads(row["details"]),
        metrics={record["name"]: record for record in of("metrics", METRIC_COLUMNS)},
        timings=of("timings", TIMING_COLUMNS),
        predictions=row["content"],
        hashed_with=row["hashed_with"],
    )
