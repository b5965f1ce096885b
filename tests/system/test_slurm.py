"""A study on a real SLURM of one node, through profiles/slurm: what jobs ask for, and what becomes of those that die.

One study, started on this machine, goes on through the profile, where one of its models is disturbed in every way
that a cluster has, and another can't be trained at all; then it is finished and looked at from this machine again.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import slurm_node

CHECKOUT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(2100)  # minutes alone on two cores; neighbours stretch it
TRACKED = ("Snakefile", "archbench", "archbench_predict", "config", "profiles", "scripts", "workflow")

STUDY = """
study: cluster
datasets:
  phantom:
    format: phantom
    classes: [No DR, Mild, Moderate, Severe, Proliferative]
    phantom: {patients: 60, image_size: 64, seed: 1}
protocol: {kind: holdout, seeds: [3]}
training: {batch_size: 4, lr: 1.0e-3, epochs: 80, early_stopping: {patience: 80}}
models:
  local: {architecture: custom1, image_size: 32}
  disturbed: {architecture: custom1, image_size: 32}
  broken: {architecture: custom1, image_size: 32, training: {lr: 1.0e+30, grad_clip: null}}
compute: {mem_mb: 3000, runtime_min: 10}
explain: {cases: 2}
inference: {batch_sizes: [1], runtimes: [onnxruntime], rounds: 7, calls: 3, repeats: 0}
evaluation: {resamples: 200, comparison_resamples: 200}
"""
BROKEN = re.compile(r"^  broken: .*\n", re.M)
FOLD = "results/cluster/phantom/{}/fold0-seed3"
BEST = f"{FOLD}/best.safetensors"
GRADCAM = "results/cluster/phantom/local/gradcam"
LOG = "logs/cluster/train/phantom/disturbed/fold0-seed3.log"


@dataclass
class Cluster:
    """A copy of the checkout beside a running SLURM, with what was seen of both."""

    folder: Path
    runs: dict[str, str] = field(default_factory=dict)
    left_after_s: dict[str, float] = field(default_factory=dict)
    last_words: dict[str, str] = field(default_factory=dict)
    first_words: dict[str, str] = field(default_factory=dict)
    lost_job: str = ""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--configfile", "study.yaml", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.folder)}

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    def jobs_of(self, rule: str, wildcards: str = "") -> list[dict[str, str]]:
        """Submissions of a rule in their order, as the controller tells them."""
        name = f"rule_{rule}_wildcards_{wildcards}"
        return [job for job in slurm_node.jobs() if job.get("Comment", "").startswith(name)]

    def running(self) -> dict[str, str] | None:
        """The running job of the disturbed training."""
        found = [job for job in self.jobs_of("train", "phantom_disturbed") if job["JobState"] == "RUNNING"]
        return found[0] if found else None

    def log(self) -> str:
        path = self.folder / LOG
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def epochs(self) -> int:
        return self.log().count("| epoch ")


# Polling is quicker than in the profile, because the jobs are.
PROFILE = ("--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The whole story, told once; the tests look at its parts."""
    reason = slurm_node.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    cluster = Cluster(folder / "checkout")
    cluster.folder.mkdir()
    for name in TRACKED:
        source = CHECKOUT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, cluster.folder / name)
    (cluster.folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    with slurm_node.running_node(folder / "node"):
        start_here(cluster)
        go_on_there(cluster)
        finish_there(cluster)
        cluster.runs["look"] = cluster.snakemake("--dry-run")
        yield cluster


def start_here(cluster: Cluster) -> None:
    cluster.runs["here"] = cluster.snakemake("--cores", "2", "--", BEST.format("local"))


def go_on_there(cluster: Cluster) -> None:
    """Through the profile; meanwhile the training of one model is disturbed on every attempt but the last."""
    with open(cluster.folder / "run.log", "w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            cluster.command(*PROFILE),
            cwd=cluster.folder,
            env=cluster.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            for name, disturb in (REQUEUES | DISTURBANCES).items():
                await_epochs(cluster, process, name)
                disturb_once(cluster, name, disturb)
            slurm_node.wait_for(lambda: ended(process), 600, "the study's end", every=1)
        finally:
            end(process)
        output.seek(0)
        cluster.runs["there"] = output.read()
    page = cluster.folder / "results/cluster/report.html"
    cluster.runs["partial"] = page.read_text(encoding="utf-8") if page.is_file() else ""


def ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether Snakemake has ended; until then what SLURM requeued, of any model, may start."""
    slurm_node.start_again()
    return process.poll() is not None


def end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C does; Snakemake then cancels its jobs and writes a partial report."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def await_epochs(cluster: Cluster, process: subprocess.Popen[bytes], name: str) -> None:
    """Let the next attempt of the training run for some epochs.

    Snakemake looks at its jobs ever more seldom while none of them ends well, a minute apart after some looks.
    """

    def has_epochs() -> bool:
        assert process.poll() is None, f"Snakemake has ended: {(cluster.folder / 'run.log').read_text()[-3000:]}"
        slurm_node.start_again()
        return bool(cluster.running() and training(cluster)) and cluster.epochs() > 2

    slurm_node.wait_for(has_epochs, 400, f"epochs of the attempt that is to be {name}", every=0.5)


def disturb_once(cluster: Cluster, name: str, disturb: Callable[[Cluster, str], None]) -> None:
    """Disturb the running job and wait until its training is gone; the next one begins a new log."""
    job = cluster.running()
    assert job is not None
    for process in training(cluster):  # or it might be over before SLURM gets to it; it wakes for each signal
        os.kill(process, signal.SIGSTOP)
    disturb(cluster, job["JobId"])
    at = time.monotonic()
    slurm_node.wait_for(lambda: not (training(cluster) or processes(f"^tee {LOG}")), 240, f"its end, {name}")
    cluster.left_after_s[name] = time.monotonic() - at
    cluster.first_words[name], cluster.last_words[name] = cluster.log()[:300], cluster.log()[-400:]
    (cluster.folder / LOG).unlink()


def training(cluster: Cluster) -> list[int]:
    """Processes of the disturbed training, without their shells."""
    return processes(f"python {cluster.folder}/scripts/train.py .*--model disturbed")


def processes(pattern: str) -> list[int]:
    return [int(line) for line in subprocess.run(["pgrep", "-f", pattern], capture_output=True).stdout.split()]


def preempt(cluster: Cluster, job: str) -> None:
    """A job of a partition that goes first takes the whole node."""
    slurm_node.ask("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")


def lose_node(cluster: Cluster, job: str) -> None:
    slurm_node.lose_node()


def warn(cluster: Cluster, job: str) -> None:
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    for process in training(cluster):
        os.kill(process, signal.SIGCONT)


def cut_short(cluster: Cluster, job: str) -> None:
    """Shorten the job's time limit; since the training is held, it strikes before the end."""
    subprocess.run(["scontrol", "update", f"jobid={job}", "TimeLimit=1"], check=True)


def kill(cluster: Cluster, job: str) -> None:
    """As the kernel does when memory is short: nobody is asked."""
    for process in training(cluster):
        os.kill(process, signal.SIGKILL)


# SLURM itself starts these again; Snakemake only waits.
REQUEUES: dict[str, Callable[[Cluster, str], None]] = {"preempted": preempt, "lost": lose_node}
DISTURBANCES: dict[str, Callable[[Cluster, str], None]] = {"warned": warn, "cut short": cut_short, "killed": kill}


def finish_there(cluster: Cluster) -> None:
    """Without the model that can't be trained, and with --gres instead of --gpus for what is left to explain."""
    study = cluster.folder / "study.yaml"
    study.write_text(BROKEN.sub("", study.read_text(encoding="utf-8")), encoding="utf-8")
    profile = cluster.folder / "profiles/slurm/config.yaml"
    text = profile.read_text(encoding="utf-8")
    profile.write_text(text.replace("    gpu: 1\n", "    gpu: 0\n    gres: gpu:1\n"), encoding="utf-8")
    shutil.rmtree(cluster.folder / GRADCAM)
    lose_snakemake(cluster)
    cluster.runs["rest"] = cluster.snakemake(*PROFILE)


def lose_snakemake(cluster: Cluster) -> None:
    """Kill Snakemake while a job of it waits for a node, start another one, and do what that says."""
    sbatch = ("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 600")
    in_the_way = slurm_node.ask(*sbatch).strip()
    before = len(cluster.jobs_of("explain", "phantom_local"))
    with open(cluster.folder / "lost.log", "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            cluster.command(*PROFILE, "--", GRADCAM),
            cwd=cluster.folder,
            env=cluster.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            slurm_node.wait_for(lambda: noted(cluster), 120, "a submitted job that Snakemake has noted")
        finally:
            process.kill()
            process.wait(timeout=60)
    job = cluster.jobs_of("explain", "phantom_local")[before]["JobId"]
    cluster.snakemake("--unlock")
    cluster.lost_job, cluster.runs["twice"] = job, cluster.snakemake(*PROFILE, check=False)
    said = re.search(r"scancel [\d ]+", cluster.runs["twice"])
    assert said is not None, cluster.runs["twice"][-3000:]
    subprocess.run([*said.group().split(), in_the_way], check=True)
    slurm_node.wait_for(lambda: not slurm_node.ask("squeue", "-h", "-j", job), 120, "the end of the left job")


def noted(cluster: Cluster) -> bool:
    notes = (cluster.folder / ".snakemake/incomplete").glob("*")
    return any('"external_jobid": "' in note.read_text(encoding="utf-8") for note in notes)


def test_the_time_limit_of_a_job_grows_and_so_does_its_memory(cluster: Cluster) -> None:
    attempts = cluster.jobs_of("train", "phantom_disturbed")
    assert len(attempts) == len(DISTURBANCES) + 1
    assert [job["MinMemoryNode"] for job in attempts] == [f"{3000 * k}M" for k in (1, 2, 3, 4)]
    assert attempts[0]["Restarts"] == str(len(REQUEUES)), "these don't cost an attempt"
    limits = [job["TimeLimit"] for job in attempts]
    assert [limits[k] for k in (0, 2, 3)] == ["00:10:00", "00:30:00", "00:40:00"]
    assert limits[1] == "00:01:00", "this one was shortened"


def test_networks_ask_for_a_gpu_and_nothing_else_does(cluster: Cluster) -> None:
    for rule in ("train", "predict"):
        assert {job.get("TresPerJob") for job in cluster.jobs_of(rule)} == {"gres:gpu:1"}, rule
    assert "TresPerJob" not in cluster.jobs_of("evaluate")[0]
    assert "TresPerNode" not in cluster.jobs_of("evaluate")[0]
    measured = cluster.jobs_of("time_inference")[-1]
    assert measured["OverSubscribe"] == "NO", "a measurement has its node to itself"


def test_gpus_can_be_asked_for_by_gres(cluster: Cluster) -> None:
    again = cluster.jobs_of("explain", "phantom_local")[-1]
    assert again["TresPerNode"] == "gres:gpu:1"
    assert "TresPerJob" not in again


def test_a_warned_training_leaves_at_once_and_says_so(cluster: Cluster) -> None:
    assert "asked to leave by SIGTERM" in cluster.last_words["preempted"]
    assert "asked to leave by SIGUSR1" in cluster.last_words["warned"]
    assert "asked to leave by SIGTERM" in cluster.last_words["cut short"]
    for name in ("lost", "killed"):
        assert "asked to leave" not in cluster.last_words[name]
    assert cluster.left_after_s["warned"] < 10
    assert cluster.left_after_s["killed"] < 10


def test_every_attempt_goes_on_where_the_last_one_ended(cluster: Cluster) -> None:
    assert "continuing" not in cluster.first_words["preempted"]
    for name in ("lost", "warned", "cut short", "killed"):
        assert "continuing after epoch" in cluster.first_words[name]
    assert "continuing after epoch" in cluster.log()
    assert not list((cluster.folder / "results/cache/state").rglob("*.pt*")), "no state is left behind"


def test_disturbed_weights_equal_undisturbed_ones(cluster: Cluster) -> None:
    disturbed, local = ((cluster.folder / BEST.format(name)).read_bytes() for name in ("disturbed", "local"))
    assert disturbed == local


def test_a_job_that_outlived_its_snakemake_is_not_submitted_again(cluster: Cluster) -> None:
    assert f"scancel {cluster.lost_job}" in cluster.runs["twice"]
    assert "Error in rule" not in cluster.runs["twice"] and "has been submitted" not in cluster.runs["twice"]
    explained = cluster.jobs_of("explain", "phantom_local")
    assert [job["JobState"] for job in explained] == ["COMPLETED", "CANCELLED", "COMPLETED"]
    assert explained[1]["JobId"] == cluster.lost_job


def test_what_was_trained_here_is_not_trained_again_there(cluster: Cluster) -> None:
    assert not cluster.jobs_of("train", "phantom_local")
    assert not cluster.jobs_of("prepare_dataset")
    assert "train local" in cluster.runs["here"] and "train local" not in cluster.runs["there"]


def test_back_here_nothing_is_left_to_do(cluster: Cluster) -> None:
    assert "Nothing to be done" in cluster.runs["look"]
    with open(cluster.folder / "results/cluster/results_table.csv", encoding="utf-8") as file:
        assert {row["model"]: row["status"] for row in csv.DictReader(file)}.keys() >= {"local", "disturbed"}


def test_a_model_that_cannot_be_trained_loses_no_other(cluster: Cluster) -> None:
    assert len(cluster.jobs_of("train", "phantom_broken")) == 4, "one submission and three retries"
    assert cluster.jobs_of("evaluate", "phantom_disturbed"), "the others went on"
    assert "lower training.lr" in cluster.runs["there"], "the failed job's log is printed"
    assert "asked to leave" not in cluster.runs["rest"]


def test_the_partial_report_names_the_failed_model(cluster: Cluster) -> None:
    page = cluster.runs["partial"]
    assert "broken" in page and "lower training.lr" in page
