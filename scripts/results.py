"""Refresh results.json with what a running study has so far; jobs may do so at the same time.

python scripts/results.py --study study.json --results results/mystudy
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from archbench.command_line import run
from archbench.config import load_study
from archbench.report.results import refresh_results


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study file (YAML or resolved JSON)")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="artifacts, results/<study>")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: results.json in --results")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="job logs, for the end of a failed job's log")
    parser.add_argument("--code", default="", metavar="FINGERPRINT", help="code fingerprint for the provenance")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write results.json under a lock and say on stderr how many models are in it."""
    arguments = parse_arguments(argv)
    document = refresh_results(
        configuration=load_study(arguments.study).model_dump(mode="json"),
        results=arguments.results,
        output=arguments.output or arguments.results / "results.json",
        logs=arguments.logs,
        code=arguments.code,
    )
    done = sum(row["status"] in ("complete", "incomplete") for row in document["rows"])
    print(f"results.json: {done} of {len(document['rows'])} models evaluated", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
