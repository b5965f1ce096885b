# What a job depends on besides its files: the keys of the study that it reads, and its code.
from functools import cache

from archbench.config import settings_hash
from archbench.tasks import TASKS


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
    prompt = STUDY.prompt_of(model)
    moved = [] if prompt is None else [prompt.jitter]
    return settings_hash(
        [network, STUDY.models[model].weights, recipe, decision, *moved]
    )


def prompt_settings(w):
    """What the prompts of a model depend on."""
    prompt = STUDY.prompt_of(w.model)
    return settings_hash(prompt and prompt.model_dump(exclude={"jitter"}))


def training_code(w, script="train"):
    return training_code_of(script, w.model, w.dataset)


@cache
def training_code_of(script, model, dataset):
    recipe = training_of(model, dataset)
    metric = recipe.early_stopping.metric
    metrics = [] if metric == "loss" else [metric]
    space = STUDY.tuning.space if STUDY.tuning else {}
    searched = (space["loss"].choices or []) if "loss" in space else []
    losses = sorted({recipe.loss, *searched})
    return fingerprint(
        script,
        components_of(architecture=architecture_of(model), loss=losses, metric=metrics),
    )


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


def timing_settings():
    """What a timing depends on beside its files; the budget only asks something of the result."""
    return STUDY.inference.model_dump(exclude={"budget_ms"})


def tolerance_of(dataset):
    """Tolerance of surface Dice, mm; None: the default of a phantom."""
    given = STUDY.datasets[dataset].segmentation
    return given and given.tolerance_mm
