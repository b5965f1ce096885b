# From a source to pixels: read, check, split, decode once.


rule prepare_dataset:
    output:
        manifest=f"{DATA}/manifest.parquet",
        folds=f"{DATA}/folds.parquet",
        audit=f"{DATA}/audit.json",
    log:
        f"{LOGS}/prepare_dataset/{{dataset}}.log",
    threads: 2
    resources:
        mem_mb=grow(4000),
        runtime=grow(120),
    params:
        phantom=f"{DATA}/phantom",
        work=f"{DATA}/converted",
        settings=data_settings,
        code=lambda w: fingerprint(
            "prepare_dataset", components_of(dataset=STUDY.datasets[w.dataset].format)
        ),
    message:
        "{wildcards.dataset}: read, check and split"
    shell:
        "python $SCRIPTS/prepare_dataset.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --manifest {output.manifest} --folds {output.folds} --audit {output.audit}"
        " --phantom-dir {params.phantom} --work-dir {params.work} --code {params.code} 2>&1 | tee {log:q}"


rule cache_images:
    input:
        manifest=f"{DATA}/manifest.parquet",
    output:
        f"{DATA}/images-{{size}}-{{key}}.json",
    log:
        f"{LOGS}/cache_images/{{dataset}}-{{size}}-{{key}}.log",
    wildcard_constraints:
        size=r"\d+",
        key="[0-9a-f]+",
    threads: 2
    resources:
        mem_mb=grow(4000),
        runtime=grow(240),
    params:
        cache=f"{CACHE}/images",
        settings=lambda w: cache_settings(w.dataset),
        code=fingerprint("cache_images"),
    message:
        "{wildcards.dataset}: decode and preprocess at {wildcards.size} px"
    shell:
        "python $SCRIPTS/cache_images.py --study $STUDY_FILE --dataset {wildcards.dataset}"
        " --manifest {input.manifest} --size {wildcards.size} --cache-dir {params.cache}"
        " --output {output} --threads {threads} --code {params.code} 2>&1 | tee {log:q}"
