# After the last job, or after an error: what to look at, and what can be made of what there is.
from pathlib import Path

from archbench.artifacts import write_json


def outdated_files():
    """What lies where jobs that did not end were to write: results of an earlier run, of other settings or code."""
    return {
        str(file)
        for job in workflow.dag.needrun_jobs()
        for file in job.output
        if os.path.exists(file)
    }


def has_predictions(dataset, model):
    """Whether a model's predictions are those of checkpoints that are all there."""
    table = expand(f"{MODEL}/predictions.parquet", dataset=dataset, model=model)[0]
    given = STUDY.models[model].checkpoint
    of_fold = f"{FOLD}/best.safetensors"
    weights = [
        given or of_fold.format(dataset=dataset, model=model, fold=f, seed=s)
        for f, s in runs(dataset)
    ]
    if table in outdated_files() or not all(map(os.path.exists, [table, *weights])):
        return False
    return os.path.getmtime(table) >= max(map(os.path.getmtime, weights))


def ensemble_files(dataset):
    """Files of the ensemble of a dataset: those that combining writes, and those that scoring writes."""
    folder = ENSEMBLE.format(dataset=dataset)
    made = [f"{folder}/{file}" for file in ("predictions.parquet", "decision.json")]
    scored = [f"{folder}/{file}" for file in ("metrics.json", "predictions.csv")]
    return made, scored


def partial_members(dataset):
    """Members of the ensemble that can be combined although others are missing; none where that is no ensemble."""
    members = [name for name in ENSEMBLE_MEMBERS if has_predictions(dataset, name)]
    enough = members and len(members) + len(STUDY.ensemble.external) > 1
    return members if has_ensemble() and enough and members != ENSEMBLE_MEMBERS else []


def partial_ensemble_command(dataset):
    """After an error: the ensemble of the members that have predictions; the others are named as left out.

    Snakemake runs no job whose input failed, so this is no rule. Its files get a date before all results, so that
    the next run makes them anew.
    """
    members = partial_members(dataset)
    if not members:
        return "true"
    missing = [name for name in ENSEMBLE_MEMBERS if name not in members]
    folder = ENSEMBLE.format(dataset=dataset)
    made, scored = ensemble_files(dataset)
    tables = expand(f"{MODEL}/predictions.parquet", dataset=dataset, model=members)
    common = f"--study $STUDY_FILE --dataset {dataset} --folds {DATA.format(dataset=dataset)}/folds.parquet"
    return (
        f"(rm -f {' '.join(made + scored)} {folder}/calibration.json; python $SCRIPTS/ensemble.py {common} --members {' '.join(members)}"
        f" --predictions {' '.join(tables)} {external_arguments(dataset)} {argument_of('missing', missing)}"
        f" {argument_of('left-out', models_left_out())} --output {made[0]} --decision {made[1]}"
        f" && python $SCRIPTS/evaluate.py {common} --model ensemble --predictions {made[0]}"
        f" --output {scored[0]} --table {scored[1]}"
        f" && touch -t 197001020000 {' '.join(made + scored)}) || true"
    )


def partial_comparison_command(dataset):
    """After an error: the comparison of the models that have predictions, and of the ensemble if there is one."""
    tables = compared_tables(dataset)
    if not tables:
        return "true"
    output = f"{RESULTS}/{dataset}/comparison.json"
    return (
        f"(rm -f {output}; python $SCRIPTS/compare.py --study $STUDY_FILE --dataset {dataset}"
        f" --models {' '.join(tables)} --predictions {' '.join(tables.values())} --output {output}"
        f" && touch -t 197001020000 {output}) || true"
    )


def compared_tables(dataset):
    """Prediction tables of what is compared although not all models are there; empty where nothing is to be done."""
    tables = {
        model: expand(f"{MODEL}/predictions.parquet", dataset=dataset, model=model)[0]
        for model in rated_models()
    }
    there = [model for model in MODELS if has_predictions(dataset, model)]
    if partial_members(dataset) or (
        has_ensemble()
        and os.path.exists(tables["ensemble"])
        and tables["ensemble"] not in outdated_files()
    ):
        there.append("ensemble")
    if there == rated_models():
        return {}
    return {model: tables[model] for model in there}


def partial_commands():
    """After an error: what can be made of what there is."""
    kept = outdated_files()
    for dataset in DATASETS:
        if partial_members(dataset):
            kept -= set(sum(ensemble_files(dataset), []))
        if compared_tables(dataset):
            kept -= {f"{RESULTS}/{dataset}/comparison.json"}
    write_json(f"{LOGS}/outdated.json", sorted(kept))
    return "; ".join(
        [
            *map(partial_ensemble_command, DATASETS),
            *map(partial_comparison_command, DATASETS),
            partial_report_command(more="--outdated $LOGS/outdated.json"),
        ]
    )


def partial_report_command(script="assemble_report", masks=(), more=""):
    """After an error or Ctrl-C: a report of what there is, failed models named with the end of their logs.

    Its page gets a date before all results, or the next run would take it for the whole report.
    """
    failed = sorted(log for job in workflow.scheduler.failed for log in job.log)
    write_json(f"{LOGS}/failed_jobs.json", failed)
    command = (
        f"python $SCRIPTS/{script}.py --study $STUDY_FILE --results $RESULTS --logs $LOGS --partial"
        f" --failed-logs $LOGS/failed_jobs.json {argument_of('masks', masks)} {more}"
    )
    return f"({command} && touch -t 197001020000 {RESULTS}/report.html) || true"


def closing_words():
    """What to look at, of what was asked for."""
    asked = set(workflow.dag_settings.targets)
    if not asked:
        return f"\nreport: {RESULTS}/report.html\ntable:  {RESULTS}/results_table.txt"
    return f"\ndone: {', '.join(sorted(asked))}"


def stopped_by_user(logs):
    """Whether Snakemake ended on Ctrl-C, by its log."""
    said = "Terminating processes on user request"
    return any(said in Path(log).read_text() for log in logs)


def only_boards_asked_for():
    """A board that fails says nothing about the study, whose report stays as it is."""
    asked = set(workflow.dag_settings.targets)
    return bool(asked) and asked <= {"leaderboard", "hub_leaderboard"}
