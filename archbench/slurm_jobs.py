"""Jobs at SLURM that outlived the Snakemake that submitted them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Collection


def still_at_slurm(ids: Collection[str]) -> list[str]:
    """Return those of the user's SLURM jobs that wait or run; none where there is no SLURM.

    Args:
        ids: Job ids as Snakemake notes them: 17, or 17_3 for a task of an array.
    """
    if not ids or shutil.which("squeue") is None:
        return []
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i %T"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode != 0:
        print(f"squeue can't say whether jobs of an earlier run still wait: {asked.stderr.strip()}", file=sys.stderr)
        return []
    states = dict(line.split(maxsplit=1) for line in asked.stdout.splitlines())
    return sorted(job for job in ids if states.get(job, "COMPLETING") != "COMPLETING")
