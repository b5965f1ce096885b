"""The profiles that come with the product are read by the installed Snakemake, and every key says what it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from archbench.config import read_yaml

CHECKOUT = Path(__file__).resolve().parents[2]
PROFILES = sorted(path.parent.name for path in (CHECKOUT / "profiles").glob("*/config.yaml"))

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize("name", PROFILES)
def test_a_study_plans_with_every_profile(workflow, name):
    output = workflow.snakemake("--profile", f"profiles/{name}", "--dry-run").stdout
    assert "assemble_report" in output
    assert f"profiles/{name}" in output.splitlines()[0]


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_of_a_profile_is_explained(name):
    """By a comment above it, or within its own lines."""
    text = (CHECKOUT / "profiles" / name / "config.yaml").read_text(encoding="utf-8")
    blocks = re.findall(r"((?:^#.*\n)*)(^[a-z][a-z-]*:.*\n(?:^[ ].*\n?)*)", text, re.M)
    keys = {own.partition(":")[0]: "#" in above + own for above, own in blocks}
    assert keys.keys() == read_yaml(CHECKOUT / "profiles" / name / "config.yaml").keys()
    assert all(keys.values()), keys


@pytest.mark.parametrize("name", ["slurm", "workstation"])
def test_every_rule_that_runs_a_network_gets_a_gpu(name):
    """All rules that leave their GPUs to the study; a measurement needs one only on cuda."""
    rules = "\n".join(path.read_text(encoding="utf-8") for path in sorted((CHECKOUT / "workflow/rules").glob("*.smk")))
    running = {part.partition(":")[0] for part in re.split(r"^rule ", rules, flags=re.M) if "gpu=STUDY" in part}
    given = read_yaml(CHECKOUT / "profiles" / name / "config.yaml")["set-resources"]
    assert {rule for rule, resources in given.items() if resources.get("gpu") == 1} == running - {"time_inference"}
    assert {"train", "predict", "train_final"} <= running


def test_what_is_commented_out_can_be_switched_on(workflow):
    """Each option that stands behind a # in the profile is one that Snakemake and its plugin know."""
    text = (CHECKOUT / "profiles/slurm/config.yaml").read_text(encoding="utf-8")
    options = r"^( *)# ((?:slurm[-_]|constraint|qos|gpu)[a-z_-]*: )"
    whole, switched = re.subn(options, r"\1\2", text, flags=re.M)
    assert switched >= 10
    (workflow.folder / "profiles/whole").mkdir()
    (workflow.folder / "profiles/whole/config.yaml").write_text(whole, encoding="utf-8")
    output = workflow.snakemake("--profile", "profiles/whole", "--dry-run").stdout
    assert "assemble_report" in output and "slurm_account=my_project" in output and "constraint=a100|h100" in output


def test_the_example_of_partitions_is_what_the_plugin_reads():
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    path = CHECKOUT / "profiles/slurm/partitions.yaml"
    partitions = {partition.name: partition.limits for partition in read_partition_file(path)}
    assert list(partitions) == list(read_yaml(path)["partitions"])
    assert partitions["gpu"].max_gpu == 4 and partitions["short"].max_gpu == 0
