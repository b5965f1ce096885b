"""A one-node SLURM with two dummy GPUs, for tests as root on Debian: started, asked, stopped again.

Its configuration must lie in /etc/slurm, because the executor plugin strips every SLURM_* variable; one that
is there already is put aside and comes back.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ETC = Path("/etc/slurm")
MUNGE_KEY = Path("/etc/munge/munge.key")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "squeue", "scancel")
GPUS, CPUS, MEMORY_MB = 2, 4, 64000
REST_S = 3.0  # between the end of a job and its next start
_REQUEUED_SINCE: dict[tuple[str, str], float] = {}  # by job and how often it was restarted

SLURM_CONF = """
ClusterName=archbench-test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
MinJobAge=3600
KillWait=30
SchedulerParameters=sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} CPUs={cpus} RealMemory={memory} Gres=gpu:a100:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10
"""


def why_not() -> str | None:
    """Return why this machine can't run a SLURM of its own; None if it can."""
    if not Path("/etc/debian_version").is_file():
        return "not a Debian system: the packages and their paths are Debian's"
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no {', '.join(missing)} here: make system-slurm installs the Debian packages slurm-wlm and munge"
    if subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=60).stdout.count(" is UP"):
        return "a SLURM controller answers here already; the test would have to replace it"
    return None


def lose_node() -> None:
    """The node is down and all that runs on it is killed at once, as when its power fails; then it comes back.

    Its daemon stays: Debian 12's controller (22.05.8) falls over when a node with GPUs registers again.
    """
    steps = [int(pid) for pid in ask("pgrep", "-f", "^slurmstepd: ").split()]
    processes = [*steps, *(below for step in steps for below in _descendants(step))]
    _set_node("state=down", "reason=lost")
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(_is_back, 180, "the node to come back", every=1)


def start_again() -> None:
    """Let requeued jobs start: SLURM gives their old node two minutes.

    It sets that time more than once while it cleans up behind them, so this is to be called until they run. One that
    is launched while the node still has its files of the last time can't be, and is held for an administrator. One
    that is launched within the second in which it was killed is taken for the killed one and fails, so it waits.
    """
    for job in jobs():
        if job["JobState"] == "PENDING" and job.get("Restarts", "0") != "0":
            since = _REQUEUED_SINCE.setdefault((job["JobId"], job["Restarts"]), time.monotonic())
            if time.monotonic() - since < REST_S:
                continue
            if "held" in job.get("Reason", ""):
                subprocess.run(["scontrol", "release", job["JobId"]], capture_output=True)
            subprocess.run(["scontrol", "update", f"jobid={job['JobId']}", "StartTime=now"], capture_output=True)


def _is_back() -> bool:
    state = ask("sinfo", "-h", "-o", "%T")
    return state.strip() != "" and "down" not in state


def _set_node(*changes: str) -> None:
    name = socket.gethostname().partition(".")[0]
    subprocess.run(["scontrol", "update", f"nodename={name}", *changes], check=True, timeout=60)


def _descendants(pid: int) -> list[int]:
    found = [int(line) for line in ask("pgrep", "-P", str(pid)).split()]
    return found + [below for child in found for below in _descendants(child)]


@contextmanager
def running_node(folder: Path) -> Iterator[None]:
    """Start munged, slurmctld and slurmd; whatever happens, stop them and put /etc/slurm back."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    with _configuration(folder):
        daemons: list[subprocess.Popen[bytes]] = []
        try:
            if not Path("/run/munge/munge.socket.2").is_socket() or _failing(["munge", "-n"]):
                daemons.append(_start_munge())
            wait_for(lambda: not _failing(["munge", "-n"]), 20, "munge")
            daemons.append(_daemon(["slurmctld", "-D", "-c"], folder))
            daemons.append(_daemon(["slurmd", "-D", "-c"], folder))
            wait_for(lambda: "idle" in ask("sinfo", "-h", "-o", "%T"), 60, "an idle node")
            yield
        finally:
            subprocess.run(["scancel", "--user", "root"], capture_output=True, timeout=60)
            _await_ends()
            for daemon in reversed(daemons):
                _end(daemon)


def ask(*command: str) -> str:
    """Run one of SLURM's commands and return what it prints."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def wait_for(condition: Callable[[], object], seconds: float, what: str, *, every: float = 0.2) -> None:
    """Poll until a condition holds; AssertionError with its name when time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}\n{ask('squeue', '--states=all')}"
        time.sleep(every)


def jobs() -> list[dict[str, str]]:
    """Every job that the controller remembers, as scontrol tells it."""
    lines = ask("scontrol", "--oneliner", "show", "job").splitlines()
    return [dict(part.split("=", 1) for part in line.split() if "=" in part) for line in lines if "JobId=" in line]


@contextmanager
def _configuration(folder: Path) -> Iterator[None]:
    devices = [folder / f"gpu{k}" for k in range(GPUS)]
    for device in devices:
        device.touch()
    host = socket.gethostname().partition(".")[0]
    files = {
        ETC / "slurm.conf": SLURM_CONF.format(host=host, folder=folder, cpus=CPUS, memory=MEMORY_MB, gpus=GPUS),
        ETC / "gres.conf": "".join(f"NodeName={host} Name=gpu Type=a100 File={device}\n" for device in devices),
    }
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    ETC.mkdir(parents=True, exist_ok=True)
    try:
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
        yield
    finally:
        for path, content in before.items():
            path.unlink(missing_ok=True) if content is None else path.write_bytes(content)


def _start_munge() -> subprocess.Popen[bytes]:
    for place in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(place).mkdir(parents=True, exist_ok=True)
        shutil.chown(place, "munge", "munge")
    os.chmod("/run/munge", 0o755)
    return subprocess.Popen(
        ["runuser", "-u", "munge", "--", "munged", "--foreground", "--force", f"--key-file={MUNGE_KEY}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _daemon(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / f"{command[0]}.out", "wb") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def _failing(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=20).returncode != 0


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(timeout=20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _await_ends() -> None:
    """Wait until the cancelled jobs are gone."""
    deadline = time.monotonic() + 20
    while ask("squeue", "-h", "-o", "%T") and time.monotonic() < deadline:
        time.sleep(0.5)
