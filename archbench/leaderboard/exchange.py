"""Runs to and from a file, so that two sites can compare: the file is a results database of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from archbench.artifacts import ArtifactError, atomic_path
from archbench.leaderboard.database import DatabaseError, add_runs, open_database, read_runs
from archbench.leaderboard.run import (
    Run,
    data_hash,
    digest,
    hidden_names,
    key_fingerprint,
    predictions_hash,
    stored_table,
)
from archbench.leaderboard.study_runs import check_primary

SHORTEST_KEY = 16


@dataclass(frozen=True)
class Imported:
    """What came of an import: runs added, runs that were there, and in words what was refused."""

    new: int
    known: int
    refused: list[str]


def read_key(path: str | Path) -> bytes:
    """Read the key that hides case names; both sites need the same file.

    Raises:
        ValueError: If it is too short to keep names from being guessed.
    """
    key = Path(path).read_bytes().strip()
    if len(key) < SHORTEST_KEY:
        raise ValueError(f"{path} holds {len(key)} bytes: a key needs {SHORTEST_KEY} (openssl rand -hex 32 > {path})")
    return key


def export_runs(
    database: str | Path,
    target: str | Path,
    *,
    site: str,
    wanted: Mapping[str, Sequence[str]] | None = None,
    key: bytes | None = None,
) -> list[Run]:
    """Write runs to a new file; return what is in it.

    Args:
        site: Name of this site; runs that came from another keep theirs.
        wanted: See `read_runs`.
        key: Hide case and patient names with it; the empty key hides them from a glance only.
    Raises:
        ValueError: If nothing matches, or the file exists.
    """
    target = Path(target)
    if target.exists():
        raise ValueError(f"{target} exists: name a new file, or remove it first")
    with open_database(database) as connection:
        runs = [_leaving(run, site, key) for run in read_runs(connection, wanted)]
    if not runs:
        raise ValueError(f"no run of {database} matches: nothing was exported")
    with atomic_path(target) as temporary:
        temporary.unlink()
        with open_database(temporary, write=True) as connection:
            add_runs(connection, runs)
    return runs


def _leaving(run: Run, site: str, key: bytes | None) -> Run:
    run = replace(run, site=run.site or site)
    if key is None or run.hashed_with is not None:
        return run
    return replace(run, predictions=stored_table(hidden_names(run.table(), key)), hashed_with=key_fingerprint(key))


def import_runs(
    database: str | Path, source: str | Path, *, site: str = "", wanted: Mapping[str, Sequence[str]] | None = None
) -> Imported:
    """Add the runs of a file that aren't there yet; each is checked against its own predictions.

    Args:
        site: Where runs were made that don't say it themselves (another site's whole database).
    Raises:
        DatabaseError: If the file can't be read.
        ValueError: If runs don't say where they were made, and `site` doesn't either.
    """
    with open_database(source) as connection:
        offered = read_runs(connection, wanted)
    with open_database(database, write=True) as connection:
        here = {run.id for run in read_runs(connection)}
        coming, refused = [], []
        for run in offered:
            if run.id in here:
                continue
            if not (run.site or site):
                raise ValueError(f"{source} doesn't say where its runs were made: name the place with --as-site")
            try:
                coming.append(replace(_checked(run), site=run.site or site))
            except ValueError as error:
                refused.append(f"{run.name}: {error}")
        new, known = add_runs(connection, coming, update=False)
    return Imported(new, len(offered) - len(coming) - len(refused) + known, refused)


def _checked(run: Run) -> Run:
    """Refuse a run whose metric, data or identity isn't that of its predictions.

    Raises:
        ArtifactError: If the table is damaged.
        ValueError: If something doesn't belong together.
    """
    try:
        rows = run.table()
    except (OSError, ValueError) as error:
        raise ArtifactError(f"its predictions can't be read ({error})") from error
    check_primary(rows, run.primary_metric, run.primary, clinical_cut=2)
    if run.hashed_with is None:
        identity = (run.study, run.dataset, run.model, run.data_hash, run.config_hash)
        if data_hash(rows) != run.data_hash or digest([*identity, predictions_hash(rows)]) != run.id:
            raise DatabaseError("its name or its data were changed after it was made")
    return run
