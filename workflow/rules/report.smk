# From artifacts to what people read.

FIGURES = [
    ("confusion_matrices", "Performance"),
    ("roc_curves", "Performance"),
    ("reliability", "Performance"),
    ("accuracy_against_latency", "Cost"),
    ("training_curves", "Cost"),
    ("class_distribution", "Data"),
]


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


rule assemble_report:
    input:
        report_inputs,
    output:
        table=report(
            RESULTS + "/results_table.csv",
            caption="../report/results_table.rst",
            category="Results",
            labels={"what": "results table", "kind": "CSV"},
        ),
        text=RESULTS + "/results_table.txt",
        json=RESULTS + "/results.json",
        confusion=report(
            RESULTS + "/confusion_matrices.png",
            caption="../report/confusion_matrices.rst",
            category="Results",
            labels={"what": "confusion matrices", "kind": "figure"},
        ),
        page=report(
            RESULTS + "/report.html",
            caption="../report/report_page.rst",
            category="Results",
            labels={"what": "the report", "kind": "page"},
        ),
    log:
        LOGS + "/assemble_report.log",
    resources:
        mem_mb=grow(4000),
        runtime=grow(30),
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
