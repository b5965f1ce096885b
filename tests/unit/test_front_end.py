"""What the scripts that build a study from flags share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from archbench.config import ConfigError
from archbench.front_end import (
    absolute_weights,
    add_run_flags,
    flags_parser,
    run_command,
    save_study,
    set_given,
    set_run_settings,
    snakemake_command,
)

SOURCE = "the flags of a test"


def drawn() -> dict[str, Any]:
    return {
        "study": "drawn",
        "datasets": {"grades": {"format": "phantom", "classes": [f"grade {k}" for k in range(5)]}},
        "models": {"small": {"architecture": "custom1"}},
    }


@pytest.mark.parametrize("separator", ["-", "_"])
def test_run_flags_are_spelt_as_the_script_spells_its_own(separator: str, tmp_path: Path) -> None:
    parser = flags_parser("A script.")
    add_run_flags(parser, separator=separator)
    words = [("out", "dir", str(tmp_path)), ("log", "dir", "logs"), ("num", "workers", "3")]
    flags = [part for one, other, value in words for part in (f"--{one}{separator}{other}", value)]
    given = parser.parse_args([*flags, f"--dry{separator}run", "--resume"])
    assert (given.out_dir, given.log_dir, given.num_workers) == (tmp_path, Path("logs"), 3)
    assert given.dry_run and given.resume
    for refused in ("--dry", f"--out{'_' if separator == '-' else '-'}dir"):
        with pytest.raises(SystemExit):
            parser.parse_args([refused])


def test_cores_verbosity_and_targets_reach_snakemake(tmp_path: Path) -> None:
    study_file = tmp_path / "s.json"
    command = snakemake_command(study_file, cores=3, dry_run=True, verbose=True, targets=["one", "two"])
    assert command[:3] == [sys.executable, "-m", "snakemake"]
    assert Path(command[command.index("--snakefile") + 1]).is_file()
    assert command[command.index("--cores") + 1] == "3"
    assert command[command.index("--directory") + 1] == str(tmp_path)
    assert command[command.index("--configfile") + 1] == str(study_file)
    assert {"--dry-run", "--verbose", "--printshellcmds"} <= set(command)
    assert command[-3:] == ["--", "one", "two"]
    plain = snakemake_command(study_file)
    assert plain[plain.index("--cores") + 1] == "all"
    assert not {"--dry-run", "--verbose", "--printshellcmds", "--"} & set(plain)


def test_a_study_is_checked_shown_and_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study_file = tmp_path / "new" / "study.json"
    with pytest.raises(ConfigError, match=f"{SOURCE}.*\n.*training.epochs"):
        save_study(drawn() | {"training": {"epochs": 0}}, study_file, source=SOURCE, resume=False)
    assert not study_file.parent.exists(), "nothing is written before the study is known to be good"
    checked = save_study(drawn(), study_file, source=SOURCE, resume=False)
    assert checked.study == "drawn" and json.loads(study_file.read_text()) == drawn()
    shown = capsys.readouterr().err
    assert '"architecture": "custom1"' in shown and str(study_file) in shown


@pytest.mark.parametrize(("separator", "flag"), [("-", "--out-dir"), ("_", "--out_dir")])
def test_earlier_results_are_gone_on_with_only_if_asked(tmp_path: Path, separator: str, flag: str) -> None:
    (tmp_path / "results" / "drawn").mkdir(parents=True)
    study_file = tmp_path / "study.json"
    with pytest.raises(ConfigError, match=f"{flag}: .*holds results already; pass --resume"):
        save_study(drawn(), study_file, source=SOURCE, resume=False, separator=separator)
    assert not study_file.exists()
    save_study(drawn(), study_file, source=SOURCE, resume=True, separator=separator)
    assert study_file.exists()


def test_what_was_given_is_set_and_the_rest_left_alone() -> None:
    study: dict[str, Any] = {"training": {"lr": 0.1}, "compute": {"gpus": 1}}
    given = {("training", "lr"): None, ("training", "epochs"): 0, ("ensemble", "mlp", "lr"): 0.2}
    set_given(study, given)
    set_run_settings(study, Path("logs"))
    assert study["training"] == {"lr": 0.1, "epochs": 0} and study["ensemble"] == {"mlp": {"lr": 0.2}}
    assert study["compute"] == {"gpus": 0, "log_dir": str(Path.cwd() / "logs")}


def test_weight_files_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_weights("file:start.pth") == f"file:{tmp_path / 'start.pth'}"
    for same in ("imagenet", "package:efficientnet_lite0", None):
        assert absolute_weights(same) == same


def test_the_status_of_the_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    assert run_command(command) == 3
    assert "raise SystemExit(3)" in capsys.readouterr().err
