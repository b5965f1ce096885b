"""What a run in containers needs from the host: an image of the same lock, the data read-only, a temporary folder.

The rules call this while they are read, in the main process and in each cluster job, so it stays cheap.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

LOCK_VARIABLE = "IMAGE_LOCK_SHA256"  # set by the images of apptainer.def and containers/Dockerfile
LOCK_LABEL = "archbench.lock-sha256"
REMEDY = "build it anew with `make image`, or check out the commit that it was built from"

# --cleanenv keeps the host's environment out. These come in: the first with the value that each job's own process
# has, the others where they are set when the rules are read.
PER_JOB = ("TMPDIR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
PER_RUN = (
    "HF_ENDPOINT",
    *(name for kind in ("http", "https", "no") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())),
)
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class ContainerError(ValueError):
    """A run in containers that can't work; the message says why and what to do."""


def lock_hash(lock_file: str | Path) -> str:
    """SHA-256 of a lock file, as `sha256sum` prints it."""
    try:
        return hashlib.sha256(Path(lock_file).read_bytes()).hexdigest()
    except OSError as error:
        raise ContainerError(f"{lock_file} can't be read ({error}): the image is compared with it") from None


def check_image(image: str | Path, lock_file: str | Path) -> None:
    """Refuse an image that is missing or was built from another lock; called once, before any job.

    Raises:
        ContainerError: With both hashes and the remedy.
    """
    wanted = lock_hash(lock_file)
    if not Path(image).is_file():
        raise ContainerError(
            f"no image {image}: build it with `make image`, or copy it there from where it was built"
            " (containers/README.md)"
        )
    program = shutil.which("apptainer") or shutil.which("singularity")
    if program is None:
        raise ContainerError("neither apptainer nor singularity is installed: `make system-apptainer` (Debian, root)")
    completed = subprocess.run([program, "inspect", "--labels", str(image)], capture_output=True, text=True)
    if completed.returncode != 0:
        raise ContainerError(f"{image} is no image that {program} can read: {completed.stderr.strip()}")
    labels = dict(line.split(": ", 1) for line in completed.stdout.splitlines() if ": " in line)
    compare_lock(str(image), labels.get(LOCK_LABEL), wanted)


def compare_lock(image: str, found: str | None, wanted: str) -> None:
    """Refuse an image whose recorded lock hash isn't the checkout's.

    Raises:
        ContainerError: With both hashes and the remedy.
    """
    if found is None:
        raise ContainerError(f"{image} doesn't say from which requirements.lock it was built: {REMEDY}")
    if found != wanted:
        raise ContainerError(
            f"{image} was built from a requirements.lock with hash {found}, the checkout's has {wanted}: {REMEDY}"
        )


def image_guard(wanted: str) -> str:
    """Shell text that starts each job: inside an image of another lock it ends; caches go to $TMPDIR.

    On the host (`container: None`) it does nothing.
    """
    return (
        'if [ -n "${APPTAINER_CONTAINER-}${SINGULARITY_CONTAINER-}" ]; then'
        f' if [ "${{{LOCK_VARIABLE}-unknown}}" != {wanted} ]; then'
        ' echo "${APPTAINER_CONTAINER-${SINGULARITY_CONTAINER-}} was built from a requirements.lock with hash'
        f" ${{{LOCK_VARIABLE}-unknown}}, the checkout's has {wanted}: {REMEDY.replace('`', '')}\" >&2; exit 1; fi;"
        ' export XDG_CACHE_HOME="${TMPDIR:-/tmp}/archbench-cache-$(id -u)";'
        ' export MPLCONFIGDIR="$XDG_CACHE_HOME/matplotlib"; fi; '
    )


def run_arguments(paths: Mapping[str, str], environment: Mapping[str, str], working_dir: str | Path) -> list[str]:
    """Arguments of `apptainer exec`, quoted for a shell: data bound read-only, temporary folder, variables.

    Args:
        paths: Folders and files that a study reads, by the key that names them.
        environment: Of this process: says which variables are passed and which certificate files are bound.
        working_dir: Absolute; bound and writable already, so that results can be written.
    Raises:
        ContainerError: If a folder can't be bound, with the key that names it.
    """
    binds = [bind for place, path in paths.items() for bind in _binds(place, path, Path(working_dir))]
    certificates = {name: environment[name] for name in CERTIFICATES if Path(environment.get(name, "")).is_file()}
    binds += [f"{path}:{path}:ro" for path in certificates.values()]
    arguments = [f"--bind {shlex.quote(bind)}" for bind in dict.fromkeys(binds)]
    arguments.append('--bind "${TMPDIR:-/tmp}"')
    arguments += [f'${{{name}+--env "{name}=${name}"}}' for name in PER_JOB]
    constant = [name for name in PER_RUN if name in environment]
    return arguments + [f'--env "{name}=${name}"' for name in (*constant, *certificates)]


def extended(arguments: str, extra: list[str]) -> str:
    """Arguments with the extra ones that aren't there yet: a cluster job gets its parent's and adds its own."""
    return " ".join([arguments, *(item for item in extra if item not in arguments)]).strip()


def _binds(place: str, path: str, working_dir: Path) -> list[str]:
    """Bind specifications of one path: at its real place and, outside the checkout, where links lead to it."""
    named = Path(os.path.abspath(working_dir / path))
    real = named.resolve()
    if not real.exists():
        raise ContainerError(f"{place}: '{path}' is not there, so it can't be bound into the container")
    if real in (working_dir, *working_dir.parents):
        raise ContainerError(
            f"{place}: '{path}' holds the working directory {working_dir}, so it can't be read-only in the"
            " container: name the folder of the data alone"
        )
    if real.is_file() and working_dir in real.parents:
        return []
    targets = [real] if named == real or working_dir in named.parents else [real, named]
    odd = [str(target) for target in targets if set(":,") & set(str(target))]
    if odd:
        raise ContainerError(f"{place}: Apptainer can't bind a path with a colon or a comma: {odd[0]}")
    return [f"{real}:{target}:ro" for target in targets]
