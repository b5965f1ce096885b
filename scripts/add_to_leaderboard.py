"""Add a finished study to the results database; trouble with the database never fails the study.

    python scripts/add_to_leaderboard.py --results results/mystudy --database results/archbench.sqlite \\
        --output results/mystudy/leaderboard.json

The output says what was added, or why nothing was. `python scripts/leaderboard.py add results/mystudy` does the same
by hand, and fails aloud.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path
from typing import Any

from archbench.artifacts import write_json
from archbench.command_line import run
from archbench.leaderboard.database import add_runs, open_database
from archbench.leaderboard.study_runs import runs_of


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="results of a study")
    parser.add_argument("--database", type=Path, required=True, metavar="FILE", help="the results database")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="what was added (JSON)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Add, and write down what came of it."""
    args = parse(argv)
    told: dict[str, Any] = {"database": args.database.as_posix(), "new": 0, "known": 0, "left_out": [], "problem": None}
    try:
        found = runs_of(args.results)
        told["left_out"] = found.left_out
        with open_database(args.database, write=True) as connection:
            told["new"], told["known"] = add_runs(connection, found.runs)
        told["runs"] = [entry.id for entry in found.runs]
    except (ValueError, OSError, KeyError, TypeError, sqlite3.Error) as error:
        told["problem"] = str(error) if isinstance(error, ValueError | OSError) else repr(error)
    write_json(args.output, told)
    print("\n".join(sentences(told)), file=sys.stderr)
    return 0


def sentences(told: dict[str, Any]) -> list[str]:
    """What happened, for the log."""
    left_out = [f"leaderboard: left out {text}" for text in told["left_out"]]
    if told["problem"]:
        return [*left_out, f"leaderboard: the study is complete but was not added: {told['problem']}"]
    known = f", {told['known']} were there already" if told["known"] else ""
    return [*left_out, f"leaderboard: {told['new']} runs added to {told['database']}{known}; see it: make leaderboard"]


if __name__ == "__main__":
    run(main)
