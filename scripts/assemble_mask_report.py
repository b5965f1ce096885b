"""Write the report of a segmentation study: page, tables, results.json.

python scripts/assemble_mask_report.py --study s.json --dataset chest --masks results/s/chest/masks --results results/s
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from archbench.artifacts import read_json, write_json, write_text
from archbench.command_line import run
from archbench.config import load_study
from archbench.report.collect import collect_study
from archbench.report.mask_page import render_mask_page
from archbench.report.mask_study import mask_study


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study file (YAML or resolved JSON)")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the study")
    parser.add_argument("--masks", type=Path, required=True, metavar="DIR", help="what score_masks.py wrote")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR", help="artifacts, results/<study>")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="where to write (default: --results)")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="job logs, for the end of a failed job's log")
    parser.add_argument("--code", default="", metavar="FINGERPRINT", help="code fingerprint for the provenance")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the page and, beside it, the tables."""
    arguments = parse_arguments(argv)
    output = arguments.output_dir or arguments.results
    summary = read_json(arguments.masks / "summary.json")
    configuration = load_study(arguments.study).model_dump(mode="json")
    study = collect_study(
        configuration=configuration, results=arguments.results, logs=arguments.logs, code=arguments.code
    )
    (dataset,) = study.datasets
    page = render_mask_page(summary, summary["overlays"], arguments.masks, study=mask_study(dataset, summary))
    output.mkdir(parents=True, exist_ok=True)
    for source, target in (("results.csv", "results_table.csv"), ("comparison.txt", "results_table.txt")):
        shutil.copyfile(arguments.masks / source, output / target)
    write_json(output / "results.json", {"study": configuration["study"], "status": "complete", **summary})
    write_text(output / "report.html", page)
    print(f"Report: {output / 'report.html'}")
    return 0


if __name__ == "__main__":
    run(main)
