"""What scripts share that build a study from flags: their common flags, and the study checked, shown, saved and run."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archbench.config import ConfigError, Study, parse_study

CHECKOUT = Path(__file__).resolve().parent.parent


def flags_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a script's docstring as it stands and takes no abbreviated flags."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_run_flags(parser: argparse.ArgumentParser, *, separator: str = "-") -> None:
    """Add the flags that say where and how a study is run: out-dir, log-dir, resume, num-workers, dry-run.

    Args:
        separator: Between the words of a flag.
    """

    def add(name: str, **settings: Any) -> None:
        parser.add_argument(f"--{name.replace('-', separator)}", **settings)

    out_dir = f"--out{separator}dir"
    add("out-dir", type=Path, default=Path(), help="results/ is made in here (default: the working directory)")
    add("log-dir", type=Path, help=f"folder of the job logs (default: logs in {out_dir})")
    add("resume", action="store_true", help=f"go on with results that lie in {out_dir} already")
    add("num-workers", type=int, help="CPU cores to use, for decoding and for jobs side by side (default: all)")
    add("dry-run", action="store_true", help="only show what would be run")


def set_run_settings(study: dict[str, Any], log_dir: Path | None) -> None:
    """Enter into a study what the flags say about the run."""
    study["compute"]["gpus"] = 0  # of a scheduler; a local GPU is found by itself
    if log_dir is not None:
        study["compute"]["log_dir"] = str(log_dir.resolve())


def set_given(study: dict[str, Any], given: Mapping[tuple[str, ...], Any]) -> None:
    """Set the keys of a study that were given (not None), blocks that lack made."""
    for (*parents, key), value in given.items():
        if value is not None:
            block = study
            for parent in parents:
                block = block.setdefault(parent, {})
            block[key] = value


def absolute_weights(weights: str | None) -> str | None:
    """Return start weights with their file's whole path: Snakemake runs in another folder."""
    kind, _, file = (weights or "").partition(":")
    return f"file:{Path(file).resolve()}" if kind == "file" and file else weights


def save_study(study: dict[str, Any], study_file: Path, *, source: str, resume: bool, separator: str = "-") -> Study:
    """Check a study, show it, and write it where its results will lie.

    Args:
        study: Content of the study file.
        study_file: Where to write it; results/ is made beside it.
        source: Who made the study, for error messages.
        resume: Whether results that lie there already are gone on with.
        separator: Between the words of a flag.

    Raises:
        ConfigError: If the study can't be run, or results lie there that `resume` doesn't want; nothing is written.
    """
    checked = parse_study(study, source=source)
    finished = study_file.parent / "results" / checked.study
    if finished.exists() and not resume:
        remedy = "pass --resume to go on there, or name another folder"
        raise ConfigError(source, [f"--out{separator}dir: {finished} holds results already; {remedy}"])
    study_file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(study, indent=2) + "\n"
    study_file.write_text(text, encoding="utf-8")
    print(f"{text}{study_file}", file=sys.stderr)
    return checked


def snakemake_command(
    study_file: Path,
    *,
    cores: int | None = None,
    dry_run: bool = False,
    verbose: bool = False,
    targets: Sequence[str] = (),
) -> list[str]:
    """Return the Snakemake call that runs a study with its results beside its file.

    Args:
        study_file: The study; Snakemake runs in its folder.
        cores: CPU cores; None takes all.
        dry_run: Only show what would be run.
        verbose: Print every command and reason.
        targets: Files to make; none makes the report.
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(CHECKOUT / "Snakefile")]
    command += ["--directory", str(study_file.parent), "--cores", str(cores or "all")]
    command += ["--printshellcmds", "--verbose"] if verbose else []
    command += ["--configfile", str(study_file), *(["--dry-run"] if dry_run else [])]
    return [*command, *(["--", *targets] if targets else [])]


def run_command(command: Sequence[str]) -> int:
    """Show and run a command; return its exit status."""
    print(" ".join(command), file=sys.stderr, flush=True)
    return subprocess.run(command, check=False).returncode
