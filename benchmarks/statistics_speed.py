"""What the statistics of a large study cost: `evaluate`, `compare`, `ensemble` and `report` as the workflow runs them.

    python benchmarks/statistics_speed.py

Writes prediction tables of 8 models x 5 folds x 3 seeds x 14 labels x 10,000 cases (patients with 1 to 5 images,
validation and test rows, planted skill) into a temporary folder and runs the real scripts on them with B = 2,000, two
at a time, as Snakemake does on two cores. Prints wall and CPU seconds of each script, the wall time of the
schedule, and whether anything imported torch. CPU seconds hold on a busy machine, wall seconds on a quiet one alone.
`calibrate` is timed too and stands beside the total. `--profile SCRIPT` prints where one script's time goes instead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parent.parent
SCRIPTS = CHECKOUT / "scripts"
DATASET = "chest"
LIMIT_S = 60.0
WORKERS = 2
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
RUN = WITHOUT_TORCH + "runpy.run_path(sys.argv[0], run_name='__main__')"


@dataclass(frozen=True)
class Size:
    """How large the study is."""

    models: int
    folds: int
    seeds: int
    labels: int
    cases: int
    draws: int


@dataclass(frozen=True)
class Timing:
    """Seconds of one process."""

    script: str
    wall_s: float
    cpu_s: float


def write_study(folder: Path, size: Size) -> Path:
    """Write study, fold table and prediction tables; return the study file."""
    from archbench.config import parse_study
    from archbench.tasks import get_task

    labels = [f"label{k:02d}" for k in range(size.labels)]
    content: dict[str, Any] = {
        "study": "speed",
        "datasets": {
            DATASET: {
                **{"format": "table", "root": ".", "csv": "labels.csv", "task": "multilabel"},
                "columns": {"label": labels},
            }
        },
        "models": {f"model{k}": {"architecture": "custom1", "image_size": 64} for k in range(size.models)},
        "protocol": {"folds": size.folds, "seeds": list(range(1, size.seeds + 1))},
        "evaluation": {"resamples": size.draws, "comparison_resamples": size.draws},
    }
    study = parse_study(content, check_files=False)
    path = folder / "study.json"
    path.write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
    write_tables(folder, size, labels, get_task("multilabel").table_metadata([]))
    return path


def write_tables(folder: Path, size: Size, labels: Sequence[str], metadata: dict[str, Any]) -> None:
    """Write the fold table and one prediction table per model; the targets are the same for all."""
    import pyarrow as pa

    from archbench.artifacts import Predictions, write_predictions, write_table

    generator = np.random.default_rng(0)
    owner = np.repeat(np.arange(size.cases), generator.integers(1, 6, size=size.cases))[: size.cases]
    fold = owner % size.folds
    prevalence = np.linspace(0.02, 0.5, size.labels)
    odds = np.log(prevalence / (1 - prevalence)) + 1.5 * generator.normal(size=(size.cases, size.labels))
    targets = (generator.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(float)
    case = np.array([f"case{k:05d}" for k in range(size.cases)])
    patient = np.array([f"patient{k:05d}" for k in owner])
    distance = {k: (fold - k) % size.folds for k in range(size.folds)}  # 0 is tested, 1 validates
    for number in range(size.models):
        columns: dict[str, list[Any]] = {name: [] for name in ("rows", "split", "fold", "seed", "logits")}
        for seed, k, (place, split) in product(range(1, size.seeds + 1), distance, enumerate(("test", "val"))):
            rows = np.flatnonzero(distance[k] == place)
            noise = np.random.default_rng([number, seed, k, place]).normal(size=(len(rows), size.labels))
            values = (rows, *(np.full(len(rows), value) for value in (split, k, seed)))
            for name, column in zip(columns, (*values, (1 + 0.1 * number) * odds[rows] + 1.5 * noise), strict=True):
                columns[name].append(column)
        joined = {name: np.concatenate(values) for name, values in columns.items()}
        table = Predictions(
            case_id=case[joined["rows"]],
            patient_id=patient[joined["rows"]],
            split=joined["split"],
            fold=joined["fold"],
            seed=joined["seed"],
            logits=joined["logits"].astype(np.float32),
            targets=targets[joined["rows"]],
            classes=tuple(labels),
            labels=tuple(labels),
            metadata={"decision": "argmax", **metadata},
        )
        write_predictions(folder / DATASET / f"model{number}" / "predictions.parquet", table)
    splits = np.array(["test", "val", *["train"] * size.folds])
    folds = {
        "case_id": np.tile(case, size.folds).tolist(),
        "patient_id": np.tile(patient, size.folds).tolist(),
        "fold": np.repeat(list(distance), size.cases).tolist(),
        "split": np.concatenate([splits[found] for found in distance.values()]).tolist(),
    }
    write_table(folder / DATASET / "data" / "folds.parquet", pa.table(folds), {})


def timed(script: str, arguments: Sequence[str]) -> Timing:
    """Run a script in a process in which torch can't be imported; its own CPU seconds, children included."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(SCRIPTS / f"{script}.py"), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{script} failed:\n{errors[-3000:]}")
    return Timing(script, time.perf_counter() - begun, used.ru_utime + used.ru_stime)


def commands(folder: Path, size: Size) -> dict[str, list[list[str]]]:
    """The arguments of every job by script, in the order of the workflow."""
    home, study = folder / DATASET, ["--study", str(folder / "study.json"), "--dataset", DATASET]
    models = [f"model{k}" for k in range(size.models)]
    tables = {name: str(home / name / "predictions.parquet") for name in [*models, "ensemble"]}
    folds = str(home / "data" / "folds.parquet")

    def rated(name: str, output: str) -> list[str]:
        where = ["--predictions", tables[name], "--folds", folds, "--output", str(home / name / output)]
        return [*study, "--model", name, *where, "--code", "x"]

    ensemble = ["--members", *models, "--predictions", *(tables[name] for name in models), "--folds", folds]
    ensemble += ["--output", tables["ensemble"], "--decision", str(home / "ensemble" / "decision.json")]
    compare = ["--models", *tables, "--predictions", *tables.values(), "--output", str(home / "comparison.json")]
    report = ["--study", str(folder / "study.json"), "--results", str(folder), "--partial", "--threads", str(WORKERS)]
    return {
        "ensemble": [[*study, *ensemble, "--code", "x"]],
        "evaluate": [
            [*rated(name, "metrics.json"), "--table", str(home / name / "predictions.csv")] for name in tables
        ],
        "compare": [[*study, *compare, "--code", "x"]],
        "calibrate": [rated(name, "calibration.json") for name in tables],
        "assemble_report": [report],
    }


def schedule(jobs: dict[str, list[list[str]]]) -> tuple[list[Timing], float]:
    """Run everything two at a time, each job once its inputs are there; return timings and the wall time without
    calibrate."""
    found: list[Timing] = []
    with ThreadPoolExecutor(WORKERS) as pool:
        begun = time.perf_counter()
        ensemble = pool.submit(timed, "ensemble", jobs["ensemble"][0])
        rest = [pool.submit(timed, "evaluate", arguments) for arguments in jobs["evaluate"][:-1]]
        found.append(ensemble.result())
        after = (("compare", jobs["compare"][0]), ("evaluate", jobs["evaluate"][-1]))
        rest += [pool.submit(timed, script, arguments) for script, arguments in after]
        found += [future.result() for future in rest]
        wall = time.perf_counter() - begun
        calibrations = [pool.submit(timed, "calibrate", arguments) for arguments in jobs["calibrate"]]
        found += [future.result() for future in calibrations]
        report = timed("assemble_report", jobs["assemble_report"][0])
    return [*found, report], wall + report.wall_s


def start_s(script: str) -> float:
    """Seconds until a script has imported what it needs and reads its command line, the best of five."""
    return min(timed(script, ["--help"]).wall_s for _ in range(5))


def profile(script: str, arguments: Sequence[str]) -> None:
    """Print where one script's time goes."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "cProfile", "-s", "tottime", str(SCRIPTS / f"{script}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print("\n".join(done.stdout.splitlines()[:60]), done.stderr[-2000:])


def report_figures(found: Sequence[Timing], wall_s: float, size: Size) -> None:
    """Print the table."""
    print(f"{size}\nload average before the machine's own work: {os.getloadavg()[0]:.1f}")
    print(f"{'script':<18}{'jobs':>5}{'wall s':>9}{'CPU s':>9}{'start s':>9}")
    total = 0.0
    for script in ("evaluate", "compare", "ensemble", "assemble_report", "calibrate"):
        mine = [timing for timing in found if timing.script == script]
        cpu = sum(timing.cpu_s for timing in mine)
        total += cpu if script != "calibrate" else 0.0
        wall = sum(timing.wall_s for timing in mine)
        print(f"{script:<18}{len(mine):>5}{wall:>9.1f}{cpu:>9.1f}{start_s(script):>9.2f}")
    print(
        f"evaluate, compare, ensemble, report: {total:.1f} CPU s, {total / WORKERS:.1f} s a core, {wall_s:.1f} s wall"
    )
    print(f"limit {LIMIT_S:.0f} s: {'kept' if wall_s < LIMIT_S else 'missed'}; no script imported torch")


def main() -> None:
    """Write tables, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--profile", metavar="SCRIPT", help="profile the first job of this script instead")
    parser.add_argument("--folder", type=Path, help="keep the tables here and use them again (default: temporary)")
    args = parser.parse_args()
    size = Size(models=args.models, folds=5, seeds=3, labels=14, cases=args.cases, draws=args.draws)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / "study.json").exists():
            write_study(folder, size)
        jobs = commands(folder, size)
        if args.profile:
            profile(args.profile, jobs[args.profile][0])
            return
        found, wall_s = schedule(jobs)
        report_figures(found, wall_s, size)


if __name__ == "__main__":
    main()
