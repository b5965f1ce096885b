"""What planning costs a job beyond Snakemake itself: a study's dry run against trivial rules of the same shape.

    python benchmarks/planning.py --models 20 --seeds 10 --folds 10

Writes a synthetic study (models × seeds × folds trainings) into a temporary folder and plans it in turns with a
Snakefile whose rules have inputs, outputs, resources and params of the same shape and count, but constant ones;
prints the paired difference of their CPU time per job. The first plan of a checkout parses its code for the
fingerprints, later ones find them kept; both are printed. Nothing runs but planning. Run by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
STUDY = {
    "study": "planning",
    "datasets": {"d": {"format": "phantom", "classes": ["a", "b", "c", "d", "e"]}},
    "models": {},
    "protocol": {},
}
TRIVIAL = """
MODELS, RUNS = {models!r}, {runs!r}
rule all:
    default_target: True
    input: "r/report.html"
rule prepare_dataset:
    output: manifest="r/manifest", folds="r/folds", audit="r/audit"
    log: "l/prepare"
    shell: "x"
rule cache_images:
    input: manifest="r/manifest"
    output: "r/images"
    log: "l/cache"
    shell: "x"
rule train:
    input: manifest="r/manifest", folds="r/folds", cache="r/images"
    output:
        best="r/{{model}}/{{run}}/best", history="r/{{model}}/{{run}}/history",
        settings="r/{{model}}/{{run}}/settings"
    log: "l/train/{{model}}/{{run}}"
    benchmark: "l/train/{{model}}/{{run}}.tsv"
    resources: mem_mb=lambda w, attempt: 4000 * attempt, runtime=lambda w, attempt: 240 * attempt, gpu=0
    params:
        weights=lambda w, input: "", state="r/state/{{model}}/{{run}}", settings=lambda w: "a", code=lambda w: "b"
    message: "train {{wildcards.model}} {{wildcards.run}}"
    shell: "x"
rule predict:
    input: expand("r/{{{{model}}}}/{{run}}/best", run=RUNS), manifest="r/manifest", folds="r/folds", cache="r/images"
    output: "r/{{model}}/predictions"
    log: "l/predict/{{model}}"
    shell: "x"
rule export_onnx:
    input:
        expand("r/{{{{model}}}}/{{run}}/best", run=RUNS), expand("r/{{{{model}}}}/{{run}}/settings", run=RUNS),
        manifest="r/manifest", folds="r/folds", cache="r/images",
    output: onnx="r/{{model}}/onnx", account="r/{{model}}/export"
    log: "l/export/{{model}}"
    shell: "x"
rule calibrate:
    input: "r/{{model}}/predictions"
    output: "r/{{model}}/calibration"
    log: "l/calibrate/{{model}}"
    shell: "x"
rule evaluate:
    input: "r/{{model}}/predictions", "r/folds"
    output: "r/{{model}}/metrics"
    log: "l/evaluate/{{model}}"
    shell: "x"
rule explain:
    input: "r/{{model}}/predictions", expand("r/{{{{model}}}}/{{run}}/best", run=RUNS), "r/images"
    output: "r/{{model}}/cam"
    log: "l/explain/{{model}}"
    shell: "x"
rule ensemble:
    input: expand("r/{{model}}/predictions", model=MODELS)
    output: predictions="r/ensemble/predictions", decision="r/ensemble/decision"
    shell: "x"
ruleorder: ensemble > predict
rule compare:
    input: expand("r/{{model}}/predictions", model=[*MODELS, "ensemble"])
    output: "r/comparison"
    shell: "x"
rule time_inference:
    input: expand("r/{{model}}/onnx", model=MODELS), expand("r/{{model}}/export", model=MODELS)
    output: "r/timing"
    shell: "x"
rule assemble_report:
    input:
        expand("r/{{model}}/{{file}}", model=[*MODELS, "ensemble"], file=["calibration", "metrics"]),
        expand("r/{{model}}/{{file}}", model=MODELS, file=["cam", "export"]), "r/comparison", "r/timing", "r/audit"
    output: "r/report.html"
    shell: "x"
"""


def main() -> int:
    """Plan both in turns, print times and the difference per job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, trivial = Path(folder, "ours"), Path(folder, "trivial")
        _write_ours(ours, arguments.models, arguments.seeds, arguments.folds)
        _write_trivial(trivial, arguments.models, arguments.seeds * arguments.folds)
        times: dict[str, list[float]] = {"ours": [], "trivial": []}
        for _ in range(arguments.rounds):
            for name, place, more in (("ours", ours, ["--configfile", "planning.json"]), ("trivial", trivial, [])):
                seconds, jobs = _plan(place, more)
                times[name].append(seconds)
    differences = [1000 * (a - b) / jobs for a, b in zip(times["ours"], times["trivial"], strict=True)]
    print(f"{jobs} jobs, {arguments.rounds} rounds")
    for name, values in times.items():
        print(f"{name}: median {statistics.median(values):.1f} s CPU (all {', '.join(f'{v:.1f}' for v in values)})")
    ratios = [a / b for a, b in zip(times["ours"], times["trivial"], strict=True)]
    print(f"ours / trivial: median {statistics.median(ratios):.2f}")
    print(f"our own overhead: median {statistics.median(differences):.2f} ms a job")
    print(f"the same in the first plan: {differences[0]:.2f} ms a job")
    return 0


def _write_ours(folder: Path, models: int, seeds: int, folds: int) -> None:
    folder.mkdir()
    for name in ("Snakefile", "archbench", "scripts", "workflow"):
        (shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy)(CHECKOUT / name, folder / name)
    entry = {"architecture": "custom1", "image_size": 32}
    study = {
        **STUDY,
        "models": {f"m{k}": {**entry, "training": {"lr": 1e-4 * (k + 1)}} for k in range(models)},
        "protocol": {"folds": folds, "seeds": list(range(seeds))},
    }
    (folder / "planning.json").write_text(json.dumps(study), encoding="utf-8")


def _write_trivial(folder: Path, models: int, runs: int) -> None:
    folder.mkdir()
    text = TRIVIAL.format(models=[f"m{k}" for k in range(models)], runs=[f"run{k}" for k in range(runs)])
    (folder / "Snakefile").write_text(text, encoding="utf-8")


def _plan(folder: Path, more: list[str]) -> tuple[float, int]:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", "--cores", "2", *more]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    match = re.search(r"^total\s+(\d+)$", done.stdout + done.stderr, re.M)
    if done.returncode or match is None:
        raise SystemExit(f"planning failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, int(match[1])


if __name__ == "__main__":
    sys.exit(main())
