# From artifacts to what people read.


if not SEGMENTATION:

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
            multiext(f"{RESULTS}/results_table", ".txt", ".tex"),
            multiext(f"{RESULTS}/", "methods.md", "checklist.md"),
            directory(f"{RESULTS}/tables"),
            json=f"{RESULTS}/results.json",
            page=captioned("report.html", "Results"),
        log:
            f"{LOGS}/assemble_report.log",
        threads: 2
        resources:
            mem_mb=grow(4000),
            runtime=grow(30),
        params:
            settings=STUDY.hash,
            code=fingerprint("assemble_report"),
            templates=page_templates(),
            besides=shown_if_there(),
        message:
            "tables, figures and the report page"
        shell:
            "python $SCRIPTS/assemble_report.py --study $STUDY_FILE --results $RESULTS"
            " --logs $LOGS --threads {threads} --code {params.code} 2>&1 | tee {log:q}"


# Run by the workflow's own process, on the host: the image need not hold Snakemake.
rule report:
    input:
        f"{RESULTS}/report.html",
    output:
        f"{RESULTS}/snakemake_report.zip",
    log:
        f"{LOGS}/report.log",
    localrule: True
    container:
        None
    params:
        settings=STUDY.hash,
    message:
        "the Snakemake report"
    run:
        shell(
            "snakemake --report {output} --nolock --configfile $STUDY_FILE -- {input} 2>&1 | tee {log:q}"
        )
