# What is deployed: network, preprocessing, calibration, model card and hashes in one folder and one zip.


if not SEGMENTATION:

    rule write_bundle:
        input:
            bundle_inputs,
            manifest=f"{DATA}/manifest.parquet",
            audit=f"{DATA}/audit.json",
            predictions=f"{MODEL}/predictions.parquet",
            metrics=f"{MODEL}/metrics.json",
            calibration=f"{MODEL}/calibration.json",
            decision=lambda w: (
                expand(f"{ENSEMBLE}/decision.json", dataset=w.dataset)
                if w.model == "ensemble"
                else []
            ),
        output:
            folder=directory(f"{MODEL}/bundle-{{precision}}"),
            zip=f"{MODEL}/bundle-{{precision}}.zip",
        log:
            f"{LOGS}/bundle/{{dataset}}/{{model}}-{{precision}}.log",
        wildcard_constraints:
            precision="[a-z]+[0-9]+",
        resources:
            mem_mb=grow(4000),
            runtime=grow(30),
        params:
            entries=bundle_entries,
            decision=optional("decision"),
            settings=settings_hash(STUDY.model_dump(exclude={"bundle"})),
            code=lambda w: fingerprint(
                "bundle",
                components_of(architecture=map(architecture_of, bundled_models(w))),
            ),
        message:
            "{wildcards.dataset}: bundle {wildcards.model}"
        shell:
            "python $SCRIPTS/bundle.py --study $STUDY_FILE --dataset {wildcards.dataset}"
            " --model {wildcards.model} --precision {wildcards.precision} --member {params.entries}"
            " --predictions {input.predictions} {params.decision} --manifest {input.manifest}"
            " --audit {input.audit} --metrics {input.metrics} --calibration {input.calibration}"
            " --output {output.folder} --zip {output.zip} --code {params.code} 2>&1 | tee {log:q}"


if SEGMENTATION:

    rule write_mask_bundle:
        input:
            network=f"{MODEL}/model.onnx",
            account=f"{MODEL}/export.json",
            cache=cache_pointer,
            masks=f"{MODEL}/masks",
            scores=f"{RESULTS}/{{dataset}}/masks",
            manifest=f"{DATA}/manifest.parquet",
            audit=f"{DATA}/audit.json",
        output:
            folder=directory(f"{MODEL}/bundle-{{precision}}"),
            zip=f"{MODEL}/bundle-{{precision}}.zip",
        log:
            f"{LOGS}/bundle/{{dataset}}/{{model}}-{{precision}}.log",
        wildcard_constraints:
            precision="[a-z]+[0-9]+",
        resources:
            mem_mb=grow(4000),
            runtime=grow(30),
        params:
            settings=settings_hash(STUDY.model_dump(exclude={"bundle"})),
            code=network_code("bundle_masks"),
        message:
            "{wildcards.dataset}: bundle {wildcards.model}"
        shell:
            "python $SCRIPTS/bundle_masks.py --study $STUDY_FILE --dataset {wildcards.dataset}"
            " --model {wildcards.model} --precision {wildcards.precision} --account {input.account}"
            " --cache {input.cache} --masks {input.masks} --scores {input.scores}"
            " --manifest {input.manifest} --audit {input.audit}"
            " --output {output.folder} --zip {output.zip} --code {params.code} 2>&1 | tee {log:q}"


# snakemake bundle: the chosen models (bundle.models; default: all, the ensemble included).
rule bundle:
    input:
        bundles,
