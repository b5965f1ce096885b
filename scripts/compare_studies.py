"""Compare two studies case by case: a baseline and an improved recipe on the same data.

    python scripts/compare.py baseline improved
    python scripts/compare.py results/baseline config/improved.yaml --models resnet18=resnet50

A study is a results folder, a study file, or a name under results/. Models of the same name are paired; --models
OLD=NEW pairs others. Differences are those of the second study from the first, over shared resamples of patients;
p values are corrected by Holm over all pairs. changed_cases.csv lists every case that is called otherwise; with
several labels or zones, each of them (a label is called from a probability of .5).
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Any

from archbench.artifacts import read_json, read_predictions, write_json, write_text
from archbench.case_comparison import as_rows, case_changes
from archbench.command_line import run
from archbench.config import load_study
from archbench.leaderboard.versus import judge, paired_difference
from archbench.metrics.views import is_grouped


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("first", help="the baseline: results folder, study file or name")
    parser.add_argument("second", help="what is compared with it")
    parser.add_argument("--models", nargs="+", default=[], metavar="OLD=NEW", help="models of different names to pair")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: results/<second>-against-<first>")
    parser.add_argument("--resamples", type=int, default=10000, help="patient draws (default: 10000)")
    parser.add_argument("--confidence", type=float, default=0.95, help="level of the intervals (default: 0.95)")
    parser.add_argument("--delta", type=float, help="margin of equivalence (default: the metric's own)")
    parser.add_argument("--clinical-cut", type=int, default=2, help="first class that is referable (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    args = parser.parse_args(argv)
    wrong = [pair for pair in args.models if pair.count("=") != 1]
    if wrong:
        parser.error(f"--models takes OLD=NEW, got {wrong}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Pair, compare, write, print."""
    args = parse(argv)
    first, second = folder_of(args.first), folder_of(args.second)
    pairs, notes = paired_models(first, second, dict(pair.split("=") for pair in args.models))
    if not pairs:
        raise ValueError(f"{first} and {second} share no evaluated model; pair them with --models OLD=NEW")
    rows, changes = [], []
    for dataset, old, new in pairs:
        row, changed = compare_pair(first / dataset / old, second / dataset / new, args)
        rows.append({"dataset": dataset, "before": old, "after": new, **row})
        changes += [{"dataset": dataset, "before_model": old, "after_model": new, **case} for case in changed]
    judge(rows, args.confidence)
    output = args.output or Path("results") / f"{second.name}-against-{first.name}"
    write_json(
        output / "study_comparison.json", {"first": first.name, "second": second.name, "notes": notes, "pairs": rows}
    )
    write_text(output / "changed_cases.csv", to_csv(changes))
    print("\n".join([*notes, *(sentence(row) for row in rows), f"Changed cases: {output / 'changed_cases.csv'}"]))
    return 0


def folder_of(study: str) -> Path:
    """The results folder of a study given by folder, file or name."""
    path = Path(study)
    if path.is_file():
        path = Path("results") / load_study(study).study
    elif not path.is_dir():
        path = Path("results") / study
    if not path.is_dir():
        raise FileNotFoundError(f"no results of study {study}: {path} does not exist; run it first")
    return path


def paired_models(first: Path, second: Path, renamed: dict[str, str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(dataset, model, model) of all pairs with predictions and metrics in both, and what has no partner."""
    ours, theirs = evaluated(first), evaluated(second)
    pairs = [(d, m, renamed.get(m, m)) for d, m in ours if (d, renamed.get(m, m)) in theirs]
    alone = [f"{first.name}: {d}/{m}" for d, m in ours if (d, renamed.get(m, m)) not in theirs]
    partners = {(d, new) for d, _, new in pairs}
    alone += [f"{second.name}: {d}/{m}" for d, m in theirs if (d, m) not in partners]
    return pairs, [f"without a partner: {', '.join(alone)}"] if alone else []


def evaluated(folder: Path) -> list[tuple[str, str]]:
    """(dataset, model) of what was predicted and scored."""
    found = sorted(
        path.parent for path in folder.glob("*/*/metrics.json") if (path.parent / "predictions.parquet").exists()
    )
    return [(path.parent.name, path.name) for path in found]


def compare_pair(before: Path, after: Path, args: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The paired difference of one model, and its changed cases."""
    tables = [read_predictions(folder / "predictions.parquet") for folder in (before, after)]
    row, first, second = paired_difference(
        *tables,
        primary=read_json(before / "metrics.json")["primary"],
        resamples=args.resamples,
        confidence=args.confidence,
        seed=args.seed,
        delta=args.delta,
        clinical_cut=args.clinical_cut,
    )
    changed, outcomes = ([], None) if first.outputs == "value" else case_changes(first, second)
    return {**row, "grouped": is_grouped(first), "outcomes": outcomes}, as_rows(changed)


def to_csv(changes: list[dict[str, Any]]) -> str:
    """The changed cases as CSV."""
    head = ["dataset", "before_model", "after_model", "case", "patient", "label", "truth", "before", "after"]
    head += ["certainty_before", "certainty_after", "outcome"]
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    writer.writerows(changes)
    return text.getvalue()


def sentence(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    name = row["after"] if row["after"] == row["before"] else f"{row['before']} -> {row['after']}"
    if row["difference"] is None:
        return f"{row['dataset']}/{name}: {row['primary']} is undefined"
    interval = "" if row["low"] is None else f" ({row['low']:+.3f} to {row['high']:+.3f})"
    p = "" if row["p_holm"] is None else f", p {row['p_holm']:.3g}"
    counts = row["outcomes"]
    what = "cells" if row["grouped"] else "cases"
    cases = f"; {counts['fixed']} {what} fixed, {counts['broken']} broken" if counts else ""
    return (
        f"{row['dataset']}/{name}: {row['primary']} {row['value_before']:.3f} -> {row['value_after']:.3f}, "
        f"difference {row['difference']:+.3f}{interval}{p}: {row['verdict']}{cases}"
    )


if __name__ == "__main__":
    run(main)
