# From artifacts to what people read.

FIGURES = {
    "roc_curves": "Performance",
    "precision_recall_curves": "Performance",
    "reliability": "Performance",
    "training_curves": "Cost",
    "accuracy_against_latency": "Cost",
    "class_distribution": "Data",
}


def report_inputs(w):
    """Everything that the report shows."""
    rated = expand(
        RESULTS + "/{dataset}/{model}/{file}.json",
        dataset=DATASETS,
        model=rated_models(),
        file=["metrics", "calibration"],
    )
    models = expand(
        RESULTS + "/{dataset}/{model}/{file}",
        dataset=DATASETS,
        model=MODELS,
        file=["gradcam", "export.json"],
    )
    datasets = expand(
        RESULTS + "/{dataset}/{file}",
        dataset=DATASETS,
        file=["comparison.json", "timing.json", "data/audit.json"],
    )
    ensembles = (
        expand(ENSEMBLE + "/decision.json", dataset=DATASETS) if has_ensemble() else []
    )
    return rated + models + datasets + ensembles


def partial_report_command():
    """After an error: a report of what there is, failed models named with the end of their logs."""
    return f"python {SCRIPTS}/assemble_report.py --study {STUDY_FILE} --results {RESULTS} --logs {LOGS} --partial || true"


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


rule assemble_report:
    input:
        report_inputs,
    output:
        [
            captioned(f"figures/{name}.svg", kind)
            for name, kind in FIGURES.items()
            if TRAINED or name != "training_curves"
        ],
        captioned("results_table.csv", "Results"),
        captioned("confusion_matrices.png", "Performance"),
        captioned("figures/cam_sheet.png", "Explanations"),
        multiext(RESULTS + "/results_table", ".txt", ".tex"),
        json=RESULTS + "/results.json",
        page=captioned("report.html", "Results"),
    params:
        results=RESULTS,
        logs=LOGS,
        settings=STUDY.hash,
        code=fingerprint("assemble_report"),
    message:
        "tables, figures and the report page"
    shell:
        "python {SCRIPTS}/assemble_report.py --study {STUDY_FILE} --results {params.results}"
        " --logs {params.logs} --code {params.code} 2>&1 | tee {log}"


# On the host: it calls Snakemake again, which the image need not hold.
rule report:
    input:
        RESULTS + "/report.html",
    output:
        RESULTS + "/snakemake_report.zip",
    log:
        LOGS + "/report.log",
    localrule: True
    container:
        None
    params:
        settings=STUDY.hash,
    message:
        "the Snakemake report"
    shell:
        "snakemake --report {output} --nolock --configfile {STUDY_FILE} -- {input} 2>&1 | tee {log}"
