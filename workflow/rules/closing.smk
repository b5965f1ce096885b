# After the last job, or after an error: what to look at, and what can be made of what there is.
from pathlib import Path

from archbench.artifacts import write_json


def has_predictions(dataset, model):
    """Whether a model's predictions are those of checkpoints that are all there."""
    table = expand(f"{MODEL}/predictions.parquet", dataset=dataset, model=model)[0]
    given = STUDY.models[model].checkpoint
    of_fold = f"{FOLD}/best.safetensors"
    weights = [
        given or of_fold.format(dataset=dataset, model=model, fold=f, seed=s)
        for f, s in runs(dataset)
    ]
    if not all(map(os.path.exists, [table, *weights])):
        return False
    return os.path.getmtime(table) >= max(map(os.path.getmtime, weights))


def partial_ensemble_command(dataset):
    """After an error: the ensemble of the members that have predictions; the others are named as left out.

    Snakemake runs no job whose input failed, so this is no rule. Its files get a date before all results, so that
    the next run makes them anew.
    """
    members = [name for name in ENSEMBLE_MEMBERS if has_predictions(dataset, name)]
    missing = [name for name in ENSEMBLE_MEMBERS if name not in members]
    if not (missing and members and len(members) + len(STUDY.ensemble.external) > 1):
        return "true"
    folder = ENSEMBLE.format(dataset=dataset)
    made = [f"{folder}/{file}" for file in ("predictions.parquet", "decision.json")]
    scored = [f"{folder}/{file}" for file in ("metrics.json", "predictions.csv")]
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


def partial_commands():
    """After an error: what can be made of what there is."""
    ensembles = map(partial_ensemble_command, DATASETS) if has_ensemble() else []
    return "; ".join([*ensembles, partial_report_command()])


def partial_report_command(script="assemble_report", masks=()):
    """After an error or Ctrl-C: a report of what there is, failed models named with the end of their logs.

    Its page gets a date before all results, or the next run would take it for the whole report.
    """
    failed = f"{LOGS}/failed_jobs.json"
    write_json(
        failed, sorted(log for job in workflow.scheduler.failed for log in job.log)
    )
    command = (
        f"python $SCRIPTS/{script}.py --study $STUDY_FILE --results {RESULTS} --logs {LOGS} --partial"
        f" --failed-logs {failed} {argument_of('masks', masks)}"
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
