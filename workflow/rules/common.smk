# Where things lie, and what the study is made of: its models, folds, seeds and weights. Nothing else.
import re
import shlex
from functools import cache
from pathlib import Path

from archbench import hub
from archbench.artifacts import write_json
from archbench.config import settings_hash

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

fingerprint = KeptFingerprints(f"{CACHE}/fingerprints.json")

DATASETS = list(STUDY.datasets)
SEGMENTATION = any(entry.task == "segmentation" for entry in STUDY.datasets.values())
MODELS = list(STUDY.models)
TRAINED = [name for name in MODELS if STUDY.models[name].checkpoint is None]
SEEDS = STUDY.protocol.seeds
# Asked for each of thousands of jobs, with few different answers.
training_of = cache(STUDY.training_of)

# The checkout's code, in a container too. Commands name what differs between machines and calls by
# variables, so that another place of the checkout or an unrelated key reruns nothing; those may hold spaces.
shell.prefix(
    f"set -euo pipefail; IFS=$'\\n\\t'; {IMAGE_GUARD}export PYTHONPATH='{workflow.basedir}' SCRIPTS='{SCRIPTS}' STUDY_FILE='{STUDY_FILE}';"
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


def bundled_by_default():
    """All models and the ensemble; masks have none, and a prompted network can't be deployed."""
    if SEGMENTATION:
        return [name for name in MODELS if STUDY.prompt_of(name) is None]
    return rated_models()


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
    named = zip(runs(w.dataset), paths)
    return [shlex.quote(f"{f}:{s}:{path}") for (f, s), path in named]


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


def prompts_of(dataset, model):
    """Prompts of a prompted model, as a list of at most one file."""
    prompted = STUDY.prompt_of(model) is not None
    path = f"{MODEL}/prompts.parquet".format(dataset=dataset, model=model)
    return [path] if prompted else []


def prompts_file(w):
    return prompts_of(w.dataset, w.model)


def given_prompts(w):
    """Table in which the prompts of a model are given, as a list of at most one file."""
    prompt = STUDY.prompt_of(w.model)
    return [prompt.csv] if prompt and prompt.csv else []


def start_files(w):
    """What a training reads beside the cases, by the option that takes it; not every model needs all of it."""
    return start_files_of(w.dataset, w.model)


@cache
def start_files_of(dataset, model):
    cached = STUDY.caches_features(model, dataset)
    features = f"{DATA}/features-{{model}}.json".format(dataset=dataset, model=model)
    return {
        "cache": cache_pointer_of(dataset, model),
        "weights": weights_file_of(model),
        "features": [features] if cached else [],
        "prompts": prompts_of(dataset, model),
    }


def job_options(w, input):
    """Wildcards and named inputs of a job, each as the option of its name; an empty input is left out.

    One function instead of one per input: Snakemake's planning pays for every function of every job.
    """
    named = [*w.items(), *input.items()]
    return " ".join(option_of(name, value) for name, value in named if value)


def option_of(name, value):
    """--name with the quoted path, or paths, of an input."""
    paths = [value] if isinstance(value, str) else value
    return f"--{name.replace('_', '-')} {' '.join(map(shlex.quote, paths))}"


def optional(name):
    """Argument of an input that is there or not."""
    return lambda w, input: option_of(name, input[name]) if input[name] else ""


def pretrained_weights():
    """Start weights of all models that are trained."""
    files = [weights_file_of(model) for model in TRAINED]
    published = [
        model.checkpoint
        for model in STUDY.models.values()
        if model.checkpoint == hub.weights_path(model.architecture, "hub").as_posix()
    ]
    return sorted({file for found in [*files, published] for file in found})


def architecture(w):
    return architecture_of(w.model)


def architecture_of(model):
    return STUDY.models[model].architecture


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
    return expand(
        f"{MODEL}/bundle-{STUDY.bundle.precision}.zip",
        dataset=STUDY.bundle.datasets or DATASETS,
        model=STUDY.bundle.models or bundled_by_default(),
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
