"""Apptainer, buildah and images of both recipes on this machine: installed and built where that is possible.

What can't be had here ends in a skip that says why; what fails though it should work is a failure. Images are kept
in $XDG_CACHE_HOME/archbench (or ~/.cache/archbench) and used again while their recipe and the lock are unchanged.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import Future
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "archbench"
DEBIAN = "bookworm"
PROGRAMS = ("apptainer", "mmdebstrap", "buildah")
DOCKER_RECIPE = ("containers/Dockerfile", "containers/install_environment.sh", "containers/check_environment.py")
MINUTES = 60


def run(*command: str | Path, folder: Path = CHECKOUT, check: bool = True, **environment: str) -> str:
    """Output of a command, both streams as one text; its failure is the test's, with the end of that text."""
    completed = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=45 * MINUTES,
    )
    assert not check or completed.returncode == 0, f"{' '.join(map(str, command))}\n{completed.stdout[-6000:]}"
    return completed.stdout


def need_programs() -> None:
    """Install the programs that are missing, or skip with the reason."""
    if sys.platform != "linux":
        pytest.skip(f"containers need Linux, this is {sys.platform}")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if not missing:
        return
    if os.geteuid() != 0:
        pytest.skip(f"{', '.join(missing)} missing, and only root can install: sudo make system-containers")
    if shutil.which("apt-get") is None or not answers("deb.debian.org", 80):
        pytest.skip(f"{', '.join(missing)} missing, and Debian's package archive can't be reached")
    run("make", "system-containers")


def answers(host: str, port: int) -> bool:
    """Whether a host takes connections."""
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError:
        return False
    return True


def registry_answers() -> bool:
    """Whether the registry that the recipes name can be reached."""
    try:
        urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # it wants a token, which Apptainer and buildah then fetch
    except OSError:
        return False
    return True


def pip_settings() -> dict[str, str]:
    """Where this machine's pip finds packages, by option: an image is built from the same index."""
    lines = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    options = {}
    for line in lines:
        name, _, value = line.partition("=")
        option = name.rsplit(".", 1)[-1]
        if option in ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "default-timeout"):
            options[option] = str(ast.literal_eval(value))
    return options


def local_folders(settings: dict[str, str]) -> list[Path]:
    """Folders on this machine that pip's settings name; an index page leads to files beside its own folder."""
    words = [
        word for option in ("index-url", "extra-index-url", "find-links") for word in settings.get(option, "").split()
    ]
    indexes = [Path(word.removeprefix("file://")).parent for word in words if word.startswith("file:///")]
    return [folder for folder in [*indexes, *(Path(word) for word in words if word.startswith("/"))] if folder.is_dir()]


class Builder:
    """Builds images as this machine can: its base image, its package index, its certificates."""

    docker_built: Future[None]

    def __init__(self) -> None:
        need_programs()
        KEPT.mkdir(parents=True, exist_ok=True)
        settings = pip_settings()
        self.folders = local_folders(settings)
        settings_folder = KEPT / "mnt"
        settings_folder.mkdir(exist_ok=True)
        if "cert" in settings:
            shutil.copy(settings["cert"], settings_folder / "ca.pem")
            settings["cert"] = "/mnt/ca.pem"
        text = "".join(f"{option} = {value}\n" for option, value in settings.items())
        (settings_folder / "pip.conf").write_text(f"[global]\n{text}", encoding="utf-8")
        self.binds = {settings_folder: "/mnt", **{folder: str(folder) for folder in self.folders}}
        self.storage = KEPT / "storage.conf"
        self.storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{KEPT}/storage"\nrunroot = "{KEPT}/storage-run"\n',
            encoding="utf-8",
        )

    def sif(self, checkout: Path) -> str:
        """Put containers/archbench.sif into a checkout by `make image`; its output."""
        image, kept = checkout / "containers/archbench.sif", KEPT / "archbench.sif"
        if kept.is_file():
            link_or_copy(kept, image)
        base = self.base()
        binds = ",".join(f"{source}:{target}" for source, target in self.binds.items())
        arguments = (
            f"{'--build-arg BOOTSTRAP=docker-archive --build-arg FROM=' + str(base) if base else ''} --bind {binds}"
        )
        output = run("make", "image", f"IMAGE_ARGS={arguments}", folder=checkout)
        if "is up to date" not in output:
            kept.unlink(missing_ok=True)
            link_or_copy(image, kept)
        return output

    def docker(self, checkout: Path) -> None:
        """Build containers/Dockerfile into this machine's own storage by `make image-docker`."""
        content = b"".join((checkout / name).read_bytes() for name in ("requirements.lock", *DOCKER_RECIPE))
        recipe, stamp = hashlib.sha256(content).hexdigest(), KEPT / "docker-recipe"
        known = stamp.read_text(encoding="utf-8") if stamp.is_file() else ""
        if known == recipe and "archbench" in self.buildah("images"):
            return
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")
        base = self.base()
        arguments = f"--network host {f'--build-arg FROM=docker-archive:{base}' if base else ''}"
        arguments += "".join(f" --volume {source}:{target}:ro" for source, target in self.binds.items())
        run("make", "image-docker", "DOCKER=buildah", f"IMAGE_ARGS={arguments}", folder=checkout, **self.environment())
        stamp.write_text(recipe, encoding="utf-8")

    def buildah(self, *arguments: str, check: bool = True) -> str:
        """Output of buildah on this machine's own storage."""
        return run("buildah", *arguments, check=check, **self.environment())

    def environment(self) -> dict[str, str]:
        """buildah without a daemon, a registry of its own, or control groups."""
        return {"CONTAINERS_STORAGE_CONF": str(self.storage), "BUILDAH_ISOLATION": "chroot"}

    def base(self) -> Path | None:
        """A Debian base image as a local archive; None where the recipes' own base can be fetched."""
        archive = KEPT / f"base-{DEBIAN}.tar"
        if archive.is_file():
            return archive
        if not self.folders and registry_answers():
            return None
        if not answers("deb.debian.org", 80):
            pytest.skip("neither a container registry nor Debian's package archive can be reached for a base image")
        tree = KEPT / "base-tree.tar"
        # Apptainer binds nothing to places that a base image lacks while it builds.
        places = " ".join(f'"$1{folder}"' for folder in self.folders)
        run(
            *("mmdebstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"),
            f"--customize-hook=mkdir -p {places or '/'}",
            *(DEBIAN, tree, "http://deb.debian.org/debian"),
        )
        container = self.buildah("from", "scratch").split()[-1]
        self.buildah("add", "--quiet", container, str(tree), "/")
        partial = archive.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        self.buildah("commit", "--quiet", "--rm", container, f"docker-archive:{partial}:archbench-base")
        partial.rename(archive)
        tree.unlink()
        return archive


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at another place, without another 4 GB where the file system allows."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
