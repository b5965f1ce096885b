"""What every script shares: common options, labelled progress, errors without a traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, TextIO


def stage_parser(description: str | None, *, model: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that all stage scripts have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--study", required=True, help="study file (YAML, or the resolved JSON)")
    parser.add_argument("--dataset", required=True, help="name of the dataset in the study")
    if model:
        parser.add_argument("--model", required=True, help="name of the model in the study")
    parser.add_argument("--code", default="unknown", help="fingerprint of the code, for the provenance")
    return parser


def cases_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of scripts that read a dataset's cases for one model."""
    parser = stage_parser(description, model=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folds", required=True)
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--threads", type=int, default=1)
    return parser


def checkpoint_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of scripts that run a model's trained networks on the cases of their folds."""
    parser = cases_parser(description)
    parser.add_argument(
        "--checkpoint", nargs="+", required=True, help="fold:seed:weights of every fold and seed, in order"
    )
    return parser


def learning_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of scripts that let networks learn."""
    parser = cases_parser(description)
    parser.add_argument("--weights", help="safetensors file to start from")
    parser.add_argument("--features", help="pointer file of cached features (frozen backbone)")
    parser.add_argument("--prompts", help="table of prompts (prompted networks)")
    return parser


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of scripts that train one network and keep it."""
    parser = learning_parser(description)
    parser.add_argument("--state", required=True, help="where the resumable state is kept")
    parser.add_argument("--best", required=True, help="weights to write (safetensors)")
    parser.add_argument("--history", required=True, help="history to write (CSV)")
    parser.add_argument("--settings", required=True, help="settings to write (JSON)")
    return parser


def bundle_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of scripts that put a model into a bundle."""
    parser = stage_parser(description, model=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--audit", required=True)
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--zip", required=True, help="zip to write")
    return parser


class LabelledStream:
    """A text stream that puts a label before each line, so that lines of parallel jobs can be told apart."""

    def __init__(self, stream: TextIO, label: str) -> None:
        self.unlabelled = stream
        self._label = label
        self._at_line_start = True

    def write(self, text: str) -> int:
        """Write text, labelling each new line."""
        for line in text.splitlines(keepends=True):
            self.unlabelled.write(f"{self._label} | {line}" if self._at_line_start else line)
            self._at_line_start = line.endswith(("\n", "\r"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unlabelled, name)


EXPECTED = (ValueError, RuntimeError, OSError, FloatingPointError)


def run(main: Callable[[], int], *, expected: tuple[type[Exception], ...] = EXPECTED) -> None:
    """Run a script's main; expected errors end it with one clear message, others keep their traceback."""
    try:
        code = main()
    except expected as error:
        kind = type(error).__name__
        print(f"{'error' if kind in ('ValueError', 'RuntimeError') else kind}: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


def label_progress(label: str) -> None:
    """Label this job's progress lines."""
    current: Any = sys.stderr
    stream = current.unlabelled if isinstance(current, LabelledStream) else current
    sys.stderr = LabelledStream(stream, label)  # type: ignore[assignment]
