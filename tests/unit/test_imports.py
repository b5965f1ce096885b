"""Imports go down only, stages meet in files alone, and what needs no torch imports none."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

# From bottom to top. A module may import from the layers below its own; within the layers marked so, also from
# those named before it. A new module is entered here on purpose.
REGISTRY = ("archbench.registry",)
NUMERICS = ("archbench.resampling",)  # arrays in, arrays out: nothing of ours is imported
CONFIGURATION = (
    "archbench.tasks",
    "archbench.artifacts",
    "archbench.mask_files",
    "archbench.mask_pairs",
    "archbench.checksums",
    "archbench.hub",
    "archbench.settings",
    "archbench.recipe_effects",
    "archbench.study_blocks",
    "archbench.dataset_checks",
    "archbench.model_checks",
    "archbench.recipe_checks",
    "archbench.section_checks",
    "archbench.prompt_checks",
    "archbench.config",
    "archbench.fingerprint",
    "archbench.container",
)
COMPONENTS = ("archbench.datasets", "archbench.models", "archbench.losses", "archbench.metrics")
SHARED = (
    "archbench.command_line",
    "archbench.front_end",
    "archbench.interruption",
    "archbench.slurm_jobs",
    "archbench.gpu_slots",
    "archbench.memory",
    "archbench.devices",
    "archbench.onnx_session",
    "archbench.onnx_files",
    "archbench.cache_folder",
    "archbench.image_cache",
    "archbench.onnx_runner",
    "archbench.onnx_export",
    "archbench.quantization",
    "archbench.architecture_table",
    "archbench.augmentation",
    "archbench.mixing",
    "archbench.sampling",
    "archbench.freezing",
    "archbench.optimization",
    "archbench.prompts",
    "archbench.batches",
    "archbench.features",
    "archbench.training_epoch",
    "archbench.training_setup",
    "archbench.mask_validation",
    "archbench.training_state",
    "archbench.training",
    "archbench.mask_stacks",
    "archbench.tested_masks",
    "archbench.mask_checks",
    "archbench.mask_measurement",
    "archbench.volume_cache",
    "archbench.cases",
    "archbench.checkpoints",
    "archbench.starting",
    "archbench.near_duplicates",
    "archbench.volume_audit",
    "archbench.label_values",
    "archbench.label_counts",
    "archbench.audit",
    "archbench.splits",
    "archbench.manifest",
    "archbench.prediction_files",
    "archbench.export_ladder",
    "archbench.case_comparison",
    "archbench.delong",
    "archbench.significance",
    "archbench.statistics",
    "archbench.parity",
    "archbench.auroc_tests",
    "archbench.out_of_fold",
    "archbench.cross_fitting",
    "archbench.temperature",
    "archbench.label_lines",
    "archbench.recalibration",
    "archbench.calibrated",
    "archbench.reliability",
    "archbench.thresholds",
    "archbench.conformal",
    "archbench.proportions",
    "archbench.intervals",
    "archbench.resampled",
    "archbench.class_results",
    "archbench.label_results",
    "archbench.threshold_results",
    "archbench.net_benefit",
    "archbench.conformal_results",
    "archbench.calibration_table",
    "archbench.explained",
    "archbench.volume_maps",
    "archbench.case_table",
    "archbench.members",
    "archbench.stacking",
    "archbench.combining",
    "archbench.calibrated_mean",
    "archbench.label_stacking",
    "archbench.neural_stacking",
    "archbench.adoption",
    "archbench.deployed_ensemble",
    "archbench.deployment_fits",
    "archbench.bundle_files",
    "archbench.bundle_network",
    "archbench.card_sections",
    "archbench.bundle_writer",
    "archbench.model_card",
    "archbench.mask_card",
    "archbench.ensemble_members",
    "archbench.ensemble_candidates",
    "archbench.ensemble_diagnostics",
    "archbench.ensemble_choice",
    "archbench.ensemble_record",
    "archbench.verdicts",
    "archbench.comparison",
    "archbench.mask_evaluation",
    "archbench.mask_summary",
    "archbench.slice_scores",
    "archbench.mask_results",
    "archbench.mask_parity",
)
STAGES = (
    "archbench.preparation",
    "archbench.training_run",
    "archbench.tuning",
    "archbench.prediction",
    "archbench.calibration",
    "archbench.evaluation",
    "archbench.explain",
    "archbench.bundle",
    "archbench.mask_bundle",
    "archbench.onnx_variants",
    "archbench.inference_timing",
    "archbench.ensemble",
    "archbench.mask_prediction",
    "archbench.report",
)
BOARDS = ("archbench.leaderboard",)  # over finished studies: compares and shows them as the stages do
SCRIPTS = ("scripts",)
LAYERS = (REGISTRY, NUMERICS, CONFIGURATION, COMPONENTS, SHARED, STAGES, BOARDS, SCRIPTS)
EDGE = {"archbench.command_line", "archbench.front_end"}  # what scripts share of their command lines
IN_ORDER = (CONFIGURATION, SHARED)  # those before may be imported; elsewhere neighbours may not

TORCH_FREE = (
    *("config", "artifacts", "metrics", "statistics", "calibration", "evaluation", "ensemble", "comparison", "report"),
    *("label_counts", "label_values", "label_results", "class_results", "case_table", "resampled"),
    *("cross_fitting", "temperature", "calibrated", "calibration_table", "threshold_results", "net_benefit"),
    *("conformal_results",),
    *("explained", "members", "stacking"),
    *(
        "datasets",
        "preparation",
        "splits",
        "cases",
        "image_cache",
        "audit",
        "volume_audit",
        "manifest",
        "fingerprint",
        "registry",
    ),
    *("resampling", "delong", "significance", "out_of_fold", "label_lines", "recalibration"),
    *("reliability", "thresholds", "combining", "label_stacking", "neural_stacking", "adoption", "conformal"),
    *("mask_files", "mask_pairs", "mask_checks", "mask_measurement", "mask_stacks", "tested_masks", "slice_scores"),
    *("mask_evaluation", "mask_summary", "mask_results", "mask_parity"),
    *("prediction_files", "case_comparison", "auroc_tests", "proportions", "calibrated_mean"),
    *("ensemble_members", "ensemble_candidates", "ensemble_diagnostics", "ensemble_choice", "ensemble_record"),
    *("checkpoints", "checksums", "interruption", "gpu_slots", "memory", "cache_folder", "volume_cache"),
    *("hub", "architecture_table", "bundle", "bundle_files", "deployed_ensemble", "deployment_fits", "model_card"),
    *("bundle_network", "card_sections", "bundle_writer", "mask_bundle", "mask_card"),
    "leaderboard",
    *("onnx_session", "onnx_files", "onnx_runner", "parity", "quantization", "export_ladder", "onnx_variants"),
)
DEEP_TORCH_FREE = ("archbench.metrics.", "archbench.datasets.", "archbench.leaderboard.")
HEAVY = ("torch", "torchvision", "timm", "transformers", "onnxruntime", "pytorch_grad_cam", "pandas")


def unit_of(module: str) -> str:
    """The entry of the table that a module belongs to: itself, its package, or scripts."""
    parts = module.split(".")
    return parts[0] if parts[0] == "scripts" else ".".join(parts[:2])


def sources() -> list[tuple[str, Path]]:
    """Every module of the package and the scripts, by dotted name."""
    files = [*sorted(CHECKOUT.glob("archbench/**/*.py")), *sorted(CHECKOUT.glob("scripts/*.py"))]
    names = [".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for path in files]
    return [(name.removesuffix(".__init__"), path) for name, path in zip(names, files, strict=True)]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and name of every import of a file, wherever it stands, type-checking blocks included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: write imports in full"
            whole = node.module == "archbench"
            found += [(node.lineno, f"archbench.{alias.name}" if whole else str(node.module)) for alias in node.names]
    return found


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    above = next(k for k, layer in enumerate(LAYERS) if importer in layer)
    below = next(k for k, layer in enumerate(LAYERS) if imported in layer)
    if above == below and LAYERS[above] in IN_ORDER:
        return LAYERS[above].index(imported) < LAYERS[above].index(importer)
    return below < above


def test_every_module_has_its_layer() -> None:
    known = {name for layer in LAYERS for name in layer}
    found = {unit_of(name) for name, _ in sources()} - {"archbench"}
    assert found == known, "enter a new module into the layers of this test, and take a removed one out"


def test_imports_go_down() -> None:
    offending = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {imported}"
        for name, path in sources()
        for line, imported in imports_of(path)
        if imported.startswith(("archbench.", "scripts"))
        if not may_import(unit_of(name), unit_of(imported))
    ]
    assert not offending, "\n".join(offending)


def test_scripts_dont_import_each_other() -> None:
    for name, path in sources():
        if name.startswith("scripts."):
            assert not [imported for _, imported in imports_of(path) if imported.startswith("scripts")], name


def test_the_direction_is_checked_at_all() -> None:
    assert may_import("archbench.training", "archbench.losses")
    assert not may_import("archbench.losses", "archbench.training")
    assert not may_import("archbench.evaluation", "archbench.calibration")
    assert not may_import("archbench.losses", "archbench.metrics")
    assert may_import("archbench.cases", "archbench.image_cache")
    assert not may_import("archbench.image_cache", "archbench.cases")


def test_the_runner_needs_nothing_of_the_workflow() -> None:
    allowed = {
        "archbench_predict",
        "numpy",
        "PIL",
        "cv2",
        "onnxruntime",
        "tifffile",
        "nibabel",
        "SimpleITK",
        *sys.stdlib_module_names,
    }
    for path in sorted(CHECKOUT.glob("archbench_predict/*.py")):
        strangers = {name.partition(".")[0] for _, name in imports_of(path)} - allowed
        assert not strangers, f"{path.name} imports {strangers}"


def test_only_scripts_and_rules_use_the_configuration() -> None:
    users = {
        name for name, path in sources() for _, imported in imports_of(path) if unit_of(imported) == "archbench.config"
    }
    assert {name for name in users if not name.startswith("scripts.")} == {"archbench.front_end"}


def test_only_the_configuration_reads_yaml() -> None:
    for name, path in sources():
        if name != "archbench.config":
            calls = [
                node.attr
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml"
            ]
            assert not [call for call in calls if "load" in call], f"{name} reads YAML"
    importers = {name for name, path in sources() for _, imported in imports_of(path) if imported == "yaml"}
    assert importers <= {"archbench.config", "archbench.report.page"}  # the report writes the study down


def test_only_the_edge_knows_argparse() -> None:
    importers = {name for name, path in sources() for _, imported in imports_of(path) if imported == "argparse"}
    assert {name for name in importers if not name.startswith("scripts.")} == EDGE


@pytest.mark.parametrize("which", ["modules", "scripts"])
def test_what_needs_no_torch_imports_none(which: str) -> None:
    modules = [f"archbench.{name}" for name in TORCH_FREE]
    modules += [name for name, _ in sources() if name.startswith(DEEP_TORCH_FREE)]
    scripts = [name for name, path in sources() if name.startswith("scripts.") and "def main" in path.read_text()]
    program = (
        "import importlib, sys\n"
        f"for name in {scripts if which == 'scripts' else modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [h for h in {HEAVY!r} if h in sys.modules]\n"
        "    if heavy:\n"
        "        sys.exit(f'{name} imports {heavy}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
