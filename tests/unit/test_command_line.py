"""What every script shares: options, labelled progress, errors without a traceback."""

from __future__ import annotations

import io
import sys

import pytest

from archbench.command_line import LabelledStream, label_progress, run, stage_parser


def test_stage_options() -> None:
    given = ["--study", "s.yaml", "--dataset", "d"]
    parsed = stage_parser("What it does.").parse_args(given)
    assert (parsed.study, parsed.dataset, parsed.code) == ("s.yaml", "d", "unknown")
    assert stage_parser(None, model=True).parse_args([*given, "--model", "m", "--code", "c"]).model == "m"


@pytest.mark.parametrize("given", [[], ["--study", "s"], ["--study", "s", "--dataset", "d", "--mod", "m"]])
def test_missing_and_abbreviated_options_are_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        stage_parser(None, model=True).parse_args(given)
    assert caught.value.code == 2
    assert "required" in capsys.readouterr().err


def test_each_line_gets_its_label_once() -> None:
    text = io.StringIO()
    stream = LabelledStream(text, "train a")
    for part in ("one\n", "tw", "o\nthree\n", "50 %\r", "100 %\n", ""):
        stream.write(part)
    assert text.getvalue() == "train a | one\ntrain a | two\ntrain a | three\ntrain a | 50 %\rtrain a | 100 %\n"
    stream.flush()
    assert not stream.isatty()


def test_progress_is_labelled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", text)
    monkeypatch.setattr(sys, "stderr", text)
    label_progress("first")
    label_progress("second")
    print("hello", file=sys.stderr)
    assert text.getvalue() == "second | hello\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("too small"), "error: too small"),
        (RuntimeError("broken"), "error: broken"),
        (FileNotFoundError(2, "No such file", "a.csv"), "FileNotFoundError: [Errno 2] No such file: 'a.csv'"),
        (FloatingPointError("diverged"), "FloatingPointError: diverged"),
    ],
)
def test_expected_errors_end_with_one_clear_line(
    error: Exception, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    assert caught.value.code == 1
    assert capsys.readouterr().err == expected + "\n"


def test_own_errors_carry_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    from archbench.config import ConfigError

    def main() -> int:
        raise ConfigError("my.yaml", ["training.lr: wrong"])

    with pytest.raises(SystemExit):
        run(main)
    assert capsys.readouterr().err.startswith("ConfigError: my.yaml: 1 problem in the study configuration\n")


def test_faults_of_the_program_keep_their_traceback() -> None:
    def main() -> int:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(main)


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_status_is_mains(code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda: code)
    assert caught.value.code == code
