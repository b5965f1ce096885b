# From logits to figures that hold: calibrate, combine, score, compare, explain. Models and the
# ensemble go through the same rules.


rule calibrate:
    input:
        predictions=f"{MODEL}/predictions.parquet",
        folds=f"{DATA}/folds.parquet",
    output:
        f"{MODEL}/calibration.json",
    log:
        f"{LOGS}/calibrate/{{dataset}}/{{model}}.log",
    resources:
        mem_mb=grow(2000),
        runtime=grow(30),
    params:
        settings=evaluation_settings("resamples", "isotonic", "isotonic_patients"),
        code=fingerprint(
            "calibrate", components_of(metric=["ece", "log_loss", "brier"])
        ),
    message:
        "{wildcards.dataset}: calibrate {wildcards.model}"
    shell:
        "python $SCRIPTS/calibrate.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --predictions {input.predictions} --folds {input.folds}"
        " --output {output} --code {params.code} 2>&1 | tee {log:q}"


rule evaluate:
    input:
        predictions=f"{MODEL}/predictions.parquet",
        folds=f"{DATA}/folds.parquet",
    output:
        metrics=f"{MODEL}/metrics.json",
        table=f"{MODEL}/predictions.csv",
    log:
        f"{LOGS}/evaluate/{{dataset}}/{{model}}.log",
    resources:
        mem_mb=grow(2000),
        runtime=grow(30),
    params:
        settings=evaluation_settings(
            *("resamples", "clinical_cut", "thresholds", "isotonic"),
            *("isotonic_patients", "conformal_coverage"),
        ),
        code=metrics_code("evaluate"),
    message:
        "{wildcards.dataset}: evaluate {wildcards.model}"
    shell:
        "(python $SCRIPTS/evaluate.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --predictions {input.predictions} --folds {input.folds}"
        " --output {output.metrics} --table {output.table} --code {params.code}"
        " && python $SCRIPTS/results.py --study $STUDY_FILE --results $RESULTS) 2>&1 | tee {log:q}"


rule ensemble:
    input:
        members=lambda w: expand(
            f"{MODEL}/predictions.parquet", dataset=w.dataset, model=ENSEMBLE_MEMBERS
        ),
        external=lambda w: list(STUDY.external_members(w.dataset).values()),
        folds=f"{DATA}/folds.parquet",
    output:
        predictions=f"{ENSEMBLE}/predictions.parquet",
        decision=f"{ENSEMBLE}/decision.json",
    log:
        f"{LOGS}/ensemble/{{dataset}}.log",
    resources:
        mem_mb=grow(2000),
        runtime=grow(60),
    params:
        members=ENSEMBLE_MEMBERS,
        external=lambda w: external_arguments(w.dataset),
        left_out=argument_of("left-out", models_left_out()),
        settings=[
            STUDY.ensemble.model_dump(),
            evaluation_settings("resamples", "clinical_cut"),
        ],
        code=metrics_code("ensemble"),
    message:
        "{wildcards.dataset}: combine {params.members}"
    shell:
        "python $SCRIPTS/ensemble.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --members {params.members} --predictions {input.members} {params.external} {params.left_out}"
        " --folds {input.folds} --output {output.predictions} --decision {output.decision} --code {params.code} 2>&1 | tee {log:q}"


rule compare:
    input:
        lambda w: expand(
            f"{MODEL}/predictions.parquet", dataset=w.dataset, model=rated_models()
        ),
    output:
        f"{RESULTS}/{{dataset}}/comparison.json",
    log:
        f"{LOGS}/compare/{{dataset}}.log",
    resources:
        mem_mb=grow(4000),
        runtime=grow(60),
    params:
        models=rated_models(),
        settings=evaluation_settings("comparison_resamples", "delta", "clinical_cut"),
        code=metrics_code("compare"),
    message:
        "{wildcards.dataset}: compare {params.models}"
    shell:
        "python $SCRIPTS/compare.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --models {params.models} --predictions {input} --output {output}"
        " --code {params.code} 2>&1 | tee {log:q}"


rule explain:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        predictions=f"{MODEL}/predictions.parquet",
        checkpoints=checkpoints,
    output:
        directory(f"{MODEL}/gradcam"),
    log:
        f"{LOGS}/explain/{{dataset}}/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        checkpoints=checkpoint_arguments,
        settings=lambda w: settings_hash(
            [network_settings(w), STUDY.explain.model_dump()]
        ),
        code=network_code("explain"),
    message:
        "{wildcards.dataset}: Grad-CAM of {wildcards.model}"
    shell:
        "python $SCRIPTS/explain.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --folds {input.folds}"
        " --cache {input.cache} --predictions {input.predictions} --checkpoint {params.checkpoints}"
        " --threads {threads} --output {output} --code {params.code} 2>&1 | tee {log:q}"
