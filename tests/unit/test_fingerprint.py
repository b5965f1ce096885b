"""Fingerprints: an edit reruns exactly what depends on it.

Each test edits a copy of the package, and looks at which jobs of the real scripts change.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from archbench.artifacts import read_json, write_json
from archbench.fingerprint import (
    KeptFingerprints,
    components_of,
    fingerprint,
    fingerprint_files,
    slice_component,
    source_hash,
)
from archbench.registry import ARCHITECTURES, DATASETS, LOSSES, METRICS

CHECKOUT = Path(__file__).resolve().parents[2]

# A job: its script, and the module and name of each registered component that it uses.
JOBS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "train custom1, weighted CE": (
        "train",
        [("models/custom", "custom1"), ("losses/cross_entropy", "weighted_cross_entropy")],
    ),
    "train resnet18, focal": ("train", [("models/resnet", "resnet18"), ("losses/focal", "focal")]),
    "predict resnet18": ("predict", [("models/resnet", "resnet18")]),
    "predict resnet50": ("predict", [("models/resnet", "resnet50")]),
    "predict lite0": ("predict", [("models/efficientnet", "tf_efficientnet_lite0")]),
    "evaluate": ("evaluate", [("metrics/agreement", "qwk"), ("metrics/accuracy", "accuracy")]),
    "report": ("assemble_report", []),
}

NEW_ARCHITECTURE = """

ARCHITECTURES.register(
    "resnet34",
    Architecture(
        build=timm_builder("resnet34"),
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="fc",
        cam_layer="layer4.-1",
        paper=PAPER,
    ),
)
"""


class Checkout:
    """A copy of the package and the scripts; `edit` says which jobs an edit changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("archbench", "archbench_predict", "scripts"):
            shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))

    def hashes(self) -> dict[str, str]:
        return {
            job: fingerprint_files(
                self.folder / "scripts" / f"{script}.py",
                [(self.folder / "archbench" / f"{module}.py", name) for module, name in components],
                root=self.folder,
            )
            for job, (script, components) in JOBS.items()
        }

    def changed_by(self, edit: Callable[[], None]) -> set[str]:
        before = self.hashes()
        edit()
        after = self.hashes()
        return {job for job in JOBS if before[job] != after[job]}

    def replace(self, file: str, old: str, new: str) -> set[str]:
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{file} no longer holds {old!r}"
        return self.changed_by(lambda: path.write_text(text.replace(old, new, 1), encoding="utf-8"))

    def append(self, file: str, text: str) -> set[str]:
        path = self.folder / file
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        return self.changed_by(lambda: path.write_text(before + text, encoding="utf-8") and None)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


TRAININGS = {job for job in JOBS if job.startswith("train")}


def test_jobs_differ_and_stay_the_same(checkout: Checkout) -> None:
    assert checkout.hashes() == checkout.hashes()
    assert len(set(checkout.hashes().values())) == len(JOBS)


def test_the_copy_gives_the_hashes_of_the_checkout(checkout: Checkout) -> None:
    assert checkout.hashes()["predict resnet18"] == fingerprint("predict", components_of(architecture="resnet18"))


def test_comments_docstrings_and_layout_change_nothing(checkout: Checkout) -> None:
    path = checkout.folder / "archbench" / "training_epoch.py"
    text = path.read_text(encoding="utf-8")
    assert '"""Training can\'t go on' in text and "\n    scaler.update()\n" in text
    edited = text.replace('"""Training can\'t go on', '"""Reworded: training can\'t go on')
    edited = edited.replace("\n    scaler.update()\n", "\n    # a remark\n\n    scaler.update(\n    )\n")
    assert checkout.changed_by(lambda: path.write_text("# a header\n" + edited) and None) == set()


def test_a_function_whose_docstring_is_all_it_has(checkout: Checkout) -> None:
    one = 'class DeviceError(RuntimeError):\n    """A device or precision that was asked for is not there."""'
    assert checkout.replace("archbench/devices.py", one, 'class DeviceError(RuntimeError):\n    """Gone."""') == set()


def test_arithmetic_of_a_loss_changes_what_uses_it(checkout: Checkout) -> None:
    assert checkout.replace("archbench/losses/focal.py", "clamp_min(0)", "clamp_min(1)") == {"train resnet18, focal"}


def test_an_imported_function_changes_all_that_import_it(checkout: Checkout) -> None:
    changed = checkout.replace("archbench/losses/loss.py", "counts.sum() /", "1 + counts.sum() /")
    assert changed == TRAININGS
    changed = checkout.replace("archbench/models/building.py", "(images.to(", "2 * (images.to(")
    assert changed == {job for job in JOBS if job.startswith(("train", "predict"))}


def test_augmentation_changes_training_alone(checkout: Checkout) -> None:
    assert checkout.replace("archbench/augmentation.py", "rotation_deg=15", "rotation_deg=16") == TRAININGS


def test_the_runner_counts_by_its_image_code_alone(checkout: Checkout) -> None:
    with_images = {job for job in JOBS if job.startswith(("train", "predict"))}
    assert (
        checkout.replace("archbench_predict/images.py", "CLAHE_TILES = (8, 8)", "CLAHE_TILES = (4, 4)") == with_images
    )
    assert checkout.replace("archbench_predict/streaming.py", "len(flying) <= lanes", "len(flying) < lanes") == set()


def test_a_script_changes_its_own_jobs(checkout: Checkout) -> None:
    assert checkout.replace("scripts/predict.py", "return 0", "return 1") == {
        job for job in JOBS if job.startswith("predict")
    }


def test_another_architecture_of_the_family_changes_nothing(checkout: Checkout) -> None:
    assert checkout.append("archbench/models/resnet.py", NEW_ARCHITECTURE) == set()


def test_another_family_changes_nothing(checkout: Checkout) -> None:
    family = (checkout.folder / "archbench/models/resnet.py").read_text(encoding="utf-8")
    assert checkout.append("archbench/models/senet.py", family.replace('"resnet', '"senet')) == set()


def test_an_architectures_own_entry_changes_it_alone(checkout: Checkout) -> None:
    path = "archbench/models/resnet.py"
    assert checkout.replace(path, '_resnet("resnet50", tag="a1', '_resnet("resnet50", tag="a2') == {"predict resnet50"}


def test_what_a_family_shares_changes_those_that_use_it(checkout: Checkout) -> None:
    changed = checkout.replace("archbench/models/resnet.py", "image_size=224", "image_size=225")
    assert changed == {job for job in JOBS if "resnet" in job}


def test_a_metrics_helper_changes_those_that_use_it(checkout: Checkout) -> None:
    assert checkout.replace("archbench/metrics/agreement.py", "** 2", "** 3") == {"evaluate"}


def test_type_checking_blocks_dont_count(checkout: Checkout) -> None:
    old = "if TYPE_CHECKING:\n    from archbench.settings import Training\n"
    new = old + "    from archbench.report import page\n"
    assert checkout.replace("archbench/training.py", old, new) == set()


def test_configuration_code_doesnt_count(checkout: Checkout) -> None:
    assert checkout.append("archbench/config.py", "\n\nEXTRA = 1\n") == set()
    assert checkout.replace("archbench/settings/training.py", "Field(30, ge=1", "Field(31, ge=1") == set()


@pytest.mark.parametrize("imported", ["archbench.settings", "archbench.settings.training"])
def test_configuration_code_doesnt_count_where_it_is_imported(checkout: Checkout, imported: str) -> None:
    script = checkout.folder / "scripts" / "asker.py"
    script.write_text(f"from {imported} import Training\n", encoding="utf-8")
    before = fingerprint_files(script, root=checkout.folder)
    checkout.append("archbench/settings/training.py", "\n\nEXTRA = 1\n")
    checkout.append("archbench/settings/__init__.py", "\n\nEXTRA = 1\n")
    assert fingerprint_files(script, root=checkout.folder) == before


def test_an_unregistered_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="no top-level statement registers 'missing'"):
        slice_component(ast.parse('ITEMS.register("there", 1)'), "missing")


def test_a_slice_holds_what_the_component_needs_and_no_more() -> None:
    text = """
import math
import os
A = 1
B = A + 1
C = 5
def half(x): return x / 2
def build(): return half(B) + math.pi
ITEMS.register("one", build)
ITEMS.register("two", C)
"""
    kept = ast.unparse(slice_component(ast.parse(text), "one"))
    for needed in ("import math", "A = 1", "B = A + 1", "def half", "def build", "'one'"):
        assert needed in kept
    for foreign in ("import os", "C = 5", "'two'"):
        assert foreign not in kept


def test_component_modules_hold_only_statements_that_slicing_understands() -> None:
    plain = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.AnnAssign)
    for registry in (ARCHITECTURES, DATASETS, LOSSES, METRICS):
        for module in sorted({registry.module(name) for name in registry.names()}):
            path = CHECKOUT / f"{module.replace('.', '/')}.py"
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                simple = isinstance(node, ast.Assign) and all(isinstance(t, ast.Name | ast.Tuple) for t in node.targets)
                guard = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
                text = ast.unparse(node)
                call = isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or ".register" in text)
                assert isinstance(node, plain) or simple or guard or call, f"{path}:{node.lineno}: {text[:80]}"


def test_open_names_have_the_code_of_their_family() -> None:
    one, other = (fingerprint("predict", components_of(architecture=f"timm:{n}")) for n in ("regnety_002", "resnet14t"))
    assert one == other != fingerprint("predict", components_of(architecture="resnet18"))


def test_kept_fingerprints_are_those_computed_and_are_found_again_without_parsing(tmp_path: Path) -> None:
    from archbench import fingerprint as module

    components = components_of(architecture="resnet18", loss="focal")
    kept = KeptFingerprints(tmp_path / "kept.json")
    assert kept("train", components) == fingerprint("train", components)
    assert kept("prompts") == fingerprint("prompts") != kept("train", components)

    module._fingerprint.cache_clear()
    module._parse_text.cache_clear()
    again = KeptFingerprints(tmp_path / "kept.json")
    assert again("train", iter(components)) == kept("train", components)
    assert module._parse_text.cache_info().misses == 0


def test_two_processes_keep_their_fingerprints_in_one_file(tmp_path: Path) -> None:
    one, other = (KeptFingerprints(tmp_path / "kept.json") for _ in range(2))
    one("prompts")
    other("evaluate", components_of(metric="qwk"))
    assert set(read_json(tmp_path / "kept.json")["fingerprints"]) == {"prompts", "evaluate metric:qwk"}


@pytest.mark.parametrize("text", [None, "", "[]", '{"source": 1}', '{"source": ', "other source"])
def test_kept_fingerprints_of_another_source_or_a_damaged_file_are_not_used(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "kept.json"
    if text == "other source":
        write_json(path, {"source": "0" * 64, "fingerprints": {"prompts": "stale"}})
    elif text is not None:
        path.write_text(text, encoding="utf-8")
    assert KeptFingerprints(path)("prompts") == fingerprint("prompts")
    assert read_json(path)["fingerprints"]["prompts"] == fingerprint("prompts")


def test_nothing_is_kept_of_a_source_that_was_edited_after_the_start(tmp_path: Path) -> None:
    folder = Checkout(tmp_path / "checkout").folder
    kept = KeptFingerprints(tmp_path / "kept.json", root=folder)
    (folder / "scripts" / "prompts.py").write_text("EDITED = 1\n", encoding="utf-8")
    assert kept("prompts") and not (tmp_path / "kept.json").exists()


@pytest.mark.parametrize("name", ["archbench/losses/focal.py", "archbench_predict/bundle.py", "scripts/train.py"])
def test_the_source_hash_changes_with_every_source_file(tmp_path: Path, name: str) -> None:
    folder = Checkout(tmp_path).folder
    before = source_hash(folder)
    assert before == source_hash(CHECKOUT)
    edited = folder / name
    edited.write_text(edited.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    assert source_hash(folder) != before
