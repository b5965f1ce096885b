"""SHA-256 of a file, kept beside it as `<file>.sha256` in the format of `sha256sum --check`."""

from __future__ import annotations

import hashlib
from pathlib import Path


class ChecksumError(ValueError):
    """A file isn't what was once written or published; the message says what to do."""


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum_path(path: str | Path) -> Path:
    """Where the checksum of a file lies."""
    return Path(f"{path}.sha256")


def write_checksum(path: str | Path) -> None:
    """Keep the checksum of a file beside it."""
    checksum_path(path).write_text(f"{file_sha256(path)}  {Path(path).name}\n", encoding="utf-8")


def verify_checksum(path: str | Path) -> bool:
    """Compare a file with the checksum beside it; False if there is none.

    Raises:
        ChecksumError: If they differ.
    """
    beside = checksum_path(path)
    if not beside.is_file():
        return False
    expected, found = beside.read_text(encoding="utf-8").split()[:1], file_sha256(path)
    if expected != [found]:
        raise ChecksumError(
            f"{path} is not the file that {beside.name} describes (SHA-256 {found[:12]}…): delete both and fetch it "
            f"again (snakemake fetch_weights), or delete {beside} alone if the file was exchanged on purpose"
        )
    return True
