# From weights to what would be deployed: ONNX with parity, then timing of all models together.


rule export_onnx:
    input:
        manifest=DATA + "/manifest.parquet",
        folds=DATA + "/folds.parquet",
        cache=cache_pointer,
        checkpoints=checkpoints,
        settings=lambda w: (
            []
            if STUDY.models[w.model].checkpoint
            else fold_files(FOLD + "/settings.json")(w)
        ),
    output:
        onnx=MODEL + "/model.onnx",
        account=MODEL + "/export.json",
    log:
        LOGS + "/export_onnx/{dataset}/{model}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(60),
    params:
        checkpoints=checkpoint_arguments,
        settings=lambda w: settings_hash(network_settings(w)),
        code=network_code("export_onnx"),
    message:
        "{wildcards.dataset}: export {wildcards.model} to ONNX"
    shell:
        "python {SCRIPTS}/export_onnx.py --study {STUDY_FILE} --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --folds {input.folds}"
        " --cache {input.cache} --checkpoint {params.checkpoints} --threads {threads}"
        " --output {output.onnx} --account {output.account} --code {params.code} 2>&1 | tee {log}"


def timing_entries(w):
    """model:model.onnx:export.json:cache pointer of each model."""
    folders = {
        model: expand(MODEL, dataset=w.dataset, model=model)[0] for model in MODELS
    }
    return [
        f"{model}:{folder}/model.onnx:{folder}/export.json:{cache_pointer_of(w.dataset, model)}"
        for model, folder in folders.items()
    ]


# All cores: nothing else may run beside a measurement.
rule time_inference:
    input:
        manifest=DATA + "/manifest.parquet",
        folds=DATA + "/folds.parquet",
        onnx=lambda w: expand(MODEL + "/model.onnx", dataset=w.dataset, model=MODELS),
        accounts=lambda w: expand(
            MODEL + "/export.json", dataset=w.dataset, model=MODELS
        ),
    output:
        calls=RESULTS + "/{dataset}/timing.parquet",
        summary=RESULTS + "/{dataset}/timing.json",
    log:
        LOGS + "/time_inference/{dataset}.log",
    threads: workflow.cores or 4
    resources:
        mem_mb=grow(8000),
        runtime=grow(120),
        timing=1,
    params:
        entries=timing_entries,
        settings=STUDY.inference.model_dump(),
        code=fingerprint("time_inference"),
    message:
        "{wildcards.dataset}: time inference of all models, interleaved"
    shell:
        "python {SCRIPTS}/time_inference.py --study {STUDY_FILE} --dataset {wildcards.dataset}"
        " --manifest {input.manifest} --folds {input.folds} --entry {params.entries}"
        " --calls {output.calls} --output {output.summary} --code {params.code} 2>&1 | tee {log}"
