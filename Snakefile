# archbench: train every candidate under one protocol, compare them honestly, write one report.
#
#   snakemake --cores 8                                   the default study (embedded data)
#   snakemake --cores 8 --configfile config/my_study.yaml your own
#   snakemake report                                      the Snakemake report of the study
#   snakemake bundle                                      its models as bundles that run without torch
import os
import sys

sys.path.insert(0, workflow.basedir)

from snakemake.settings.types import DeploymentMethod
from snakemake.utils import min_version

from archbench.config import parse_study
from archbench.fingerprint import KeptFingerprints, components_of

min_version("9.0")


# A study of the user's replaces the default one; it is not merged into it.
if "datasets" not in config:

    configfile: "config/config.yaml"


# In a container the image has the packages, not this machine.
CONTAINED = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method
STUDY = parse_study(
    config,
    source="the study",
    environment=os.environ,
    check_packages=not CONTAINED,
)


IMAGE = "containers/archbench.sif"


container: IMAGE


report: "workflow/report/study.rst"


include: "workflow/rules/container.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/dependencies.smk"
include: "workflow/rules/pages.smk"
include: "workflow/rules/closing.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/deployment.smk"
include: "workflow/rules/bundle.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/partial_masks.smk"
include: "workflow/rules/segmentation.smk"
include: "workflow/rules/leaderboard.smk"
include: "workflow/rules/cluster.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",
        ([f"{RESULTS}/leaderboard.json"] if STUDY.leaderboard.database else []),


onstart:
    refuse_to_run_twice()


onsuccess:
    print(closing_words(), file=sys.stderr)


onerror:
    if not only_boards_asked_for():
        shell(partial_mask_commands() if SEGMENTATION else partial_commands())
    if stopped_by_user(log):
        print(
            "stopped on request, nothing failed: the same command goes on from here",
            file=sys.stderr,
        )
