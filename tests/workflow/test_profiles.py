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


def test_the_example_of_partitions_is_what_the_plugin_reads():
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    path = CHECKOUT / "profiles/slurm/partitions.yaml"
    partitions = {partition.name: partition.limits for partition in read_partition_file(path)}
    assert list(partitions) == list(read_yaml(path)["partitions"])
    assert partitions["gpu"].max_gpu == 4 and partitions["short"].max_gpu == 0
