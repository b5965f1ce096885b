"""Write the report of a segmentation study: page, tables, results.json.

python scripts/assemble_mask_report.py --study s.json --masks chest=results/s/chest/masks --results results/s
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench.artifacts import read_json, write_json, write_text
from archbench.command_line import run
from archbench.config import load_study
from archbench.mask_results import COMMAND
from archbench.report.collect import StudyResult, collect_study
from archbench.report.mask_page import MaskSection, render_mask_page
from archbench.report.mask_results import mask_results, study_text, without_masks
from archbench.report.mask_study import mask_study
from archbench.report.mask_tables import study_csv


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study file (YAML or resolved JSON)")
    parser.add_argument(
        "--masks", nargs="*", default=[], metavar="DATASET=DIR", help="what score_masks.py wrote of each dataset"
    )
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="artifacts, results/<study>")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where to write (default: --results)")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="job logs, for the end of a failed job's log")
    parser.add_argument("--failed-logs", type=Path, metavar="FILE", help="JSON list of those of jobs that failed")
    parser.add_argument("--partial", action="store_true", help="report although models failed or were not finished")
    parser.add_argument("--code", default="", metavar="FINGERPRINT", help="code fingerprint for the provenance")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the page and, beside it, the tables; 1 if a model has no result and --partial was not given."""
    arguments = parse_arguments(argv)
    output, failed = arguments.output_dir or arguments.results, arguments.failed_logs
    folders = {name: Path(folder) for name, folder in (entry.split("=", 1) for entry in arguments.masks)}
    summaries = {name: read_json(folder / "summary.json") for name, folder in folders.items()}
    study = collect_study(
        configuration=load_study(arguments.study).model_dump(mode="json"),
        results=arguments.results,
        logs=arguments.logs,
        failed_logs=[Path(log) for log in read_json(failed)] if failed else None,
        code=arguments.code,
    )
    sections = _sections(study, summaries, folders)
    lost = [f"{section.name}/{model.name}" for section in sections for model in section.without_result]
    if lost and not arguments.partial:
        print(f"error: no masks of {', '.join(lost)}: run the study again, or --partial", file=sys.stderr)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / "results_table.csv", study_csv(summaries))
    write_text(output / "results_table.txt", study_text(summaries))
    write_json(output / "results.json", mask_results(study, summaries))
    write_text(output / "report.html", render_mask_page(sections, title=study.name, command=COMMAND))
    print(f"Report: {output / 'report.html'}")
    return 0


def _sections(
    study: StudyResult, summaries: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]
) -> list[MaskSection]:
    found = []
    for dataset in study.datasets:
        summary = summaries.get(dataset.name)
        found.append(
            MaskSection(
                name=dataset.name,
                summary=summary,
                folder=folders.get(dataset.name, study.folder),
                study=mask_study(dataset, summary),
                without_result=without_masks(dataset, summary),
            )
        )
    return found


if __name__ == "__main__":
    run(main)
