# From weights to what would be deployed: ONNX through its gate, then timing of all models together.


rule export_onnx:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        cache=cache_pointer,
        checkpoints=checkpoints,
        settings=lambda w: (
            []
            if STUDY.models[w.model].checkpoint
            else fold_files(f"{FOLD}/settings.json")(w)
        ),
    output:
        onnx=f"{MODEL}/model.onnx",
        variants=directory(f"{MODEL}/onnx"),
        account=f"{MODEL}/export.json",
    log:
        f"{LOGS}/export_onnx/{{dataset}}/{{model}}.log",
    wildcard_constraints:
        model="|".join(map(re.escape, MODELS)),
    threads: STUDY.compute.threads
    resources:
        mem_mb=grow(STUDY.compute.mem_mb),
        runtime=grow(60),
    params:
        checkpoints=checkpoint_arguments,
        settings=export_settings,
        code=export_code,
    message:
        "{wildcards.dataset}: export {wildcards.model} to ONNX"
    shell:
        "python $SCRIPTS/export_onnx.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --model {wildcards.model} --manifest {input.manifest} --folds {input.folds}"
        " --cache {input.cache} --checkpoint {params.checkpoints} --threads {threads}"
        " --output {output.onnx} --account {output.account} --code {params.code} 2>&1 | tee {log:q}"


# All cores: nothing else of this run may work beside a measurement. The script also holds a lock of the machine.
rule time_inference:
    input:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        onnx=lambda w: expand(f"{MODEL}/model.onnx", dataset=w.dataset, model=MODELS),
        accounts=lambda w: expand(
            f"{MODEL}/export.json", dataset=w.dataset, model=MODELS
        ),
    output:
        calls=f"{RESULTS}/{{dataset}}/timing.parquet",
        summary=f"{RESULTS}/{{dataset}}/timing.json",
    log:
        f"{LOGS}/time_inference/{{dataset}}.log",
    threads: workflow.cores or 4
    resources:
        mem_mb=grow(8000),
        runtime=grow(120),
        timing=1,
        gpu=STUDY.compute.gpus if "cuda" in STUDY.inference.devices else 0,
    params:
        entries=timing_entries,
        settings=timing_settings(),
        code=fingerprint("time_inference"),
    message:
        "{wildcards.dataset}: time inference of all models, interleaved"
    shell:
        "python $SCRIPTS/time_inference.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --manifest {input.manifest} --folds {input.folds} --entry {params.entries}"
        " --memory-mib {resources.mem_mb} --calls {output.calls} --output {output.summary} --code {params.code} 2>&1 | tee {log:q}"
