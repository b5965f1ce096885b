"""The reference and the schema of study files say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import generate_docs


def test_reference_and_schema_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate_docs.main(["--check"]) == 0, f"{capsys.readouterr().err}\nrun: make docs"


def test_stale_reference_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, file in (("README", "README.md"), ("SCHEMA", "schema.json")):
        monkeypatch.setattr(generate_docs, name, tmp_path / file)
    monkeypatch.setattr(generate_docs, "CHECKOUT", tmp_path)
    assert generate_docs.main(["--check"]) == 1
    assert "README.md, schema.json; run: make docs" in capsys.readouterr().err
    assert generate_docs.main([]) == 0 and generate_docs.main(["--check"]) == 0
