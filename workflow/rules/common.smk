# Where things lie, and what a job depends on besides its files. Nothing else.
import re
import shlex
from functools import cache
from pathlib import Path

from archbench import hub
from archbench.artifacts import write_json
from archbench.checksums import file_sha256
from archbench.config import settings_hash
from archbench.tasks import TASKS

SCRIPTS = os.path.join(workflow.basedir, "scripts")
RESULTS = f"results/{STUDY.study}"
DATA = f"{RESULTS}/{{dataset}}/data"
MODEL = f"{RESULTS}/{{dataset}}/{{model}}"
FOLD = f"{MODEL}/fold{{fold}}-seed{{seed}}"
ENSEMBLE = f"{RESULTS}/{{dataset}}/ensemble"
TUNED = f"{MODEL}/tuning/fold{{fold}}.json"
FINAL = f"{MODEL}/final"
CACHE = "results/cache"
LOGS = f"{STUDY.compute.log_dir}/{STUDY.study}"

# The resolved study, named by its content: a running job never sees a later edit. `params` say on which
# of its keys a job depends.
STUDY_FILE = f"{CACHE}/studies/{STUDY.study}-{STUDY.hash}.json"
if not os.path.exists(STUDY_FILE):
    write_json(STUDY_FILE, STUDY.model_dump())

DATASETS = list(STUDY.datasets)
SEGMENTATION = any(entry.task == "segmentation" for entry in STUDY.datasets.values())
MODELS = list(STUDY.models)
TRAINED = [name for name in MODELS if STUDY.models[name].checkpoint is None]
SEEDS = STUDY.protocol.seeds
# Asked for each of thousands of jobs, with few different answers.
training_of = cache(STUDY.training_of)

# The checkout's code, in a container too. Commands name what differs between machines and calls by
# variables, so that another place of the checkout or an unrelated key reruns nothing.
shell.prefix(
    f"set -euo pipefail; {IMAGE_GUARD}export PYTHONPATH='{workflow.basedir}' SCRIPTS='{SCRIPTS}' STUDY_FILE='{STUDY_FILE}';"
    f" export RESULTS='{RESULTS}' LOGS='{LOGS}' OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 HF_HUB_OFFLINE=1; "
)


wildcard_constraints:
    dataset="|".join(map(re.escape, DATASETS)),
    model="|".join(map(re.escape, [*MODELS, "ensemble"])),
    fold=r"\d+",
    seed=r"\d+",


ENSEMBLE_MEMBERS = STUDY.ensemble_members()


def has_ensemble():
    members = [*ENSEMBLE_MEMBERS, *STUDY.ensemble.external]
    return len(members) > 1 and bool(STUDY.ensemble.candidates)


def rated_models():
    """Models and, where there is one, the ensemble."""
    return [*MODELS, "ensemble"] if has_ensemble() else MODELS


def external_arguments(dataset):
    """name=table of the ensemble's members from other studies."""
    members = STUDY.external_members(dataset)
    pairs = [shlex.quote(f"{name}={path}") for name, path in members.items()]
    return argument_of("external", pairs)


def models_left_out():
    """Models of the study that `ensemble.members` leaves out."""
    return [name for name in MODELS if name not in ENSEMBLE_MEMBERS]


def argument_of(name, values):
    """Option with its values, or nothing."""
    return f"--{name} {' '.join(values)}" if values else ""


def runs(dataset):
    """(fold, seed) of every training of a model on a dataset."""
    return [(fold, seed) for seed in SEEDS for fold in STUDY.fold_numbers(dataset)]


def fold_files(pattern):
    """Input function: one file of every fold and seed."""
    return lambda w: [pattern.format(fold=f, seed=s, **w) for f, s in runs(w.dataset)]


def checkpoints(w):
    """Weights of every fold and seed, or the given ones."""
    given = STUDY.models[w.model].checkpoint
    return [given] if given else fold_files(f"{FOLD}/best.safetensors")(w)


def checkpoint_arguments(w):
    paths = checkpoints(w)
    paths = paths * len(runs(w.dataset)) if len(paths) == 1 else paths
    return [f"{f}:{s}:{path}" for (f, s), path in zip(runs(w.dataset), paths)]


def cache_settings(dataset):
    """What the cached pixels of a dataset depend on beside their size, and what their pointer says."""
    entry = STUDY.datasets[dataset]
    preprocessing = entry.preprocessing.model_dump(exclude={"normalization"})
    volumes = entry.volumes.model_dump() if entry.volumes else None
    return [preprocessing, volumes] if volumes else preprocessing


@cache
def cache_pointer_of(dataset, model):
    """Pointer file of the image cache that a model uses on a dataset, named by its size and preprocessing."""
    key = f"{STUDY.image_size(model)}-{settings_hash(cache_settings(dataset))[:6]}"
    return f"{RESULTS}/{dataset}/data/images-{key}.json"


def cache_pointer(w):
    return cache_pointer_of(w.dataset, w.model)


def weights_file(w):
    return weights_file_of(w.model)


def weights_file_of(model):
    """Start weights of a model as a list of at most one file."""
    model = STUDY.models[model]
    if model.weights == "none":
        return []
    if model.weights.startswith("file:"):
        return [model.weights[len("file:") :]]
    source = model.weights.partition(":")[0]
    return [hub.weights_path(model.architecture, source).as_posix()]


# File names carry no colons and slashes, so that of `hf:<repository>` is looked up here.
ARCHITECTURE_OF = {
    hub.weights_stem(model.architecture): model.architecture
    for model in STUDY.models.values()
}


def feature_pointer(w):
    """Pointer file of the cached features of a frozen backbone, as a list of at most one file."""
    cached = STUDY.caches_features(w.model, w.dataset)
    return [f"{DATA}/features-{{model}}.json".format(**w)] if cached else []


def tuned_file(w):
    """Result of the hyper-parameter search of a fold, as a list of at most one file."""
    return [TUNED.format(**w)] if STUDY.tuning and STUDY.tuning.apply else []


def optional(name):
    """Argument of an input that is there or not."""
    return lambda w, input: (
        f"--{name} {getattr(input, name)}" if getattr(input, name) else ""
    )


def pretrained_weights():
    """Start weights of all models that are trained."""
    files = [weights_file_of(model) for model in TRAINED]
    return sorted({file for found in files for file in found})


def architecture(w):
    return architecture_of(w.model)


def architecture_of(model):
    return STUDY.models[model].architecture


def task_metrics(dataset):
    return TASKS[STUDY.datasets[dataset].task].metrics


def data_settings(w):
    """What the manifest and the folds depend on."""
    dataset = STUDY.datasets[w.dataset].model_dump(
        exclude={
            "preprocessing": {
                *("crop_border", "clahe", "normalization"),
                *("center_crop", "mask_focus"),
            },
            "segmentation": {"tolerance_mm"},
            "volumes": {"hu_window", "spacing", "slices"},
        }
    )
    # Keys of volumes that a study of pictures doesn't have are no change to it.
    dataset = {
        key: value
        for key, value in dataset.items()
        if value is not None or key not in ("volumes", "metadata", "segmentation")
    }
    return settings_hash(
        [
            dataset,
            STUDY.protocol.model_dump(exclude={"seeds"}),
            STUDY.audit.model_dump(),
        ]
    )


def evaluation_settings(*names):
    """The keys of `evaluation` that a job depends on: the level and seed of all intervals, and its own."""
    return STUDY.evaluation.model_dump(include={"confidence", "seed", *names})


def network_settings(w):
    return network_settings_of(w.model, w.dataset)


def network_settings_of(model, dataset):
    """What a network's input and shape depend on."""
    return [STUDY.network_of(model, dataset), STUDY.logit_names(dataset)]


def training_settings(w):
    return training_settings_of(w.model, w.dataset)


@cache
def training_settings_of(model, dataset):
    recipe = training_of(model, dataset).model_dump()
    decision = TASKS[STUDY.datasets[dataset].task].decision
    network = network_settings_of(model, dataset)
    return settings_hash([network, STUDY.models[model].weights, recipe, decision])


def training_code(w, script="train"):
    recipe = training_of(w.model, w.dataset)
    metric = recipe.early_stopping.metric
    metrics = [] if metric == "loss" else [metric]
    space = STUDY.tuning.space if STUDY.tuning else {}
    searched = (space["loss"].choices or []) if "loss" in space else []
    losses = sorted({recipe.loss, *searched})
    return fingerprint(
        script,
        components_of(architecture=architecture(w), loss=losses, metric=metrics),
    )


def search_storage(w):
    """SQLite file of a search; it outlives interrupted jobs."""
    return f"{CACHE}/tuning/{STUDY.study}/{w.dataset}/{w.model}/fold{w.fold}.db"


def search_workers(w):
    workers = range(STUDY.tuning.workers if STUDY.tuning else 1)
    return expand(
        f"{MODEL}/tuning/fold{{fold}}-worker{{worker}}.json", worker=workers, **w
    )


def searches(w):
    """Results of the search of every trained model and fold."""
    if STUDY.tuning is None:
        raise WorkflowError(
            "nothing to tune: the study has no section 'tuning' (tuning: {} takes the defaults)"
        )
    return [
        TUNED.format(dataset=dataset, model=model, fold=fold)
        for dataset in DATASETS
        for model in TRAINED
        for fold in STUDY.fold_numbers(dataset)
    ]


def tuning_settings(w):
    """What a search depends on beside its files; how many share the work changes nothing."""
    tuning = STUDY.tuning.model_dump(exclude={"workers", "apply"})
    return settings_hash([training_settings(w), tuning, SEEDS[0]])


def tuning_code(w):
    return training_code(w, script="tune")


def network_code(script):
    return lambda w: fingerprint(script, components_of(architecture=architecture(w)))


EXPORT_KEYS = {
    *("precisions", "fold_normalization", "non_inferiority_margin"),
    *("calibration_images", "export_timeout_min", "batch_sizes"),
}


def export_settings(w):
    """What an export and its gate depend on."""
    evaluation = STUDY.evaluation.model_dump(include={"resamples", "delta", "seed"})
    inference = STUDY.inference.model_dump(include=EXPORT_KEYS)
    return settings_hash([network_settings(w), inference, evaluation])


def export_code(w):
    metric = [TASKS[STUDY.datasets[w.dataset].task].primary]
    return fingerprint(
        "export_onnx", components_of(architecture=architecture(w), metric=metric)
    )


def metrics_code(script):
    return lambda w: fingerprint(script, components_of(metric=task_metrics(w.dataset)))


def grow(amount):
    """Resource that grows with each attempt (retries stand in the profile)."""
    return lambda w, attempt: amount * attempt


def timing_entries(w):
    """model:model.onnx:export.json:cache pointer of each model."""
    folders = {
        model: expand(MODEL, dataset=w.dataset, model=model)[0] for model in MODELS
    }
    return [
        f"{model}:{folder}/model.onnx:{folder}/export.json:{cache_pointer_of(w.dataset, model)}"
        for model, folder in folders.items()
    ]


def bundles(w):
    """The zip of every model that is to be deployed."""
    if SEGMENTATION:
        raise WorkflowError(
            "a bundle holds a network for pictures: of segmentation take model.onnx"
        )
    return expand(
        f"{MODEL}/bundle-{STUDY.bundle.precision}.zip",
        dataset=STUDY.bundle.datasets or DATASETS,
        model=STUDY.bundle.models or rated_models(),
    )


def bundled_models(w):
    """Models whose networks the bundle of a model or the ensemble may need."""
    return MODELS if w.model == "ensemble" else [w.model]


def bundle_entries(w):
    """model:export.json:cache pointer:prediction table of each of them."""
    folders = {
        model: expand(MODEL, dataset=w.dataset, model=model)[0]
        for model in bundled_models(w)
    }
    return [
        f"{model}:{folder}/export.json:{cache_pointer_of(w.dataset, model)}:{folder}/predictions.parquet"
        for model, folder in folders.items()
    ]


def bundle_inputs(w):
    """Networks, image caches and predictions that a bundle is made from."""
    models = bundled_models(w)
    files = ["model.onnx", "export.json", "predictions.parquet"]
    pointers = [cache_pointer_of(w.dataset, model) for model in models]
    found = expand(f"{MODEL}/{{file}}", dataset=w.dataset, model=models, file=files)
    return found + sorted(set(pointers))


def timing_settings():
    """What a timing depends on beside its files; the budget only asks something of the result."""
    return STUDY.inference.model_dump(exclude={"budget_ms"})


def tolerance_of(dataset):
    """Tolerance of surface Dice, mm; None: the default of a phantom."""
    given = STUDY.datasets[dataset].segmentation
    return given and given.tolerance_mm


def mask_report_inputs(w):
    """What the page of a segmentation study shows beside the masks."""
    exports = expand(
        f"{RESULTS}/{{dataset}}/{{model}}/export.json", dataset=DATASETS, model=MODELS
    )
    return exports + expand(
        f"{RESULTS}/{{dataset}}/{{file}}",
        dataset=DATASETS,
        file=["timing.json", "data/audit.json"],
    )


FIGURES = {
    "forest": "Results",
    "roc_curves": "Performance",
    "precision_recall_curves": "Performance",
    "reliability": "Performance",
    "training_curves": "Cost",
    "accuracy_against_latency": "Cost",
    "class_distribution": "Data",
}


def page_templates():
    """Hash of the page's templates: they are no Python, so the fingerprint doesn't see them."""
    folder = Path(workflow.basedir, "archbench", "report", "templates")
    return settings_hash([file_sha256(path) for path in sorted(folder.iterdir())])


def shown_if_there():
    """Hash of what the report shows where it was made (final models, searches) without asking for it."""
    files = expand(f"{FINAL}/settings.json", dataset=DATASETS, model=TRAINED)
    if STUDY.tuning and not STUDY.tuning.apply:
        files += searches(None)
    return settings_hash([[f, file_sha256(f)] for f in files if os.path.exists(f)])


def report_inputs(w):
    """Everything that the report shows."""
    rated = expand(
        f"{RESULTS}/{{dataset}}/{{model}}/{{file}}.json",
        dataset=DATASETS,
        model=rated_models(),
        file=["metrics", "calibration"],
    )
    models = expand(
        f"{RESULTS}/{{dataset}}/{{model}}/{{file}}",
        dataset=DATASETS,
        model=MODELS,
        file=["gradcam", "export.json"],
    )
    datasets = expand(
        f"{RESULTS}/{{dataset}}/{{file}}",
        dataset=DATASETS,
        file=["comparison.json", "timing.json", "data/audit.json"],
    )
    ensembles = (
        expand(f"{ENSEMBLE}/decision.json", dataset=DATASETS) if has_ensemble() else []
    )
    return rated + models + datasets + ensembles


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


def partial_report_command():
    """After an error or Ctrl-C: a report of what there is, failed models named with the end of their logs.

    Its page gets a date before all results, or the next run would take it for the whole report.
    """
    failed = f"{LOGS}/failed_jobs.json"
    write_json(
        failed, sorted(log for job in workflow.scheduler.failed for log in job.log)
    )
    command = (
        f"python $SCRIPTS/assemble_report.py --study $STUDY_FILE --results {RESULTS} --logs {LOGS} --partial"
        f" --failed-logs {failed}"
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


def captioned(file, category):
    """Output that the Snakemake report shows with its caption."""
    stem, _, kind = os.path.basename(file).rpartition(".")
    labels = {"what": stem.replace("_", " "), "kind": kind}
    return report(
        f"{RESULTS}/{file}",
        caption=f"../report/{stem}.rst",
        category=category,
        labels=labels,
    )
