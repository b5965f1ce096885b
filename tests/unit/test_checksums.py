"""Checksums beside files: written as sha256sum reads them, a changed file is named with the remedy."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from archbench.checksums import ChecksumError, verify_checksum, write_checksum


def test_a_file_with_its_checksum_passes_here_and_in_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    write_checksum(tmp_path / "w.safetensors")
    assert verify_checksum(tmp_path / "w.safetensors")
    text = (tmp_path / "w.safetensors.sha256").read_text()
    assert text == f"{hashlib.sha256(b'weights').hexdigest()}  w.safetensors\n"
    done = subprocess.run(["sha256sum", "--check", "w.safetensors.sha256"], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0


def test_a_file_without_one_is_told_from_a_checked_one(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    assert not verify_checksum(tmp_path / "w")


@pytest.mark.parametrize("text", [None, "", "abc  w\n"])
def test_a_changed_file_or_an_empty_checksum_is_refused(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    write_checksum(tmp_path / "w")
    if text is None:
        (tmp_path / "w").write_bytes(b"weightz")
    else:
        (tmp_path / "w.sha256").write_text(text)
    with pytest.raises(ChecksumError, match=r"w is not the file that w\.sha256 describes .*snakemake fetch_weights"):
        verify_checksum(tmp_path / "w")
