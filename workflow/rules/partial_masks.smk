# What can be reported of a study of masks after an error. Nothing else.


def has_masks(dataset, model):
    """Whether a model's masks are there, drawn by checkpoints that are all there."""
    folder = MODEL.format(dataset=dataset, model=model)
    given = STUDY.models[model].checkpoint
    of_fold = f"{folder}/fold{{fold}}-seed{{seed}}/best.safetensors"
    weights = [given or of_fold.format(fold=f, seed=s) for f, s in runs(dataset)]
    index = f"{folder}/masks/index.json"
    if not all(map(os.path.exists, [index, *weights])):
        return False
    return os.path.getmtime(index) >= max(map(os.path.getmtime, weights))


def partial_masks(dataset):
    """After an error: where the scores of a dataset lie, and the command that makes them of the masks there are.

    Those of some models lie apart from those of all, so that the next run doesn't take them for these.
    """
    models = [model for model in MODELS if has_masks(dataset, model)]
    whole = f"{RESULTS}/{dataset}/masks"
    if models == MODELS and os.path.exists(f"{whole}/summary.json"):
        return whole, None
    if not models:
        return None, None
    folder = f"{DATA.format(dataset=dataset)}/partial_masks"
    masks = expand(f"{MODEL}/masks", dataset=dataset, model=models)
    data = DATA.format(dataset=dataset)
    return folder, (
        f"rm -rf {folder}; python $SCRIPTS/score_masks.py --study $STUDY_FILE --dataset {dataset}"
        f" --models {' '.join(models)} --masks {' '.join(masks)} --manifest {data}/manifest.parquet"
        f" --audit {data}/audit.json --threads 2 --output {folder}"
    )


def partial_mask_commands():
    """After an error or Ctrl-C: the report of the masks there are; failed models have the end of their logs."""
    found = {dataset: partial_masks(dataset) for dataset in DATASETS}
    masks = [f"{dataset}={folder}" for dataset, (folder, _) in found.items() if folder]
    scores = [command for _, command in found.values() if command]
    return "; ".join([*scores, partial_report_command("assemble_mask_report", masks)])
