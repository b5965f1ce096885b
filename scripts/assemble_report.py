"""Write the report of a study: tables, figures, results.json and report.html.

python scripts/assemble_report.py --study study.json --results results/mystudy --output-dir results/mystudy --logs logs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from archbench.artifacts import read_json
from archbench.command_line import run
from archbench.config import load_study
from archbench.memory import keep_freed_memory
from archbench.report.build import IncompleteStudyError, write_report
from archbench.report.tables import to_text


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study file (YAML or resolved JSON)")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="artifacts, results/<study>")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where to write (default: --results)")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="job logs, for the end of a failed job's log")
    parser.add_argument(
        "--failed-logs",
        type=Path,
        metavar="FILE",
        help="JSON list of those of jobs that failed (without it: logs that speak of a failure)",
    )
    parser.add_argument(
        "--outdated",
        type=Path,
        metavar="FILE",
        help="JSON list of files and folders that this run was to make anew and hasn't; they don't count",
    )
    parser.add_argument("--partial", action="store_true", help="report although models failed or were not finished")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="processes that draw figures")
    parser.add_argument("--code", default="", metavar="FINGERPRINT", help="code fingerprint for the provenance")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the report; 1 if a model has no result and --partial was not given."""
    arguments = parse_arguments(argv)
    keep_freed_memory()
    output, failed = arguments.output_dir or arguments.results, arguments.failed_logs
    try:
        study = write_report(
            configuration=load_study(arguments.study).model_dump(mode="json"),
            results=arguments.results,
            output=output,
            logs=arguments.logs,
            failed_logs=[Path(log) for log in read_json(failed)] if failed else None,
            outdated=[Path(path) for path in read_json(arguments.outdated)] if arguments.outdated else [],
            partial=arguments.partial,
            code=arguments.code,
            processes=arguments.threads,
        )
    except IncompleteStudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(to_text(study))
    print(f"Report: {output / 'report.html'}")
    return 0


if __name__ == "__main__":
    run(main)
