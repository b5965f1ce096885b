"""The methods paragraph, the versions and the commands that repeat a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.collect import StudyResult
from archbench.report.data_words import data_paragraph
from archbench.report.labels import format_count, metric_label
from archbench.report.text import join_names
from archbench.report.threshold_view import rule_words
from archbench.study_blocks import architecture_of
from archbench.tasks import TASKS

_DECISIONS = ("tuned", "cut_points", "decision_curve", "conformal")
_METHODS = {
    "logit_delong": "an AUROC near 1 or of few patients has the logit interval of clustered DeLong instead",
    "wilson": "a proportion of 0 or 1 in every draw has Wilson's, with patients as cases",
}
_OPTIMIZERS = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}


def methods_paragraphs(study: StudyResult) -> list[str]:
    """Sentences for the methods section of a paper, one paragraph per subject."""
    config = study.configuration
    return [
        *(data_paragraph(dataset) for dataset in study.datasets),
        _protocol_paragraph(config),
        _training_paragraph(study),
        _statistics_paragraph(study),
        _cost_paragraph(study),
    ]


def methods_markdown(study: StudyResult) -> str:
    """The methods section as Markdown, to be pasted into a paper."""
    title = f"# Methods: study {study.name}{' (phantom data)' if study.phantom else ''}"
    return "\n\n".join([title, *methods_paragraphs(study)]).replace("\u202f", "\u00a0") + "\n"


def _protocol_paragraph(config: Mapping[str, Any]) -> str:
    protocol = config.get("protocol") or {}
    kind = protocol.get("kind", "cross_validation")
    seeds = protocol.get("seeds") or []
    plural = "seed" if len(seeds) == 1 else "seeds"
    listed = join_names(str(s) for s in seeds)
    if config.get("given_predictions"):
        folds = int(protocol.get("folds") or 1)
        parts = f"{folds} folds by patient" if folds > 1 else "one test part"
        return (
            f"Predictions of {parts} were given, of the {plural} {listed}. That no tested patient was trained on "
            "can't be seen from predictions: it is for the authors to say."
        )
    share = f"{100 * float(protocol.get('validation_fraction') or 0):.0f}\u00a0%"
    split_seed = f" (seed {protocol['split_seed']})" if protocol.get("split_seed") is not None else ""
    if kind == "cross_validation":
        text = (
            f"Patients were divided into {protocol.get('folds')} folds, stratified by class{split_seed}; each fold was "
            f"tested once, {share} of the remaining patients chose the epoch, and the rest trained."
        )
    elif kind == "holdout":
        text = (
            f"Patients were divided once into training, validation ({share}) and test part, stratified by class"
            f"{split_seed}; the validation part chose the epoch."
        )
    else:
        text = "The folds of the source were used as given."
    return f"{text} No patient is in two parts. Training used the {plural} {listed}."


def _training_paragraph(study: StudyResult) -> str:
    given = study.configuration.get("given_predictions")
    if given:
        return f"The models were trained elsewhere; their predictions were read from {given['file']}."
    config = study.configuration
    training = config.get("training") or {}
    tasks = [TASKS[entry["task"]] for entry in (config.get("datasets") or {}).values() if entry.get("task") in TASKS]
    slices = any((entry or {}).get("volumes") for entry in (config.get("datasets") or {}).values())
    models = [
        f"{name} ({_model_words(entry or {}, slices=slices)})" for name, entry in (config.get("models") or {}).items()
    ]
    optimizer = str(training.get("optimizer", ""))
    losses = [training["loss"]] if training.get("loss") else list(dict.fromkeys(task.default_loss for task in tasks))
    parts = [
        f"{join_names(losses).replace('_', ' ')} loss",
        f"{_OPTIMIZERS.get(optimizer, optimizer)} (learning rate {_plain(training.get('lr'))}, "
        f"weight decay {_plain(training.get('weight_decay'))})",
        f"{training.get('schedule')} schedule",
        f"at most {training.get('epochs')} epochs",
        f"batch size {training.get('batch_size')}",
        f"{training.get('augmentation')} augmentation",
    ]
    own = any((entry or {}).get("training") for entry in (config.get("models") or {}).values())
    sentences = [
        f"Models: {join_names(models)}",
        f"Training{' where a model names nothing else' if own else ''}: {', '.join(parts)}",
    ]
    stop = training.get("early_stopping") or {}
    if stop:
        named = [stop["metric"]] if stop.get("metric") else dict.fromkeys(task.primary for task in tasks)
        metric = join_names(metric_label(str(name)).long for name in named)
        sentences.append(
            f"Training was to stop after {stop.get('patience')} epochs without a better validation {metric}"
        )
    if training.get("average_epochs"):
        horizon = training["average_epochs"]
        sentences.append(
            f"A running average of the weights over {_plain(horizon)} epoch{'' if horizon == 1 else 's'} was validated"
        )
    if any(task.decision == "expected_grade" for task in tasks):
        sentences.append("A case was called its mean grade, rounded: the decision of least expected squared distance")
    return f"{'. '.join(sentences)}. The best epoch was kept and used."


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _model_words(entry: Mapping[str, Any], *, slices: bool) -> str:
    words = [str(entry.get("architecture") or "")]
    words += _volume_words(entry) if slices else []
    if entry.get("image_size"):
        words.append(f"{entry['image_size']} px")
    if entry.get("checkpoint"):
        words.append("given checkpoint, not trained")
    elif entry.get("weights"):
        words.append("random weights" if entry["weights"] == "none" else f"weights: {entry['weights']}")
    words += [f"{key.replace('_', ' ')} {_plain(value)}" for key, value in (entry.get("training") or {}).items()]
    return ", ".join(word for word in words if word)


def _volume_words(entry: Mapping[str, Any]) -> list[str]:
    """How a model reads volumes."""
    architecture = architecture_of(entry.get("architecture"))
    if architecture is not None and architecture.dimensions == 3:
        return ["volumes read whole"]
    pooling = {"attention": "gated attention", "max": "maximum", "mean": "mean"}[str(entry["volume_pooling"])]
    seen = "with its neighbours as channels" if entry["slice_input"] == "triplet" else "by itself"
    return [f"each slice {seen}", f"features of slices pooled by {pooling}"]


def _statistics_paragraph(study: StudyResult) -> str:
    evaluation = study.configuration.get("evaluation") or {}
    primary = join_names(dict.fromkeys(metric_label(dataset.primary).long for dataset in study.datasets))
    level = f"{100 * float(evaluation.get('confidence') or 0.95):g}\u00a0%"
    deltas = {d.name: (d.comparison or {}).get("delta") for d in study.datasets}
    margin = join_names(dict.fromkeys(f"±{_plain(v)}" for v in deltas.values() if v is not None))
    text = (
        f"The primary metric is the {primary}. Intervals ({level}) are percentiles of "
        f"{format_count(evaluation.get('resamples'))} bootstrap draws of patients, stratified by fold, shared by all "
        f"models{_other_intervals(study)}. Pairs of models were compared by the paired difference over "
        f"{format_count(evaluation.get('comparison_resamples'))} draws, p values corrected by Holm over all pairs"
    )
    if margin:
        text += f"; two models are called equivalent if the 90\u00a0% interval of their difference lies inside {margin}"
    text = f"{text}. Rank metrics were computed per fold and seed and averaged."
    return " ".join([text, *_fitted_sentence(study), *_decision_sentences(study)])


def _other_intervals(study: StudyResult) -> str:
    """What else stands in the intervals of this run than percentiles of redrawn patients."""
    records = [
        record
        for dataset in study.datasets
        for model in dataset.evaluated
        for record in (model.metrics or {}).get("metrics", {}).values()
    ]
    methods = {record.get("method") for record in records if record}
    words = [text for method, text in _METHODS.items() if method in methods]
    if len((study.configuration.get("protocol") or {}).get("seeds") or []) > 1:
        words.append("widened in quadrature by the standard error over training seeds")
    return "".join(f"; {text}" for text in words)


def _fitted_sentence(study: StudyResult) -> list[str]:
    """What was fitted on predictions, none where nothing was."""
    evaluated = [model for dataset in study.datasets for model in dataset.evaluated]
    calibrated = any((model.calibration or {}).get("parameters") for model in evaluated)
    parts = ["calibration"] if calibrated else []
    parts += ["what the ensemble learns"] if any(d.ensemble and d.ensemble.decision for d in study.datasets) else []
    if not parts:
        return []
    verb = "was" if len(parts) == 1 else "were"
    said = f"{join_names(parts)} {verb} fitted on out-of-fold predictions of other patients."
    return [f"{said[0].upper()}{said[1:]}"]


def _decision_sentences(study: StudyResult) -> list[str]:
    """How thresholds, cut points, net benefit and sets came about, as far as the run has them."""
    metrics = [model.metrics for dataset in study.datasets for model in dataset.evaluated if model.metrics]
    sections = {key: [m[key] for m in metrics if m.get(key)] for key in _DECISIONS}
    raw = not any(found.get("probabilities") == "calibrated" for found in sections["decision_curve"])
    for key in ("tuned", "cut_points", "conformal"):  # with a reason nothing was fitted
        sections[key] = [found for found in sections[key] if not found.get("reason")]
    sentences = []
    if sections["tuned"]:
        sentences.append(f"Thresholds {rule_words(sections['tuned'][0])} were fitted for each fold on other patients.")
    if sections["cut_points"]:
        sentences.append("Cut points of highest quadratic weighted kappa were fitted for each fold on other patients.")
    if sections["decision_curve"]:
        kind = "uncalibrated" if raw else "calibrated"
        sentences.append(f"Net benefit of {kind} probabilities is shown against treating all and none.")
    targets = [section["target"] for section in sections["conformal"] if section.get("target") is not None]
    if targets:
        chance = f"{100 * targets[0]:g}\u00a0%"
        sentences.append(f"Conformal sets were fitted on other patients to hold the truth with a chance of {chance}.")
    return sentences


def _cost_paragraph(study: StudyResult) -> str:
    exports = [m.export for d in study.datasets for m in d.models if m.export]
    hardware = next(((d.timing or {}).get("hardware") for d in study.datasets if d.timing), None) or {}
    if not exports and not hardware:
        return "No model was exported or timed."
    opset = f", opset {exports[0].get('opset')}" if exports else ""
    place = hardware_words(hardware)
    where = f" on {place}" if place else ""
    return (
        f"Models were exported to ONNX{opset} and checked against PyTorch on validation cases before timing. Each "
        f"model and runtime ran in a process of its own, warmed up until stable, and all were timed in shuffled, "
        f"interleaved rounds{where}; latency is the median per call, with the order-statistic interval of the rounds' "
        "medians, and runtimes are compared by the ratios within the rounds, judged against two equal contenders."
    )


def hardware_words(hardware: Mapping[str, Any]) -> str:
    """The machine of a timing in words: processor, cores, threads, memory, GPU, system."""
    units = {"cpu": "{}", "cores": "{} cores", "threads": "{} threads", "memory_gib": "{} GiB", "gpu": "{}", "os": "{}"}
    named = {**units, **{key: f"{key.replace('_', ' ')} {{}}" for key in hardware if key not in units}}
    values = {key: f"{v:g}" if isinstance(v, float) else v for key, v in hardware.items()}
    return ", ".join(text.format(values[key]) for key, text in named.items() if values.get(key) not in (None, ""))


def commands_of(study: StudyResult) -> list[str]:
    """The commands that repeat the study from its configuration."""
    given = study.configuration.get("given_predictions")
    if given:
        return ["make setup && . .venv/bin/activate", str(given["command"])]
    return [
        f"# save the configuration below as {study.name}.yaml",
        "make setup && . .venv/bin/activate",
        f"snakemake --cores 8 --configfile {study.name}.yaml",
        f"snakemake --cores 8 --configfile {study.name}.yaml -- report",
    ]
