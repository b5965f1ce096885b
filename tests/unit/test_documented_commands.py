"""What the documents tell a reader to type is there: scripts, their flags, make targets, study files, keys, links."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from archbench.config import parse_study
from archbench.settings import StudyFile

CHECKOUT = Path(__file__).resolve().parents[2]
OWN = {"config/my_study.yaml", "config/x.yaml"}  # names that stand for the reader's own file
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "config/*.md", "containers/*.md", "results/*.md", "benchmarks/*.md")
    for path in CHECKOUT.glob(pattern)
)
SCRIPTS = sorted(path for path in CHECKOUT.glob("scripts/*.py") if "def main" in path.read_text(encoding="utf-8"))
SCRIPT = re.compile(r"\b(scripts|benchmarks)/(\w+)\.py((?: +[^\s`|#();,]+)*)")
# Without --study and --dataset these hand their call on.
HANDED_ON = {"evaluate": "evaluate_predictions", "compare": "compare_studies"}
# What is no key though it looks like one: files, and module paths.
SUFFIXES = (".py", ".md", ".json", ".html", ".csv", ".smk", ".yaml", ".parquet", ".sqlite", ".png", ".npz", ".onnx")


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """(document, script, words after it) of every script that a page or a script's own text names."""
    for path in [*PAGES, *SCRIPTS]:
        text = re.sub(r"\\+\n *", "", path.read_text(encoding="utf-8"))
        for found in SCRIPT.finditer(text):
            if found[1] == "scripts":
                yield name_of(path), found[2], found[3].split()
            else:
                assert (CHECKOUT / f"benchmarks/{found[2]}.py").is_file(), f"{name_of(path)}: {found[0]}"


def help_of(script: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a script says of its flags; of its subcommand if the first word is one."""
    own = {"--study", "--dataset"} & {word.partition("=")[0] for word in words}
    script = script if own else HANDED_ON.get(script, script)
    main: Any = importlib.import_module(f"scripts.{script}").main
    subcommand = words[:1] if words and re.fullmatch(r"[a-z]+", words[0]) else []
    with pytest.raises(SystemExit):
        main([*subcommand, *(["--study", "s.json"] if own else []), "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("path", PAGES + SCRIPTS, ids=name_of)
def test_flags_that_are_named_exist(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for document, script, words in commands():
        if document == name_of(path):
            known = set(re.findall(r"--[\w-]+", help_of(script, words, capsys)))
            for word in words:
                flag = word.partition("=")[0]
                if flag.startswith("--"):
                    assert flag in known, f"{document}: scripts/{script}.py has no {flag}"


def test_make_targets_and_study_files_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"(?:`| {4})make ([a-z-]+)", text):
            assert target in targets, f"{name_of(path)}: make {target}"
        for file in re.findall(r"\bconfig/\w+\.yaml", text):
            assert file in OWN or (CHECKOUT / file).is_file(), f"{name_of(path)}: {file}"


def test_study_files_that_are_shown_are_accepted() -> None:
    """With what they leave to the reader: a name, and a model that fits the task."""
    seen = []
    for path in PAGES:
        for block in re.findall(r"```yaml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            content = yaml.safe_load(block)
            if "datasets" in content:
                masks = any(entry.get("task") == "segmentation" for entry in content["datasets"].values())
                model = {"architecture": "unet" if masks else "custom1", "image_size": 96}
                study = parse_study({"study": "shown", "models": {"m": model}, **content}, check_files=False)
                seen.append(f"{name_of(path)}: {study.study}")
    assert seen == ["README.md: my_study", "docs/segmentation.md: shown"]


def test_links_lead_somewhere() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            assert target.startswith("http") or (path.parent / target).exists(), f"{name_of(path)}: {target}"


def block_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((block for part in get_args(annotation) if (block := block_of(part))), None)


def is_key(parts: list[str]) -> bool:
    """Whether parts lead from a section of a study file to a key; after a map, any name may stand."""
    block: type[BaseModel] | None = StudyFile
    while parts:
        if block is None or parts[0] not in block.model_fields:
            return False
        annotation = block.model_fields[parts.pop(0)].annotation
        block = block_of(annotation)
        if parts and str(annotation).startswith("dict[") and parts[0].startswith("<"):
            parts.pop(0)
    return True


def test_keys_that_are_named_exist() -> None:
    sections = "|".join(StudyFile.model_fields)
    pattern = re.compile(rf"`(?:[\w-]+: )?((?:{sections})\.[\w.<>]+)")
    seen = 0
    for path in PAGES:
        for found in pattern.findall(path.read_text(encoding="utf-8")):
            if not found.endswith(SUFFIXES):
                seen += 1
                assert is_key(found.rstrip(".").split(".")), f"{name_of(path)}: no key {found}"
    assert seen > 30


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_help_shows_commands_of_several_lines_as_they_are_written(path: Path) -> None:
    shown = str(importlib.import_module(f"scripts.{path.stem}").__doc__)
    assert not re.search(r"python scripts.*\S {4,}--", shown), "a backslash at the end of a line needs another one"
