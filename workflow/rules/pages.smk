# What the report pages show, and where the Snakemake report puts it.
from pathlib import Path

from archbench.checksums import file_sha256

FIGURES = {
    "forest": "Results",
    "roc_curves": "Performance",
    "precision_recall_curves": "Performance",
    "reliability": "Performance",
    "training_curves": "Cost",
    "accuracy_against_latency": "Cost",
    "class_distribution": "Data",
}


def page_templates():
    """Hash of the page's templates: they are no Python, so the fingerprint doesn't see them."""
    folder = Path(workflow.basedir, "archbench", "report", "templates")
    return settings_hash([file_sha256(path) for path in sorted(folder.iterdir())])


def shown_if_there():
    """Hash of what the report shows where it was made (final models, searches) without asking for it."""
    files = expand(f"{FINAL}/settings.json", dataset=DATASETS, model=TRAINED)
    if STUDY.tuning and not STUDY.tuning.apply:
        files += searches(None)
    return settings_hash([[f, file_sha256(f)] for f in files if os.path.exists(f)])


def report_inputs(w):
    """Everything that the report shows."""
    rated = expand(
        f"{RESULTS}/{{dataset}}/{{model}}/{{file}}.json",
        dataset=DATASETS,
        model=rated_models(),
        file=["metrics", "calibration"],
    )
    models = expand(
        f"{RESULTS}/{{dataset}}/{{model}}/{{file}}",
        dataset=DATASETS,
        model=MODELS,
        file=["gradcam", "export.json"],
    )
    datasets = expand(
        f"{RESULTS}/{{dataset}}/{{file}}",
        dataset=DATASETS,
        file=["comparison.json", "timing.json", "data/audit.json"],
    )
    ensembles = (
        expand(f"{ENSEMBLE}/decision.json", dataset=DATASETS) if has_ensemble() else []
    )
    return rated + models + datasets + ensembles


def mask_report_inputs(w):
    """What the page of a segmentation study shows beside the masks."""
    exports = expand(
        f"{RESULTS}/{{dataset}}/{{model}}/export.json", dataset=DATASETS, model=MODELS
    )
    return exports + expand(
        f"{RESULTS}/{{dataset}}/{{file}}",
        dataset=DATASETS,
        file=["timing.json", "data/audit.json"],
    )


def captioned(file, category):
    """Output that the Snakemake report shows with its caption."""
    stem, _, kind = os.path.basename(file).rpartition(".")
    labels = {"what": stem.replace("_", " "), "kind": kind}
    return report(
        f"{RESULTS}/{file}",
        caption=f"../report/{stem}.rst",
        category=category,
        labels=labels,
    )
