# Masks: predicted by the weights that never saw the case, scored together, reported on a page of their own.


# Of a prompted network: where it is told to draw, from the true masks or given.
rule prompts:
    input:
        manifest=f"{DATA}/manifest.parquet",
        cache=cache_pointer,
        given=given_prompts,
    output:
        f"{MODEL}/prompts.parquet",
    log:
        f"{LOGS}/prompts/{{dataset}}/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    resources:
        mem_mb=grow(2000),
        runtime=grow(30),
    params:
        settings=prompt_settings,
        code=fingerprint("prompts"),
    message:
        "{wildcards.dataset}: prompts of {wildcards.model}"
    shell:
        "python $SCRIPTS/prompts.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --cache {input.cache}"
        " --output {output} --code {params.code} 2>&1 | tee {log:q}"


rule segment:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        checkpoints=checkpoints,
        prompts=prompts_file,
    output:
        directory(f"{MODEL}/masks"),
    log:
        f"{LOGS}/segment/{{dataset}}/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        checkpoints=checkpoint_arguments,
        prompts=optional("prompts"),
        settings=lambda w: settings_hash(network_settings(w)),
        batch_size=lambda w: STUDY.training_of(w.model, w.dataset).eval_batch_size,
        code=network_code("segment"),
    message:
        "{wildcards.dataset}: masks of {wildcards.model}, all folds"
    shell:
        "python $SCRIPTS/segment.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --folds {input.folds}"
        " --cache {input.cache} --checkpoint {params.checkpoints} {params.prompts} --threads {threads}"
        " --output {output} --code {params.code} 2>&1 | tee {log:q}"


rule score_masks:
    input:
        masks=lambda w: expand(f"{MODEL}/masks", dataset=w.dataset, model=MODELS),
        manifest=f"{DATA}/manifest.parquet",
        audit=f"{DATA}/audit.json",
    output:
        directory(f"{RESULTS}/{{dataset}}/masks"),
    log:
        f"{LOGS}/score_masks/{{dataset}}.log",
    threads: 2
    resources:
        mem_mb=grow(4000),
        runtime=grow(60),
    params:
        models=MODELS,
        settings=lambda w: settings_hash(
            [
                evaluation_settings("resamples", "comparison_resamples", "delta"),
                tolerance_of(w.dataset),
            ]
        ),
        code=metrics_code("score_masks"),
    message:
        "{wildcards.dataset}: score the masks of {params.models}"
    shell:
        "python $SCRIPTS/score_masks.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --models {params.models} --masks {input.masks} --manifest {input.manifest}"
        " --audit {input.audit} --threads {threads} --output {output}"
        " --code {params.code} 2>&1 | tee {log:q}"


if SEGMENTATION:

    rule assemble_report:
        input:
            mask_report_inputs,
            masks=expand(f"{RESULTS}/{{dataset}}/masks", dataset=DATASETS),
        output:
            captioned("results_table.csv", "Results"),
            f"{RESULTS}/results_table.txt",
            json=f"{RESULTS}/results.json",
            page=captioned("report.html", "Results"),
        log:
            f"{LOGS}/assemble_report.log",
        resources:
            mem_mb=grow(4000),
            runtime=grow(30),
        params:
            masks=[f"{name}={RESULTS}/{name}/masks" for name in DATASETS],
            settings=STUDY.hash,
            code=fingerprint("assemble_mask_report"),
            templates=page_templates(),
        message:
            "tables and the report page"
        shell:
            "python $SCRIPTS/assemble_mask_report.py --study $STUDY_FILE --masks {params.masks}"
            " --results $RESULTS --logs $LOGS --code {params.code} 2>&1 | tee {log:q}"
