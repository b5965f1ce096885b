"""Where the default study's time goes: planning, process starts and imports against its wall time.

    python benchmarks/overhead.py --cores 2
    python benchmarks/overhead.py --cores 2 --log run.log     # the output of an earlier run with --forceall

Runs the default study once under another name (it retrains everything), then times what each rule's process
costs before its first real work, three times each, and puts both together. Run by hand on a quiet machine.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
TORCH = "import torch, timm; from archbench.cases import read_cases; from archbench.config import load_study; "
STARTS = {
    "prepare_dataset": "import scripts.prepare_dataset",
    "cache_images": "import scripts.cache_images",
    "fetch_weights_file": "import archbench.models.weights, timm",
    "train": TORCH + "import archbench.training_run, archbench.models.weights",
    "predict": TORCH + "import archbench.prediction",
    "explain": TORCH + "import archbench.explain",
    "export_onnx": TORCH + "import archbench.onnx_export, onnxscript, onnxruntime",
    "time_inference": TORCH + "import archbench.inference_timing.work, archbench.inference_timing.rounds",
    "calibrate": "import scripts.calibrate",
    "evaluate": "import scripts.evaluate, scripts.results",
    "ensemble": "import scripts.ensemble",
    "compare": "import scripts.compare",
    "assemble_report": "import scripts.assemble_report",
}


def main() -> int:
    """Run the study, time the starts, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--log", type=Path, help="output of an earlier run, instead of a new run")
    arguments = parser.parse_args()
    study = ["snakemake", "--cores", str(arguments.cores), "--config", "study=overhead", "--forceall"]
    log = arguments.log.read_text() if arguments.log else _run(study)
    wall = _elapsed(log)
    planning = _seconds([*study, "--dry-run"])
    reference = _median_start("import torch, torchvision")
    total = planning
    print(
        f"wall {wall:.0f} s on {arguments.cores} cores; planning {planning:.1f} s; "
        f"import torch, torchvision {reference:.1f} s"
    )
    print("| rule | jobs | seconds of all jobs | start of one, s | share of a torch import |\n|---|---|---|---|---|")
    for rule, (jobs, seconds) in _jobs(log).items():
        start = _median_start(STARTS[rule])
        total += jobs * start / arguments.cores
        print(f"| {rule} | {jobs} | {seconds:.0f} | {start:.2f} | {start / reference:.2f} |")
    late = _median_start(STARTS["explain"] + ", pytorch_grad_cam")
    print(f"explain with grad-cam, which it imports after loading the cases: {late:.2f} s")
    print(f"planning, starts and imports: {total:.0f} s of {wall:.0f} s wall, {100 * total / wall:.0f} %")
    return 0


def _elapsed(log: str) -> float:
    """Seconds of a whole run, as Snakemake reports them in its last lines."""
    match = re.search(r"Elapsed time: (?:(\d+) days?, )?(\d+):(\d+):([\d.]+)", log)
    if match is None:
        raise SystemExit("the log has no 'Elapsed time': was the run cut off?")
    days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _run(command: list[str]) -> str:
    completed = subprocess.run(
        command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return completed.stdout


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    _run(command)
    return time.perf_counter() - started


def _median_start(statement: str) -> float:
    return statistics.median(_seconds([sys.executable, "-c", statement]) for _ in range(3))


def _jobs(log: str) -> dict[str, tuple[int, float]]:
    """Return jobs and summed seconds per rule from Snakemake's time stamps."""
    stamp, begun, found = None, {}, {}
    for line in log.splitlines():
        if match := re.fullmatch(r"\[(.+)\]", line.strip()):
            stamp = datetime.strptime(match[1], "%a %b %d %H:%M:%S %Y")
        elif (match := re.match(r"Job (\d+):", line)) and stamp:
            begun[match[1]] = stamp
        elif (match := re.match(r"Finished jobid: (\d+) \(Rule: (\w+)\)", line)) and stamp and match[1] in begun:
            jobs, seconds = found.get(match[2], (0, 0.0))
            found[match[2]] = (jobs + 1, seconds + (stamp - begun[match[1]]).total_seconds())
    return {rule: value for rule, value in found.items() if rule in STARTS}


if __name__ == "__main__":
    sys.exit(main())
