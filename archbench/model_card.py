"""MODEL_CARD.md of a bundle: what it was made from, how good it is, what it must not be taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DECISIONS = {
    "argmax": "the likeliest class",
    "expected_grade": "the mean grade by the uncalibrated probabilities, rounded",
}
COMBINATIONS = {
    "mean": "the plain mean of their probabilities",
    "linear": "a weighted sum of their log odds or log probabilities",
    "logistic": "logistic stacking",
    "attention": "attention: weights that depend on the case",
    "network": "a small neural network on their logits",
}
RULES = {
    "f1": "chosen for F1",
    "youden": "chosen for sensitivity + specificity",
    "sensitivity": "chosen for the best specificity at a sensitivity of {value:g}",
    "specificity": "chosen for the best sensitivity at a specificity of {value:g}",
    "cost": "chosen for the least cost, a missed positive as dear as {value:g} false alarms",
    "half": "probability .5",
}
PROTOCOLS = {
    "cross_validation": "cross-validation over {folds} folds of patients",
    "holdout": "one split by patients into training, validation and test part",
    "given": "the source's own folds",
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        content: bundle.json.
        metrics, calibration, audit: The stages' files of this model and dataset.
        configuration: The resolved study.
        licences: Start weights of each member and their licence.
        checked: What `check_runner` found.
        sums: (name, SHA-256) of the bundle's files but the card.
    """

    content: Mapping[str, Any]
    metrics: Mapping[str, Any]
    calibration: Mapping[str, Any]
    audit: Mapping[str, Any]
    configuration: Mapping[str, Any]
    licences: Mapping[str, str]
    checked: Sequence[Mapping[str, Any]]
    sums: Sequence[tuple[str, str]]


def model_card(facts: Facts) -> str:
    """Return the card as Markdown."""
    content = facts.content
    sections = [
        f"# {content['name']}\n\n{_opening(facts)}",
        _section("Use", _use()),
        _section("Limits", _limits(facts)),
        _section("Data", _data(facts)),
        _section("Networks", _networks(facts)),
        _section("Preprocessing", _preprocessing(facts)),
        _section("Metrics", _metrics(facts)),
        _section("Calibration and decisions", _decisions(facts)),
        _section("Checks", _checks(facts)),
        _section("Files", _files(facts)),
        _section("Origin", _origin(facts)),
    ]
    return "\n\n".join(sections) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n{text}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _opening(facts: Facts) -> str:
    content = facts.content
    task = {
        "classes": f"calls an image one of {', '.join(content['classes'])}",
        "labels": f"says which of {len(content['labels'])} labels an image shows ({', '.join(content['labels'])})",
        "zones": f"grades {len(content['labels'])} zones of an image ({', '.join(content['labels'])})",
        "value": "estimates one number of an image",
    }[content["outputs"]]
    kind = "**Made from drawn phantom images: for tests of the software only.** " if facts.audit.get("phantom") else ""
    of = content["provenance"]
    what = "An ensemble that" if len(content["members"]) > 1 else "A network that"
    return f"{kind}{what} {task}. Task {content['task']}, study {of['study']}, dataset {of['dataset']}."


def _use() -> str:
    return (
        "    archbench-predict BUNDLE images/ --out predictions.csv\n\n"
        "`BUNDLE` is this folder or its zip. `probability_*` are the networks' own, `calibrated_*` the calibrated "
        "probabilities; `label` follows the decision rule below."
    )


def _limits(facts: Facts) -> str:
    warnings = list(dict.fromkeys([*facts.metrics.get("warnings", []), *facts.audit.get("warnings", [])]))
    lines = [
        "not a medical device; nothing here was tested on patients of another hospital, camera or scanner",
        "the figures hold for images like those of the data below, prepared as described below",
        "probabilities and thresholds hold for the share of each class in that data; elsewhere they shift",
        *_of_fold(facts),
        *warnings,
    ]
    return "\n".join(f"- {line}" for line in lines)


def _of_fold(facts: Facts) -> list[str]:
    members = facts.content["members"]
    if len(facts.metrics.get("folds", [])) * len(facts.metrics.get("seeds", [])) < 2:
        return []
    which = "; ".join(f"{m['name']}: fold {m['fold']}, seed {m['seed']}" for m in members)
    return [
        f"the figures are those of the networks of all folds and seeds; in the bundle is the one that did best in "
        f"validation ({which}), trained without its fold's test part"
    ]


def _data(facts: Facts) -> str:
    audit, of = facts.audit, facts.content["provenance"]
    dataset = facts.configuration["datasets"][of["dataset"]]
    protocol = facts.configuration["protocol"]
    said = PROTOCOLS[protocol["kind"]].format(folds=protocol["folds"])
    rows = [[row["name"], row["n_cases"], row["n_patients"]] for row in audit.get("classes", [])]
    text = (
        f"{audit['n_cases']} images of {audit['n_patients']} patients (format {dataset['format']}); "
        f"{audit['n_dropped']} rows were left out. Protocol: {said}; no patient is in two parts; training seeds "
        f"{', '.join(map(str, protocol['seeds']))}."
    )
    return text + ("\n\n" + _table(["class or label", "images", "patients"], rows) if rows else "")


def _networks(facts: Facts) -> str:
    rows = [
        [
            *(m["name"], m["architecture"], m["precision"], m["preprocessing"]["resize"]["width"]),
            *(m["fold"], m["seed"], facts.licences[m["name"]]),
        ]
        for m in facts.content["members"]
    ]
    head = ["name", "architecture", "precision", "input, px", "fold", "seed", "start weights and their licence"]
    return _table(head, rows) + _combination(facts.content)


def _combination(content: Mapping[str, Any]) -> str:
    """How the members are combined, and that this is what the study did."""
    combination = content["combination"]
    if combination["kind"] == "single":
        return ""
    how = COMBINATIONS[combination["kind"]]
    if "fitted_on" in combination:
        where = combination.get("arrays", "bundle.json")
        how += f", fitted on {combination['fitted_on']}; what was fitted stands in `{where}`"
    lines = [f"Combined by {how}."]
    fallback = combination.get("fallback")
    if fallback is not None:
        names = ", ".join(content["labels"][k] for k in fallback["groups"])
        alone = content["members"][fallback["member"]]["name"]
        lines.append(f"{names}: {alone} alone, because the combination was surely worse there.")
    return "\n\n" + " ".join(lines)


def _preprocessing(facts: Facts) -> str:
    from archbench_predict.volume_description import describes_volume

    blocks = []
    for member in facts.content["members"]:
        steps = member["preprocessing"]
        if describes_volume(steps):
            blocks.append(f"{member['name']}:\n" + _volume_steps(steps))
            continue
        border, resize = steps["crop_border"], steps["resize"]
        lines = [
            f"decode: {steps['decode']['channels']}; EXIF orientation applied; deeper than 8 bit: "
            f"{steps['decode']['deeper_than_8_bit']}",
            *([f"crop the dark border (threshold {border['threshold']}, pad {border['pad']})"] if border else []),
            *([f"mask: {steps['mask']['focus']}"] if steps["mask"] else []),
            *([f"centre crop {steps['center_crop']}"] if steps["center_crop"] else []),
            f"resize to {resize['width']} x {resize['height']}; shrinking: {resize['shrinking']}; growing: "
            f"{resize['growing']}",
            *([f"CLAHE, clip {steps['clahe']['clip']}"] if steps["clahe"] else []),
            f"channels: {steps['channels']}",
            f"normalise: (pixel - [{_numbers(member['normalization']['mean'])}]) / "
            f"[{_numbers(member['normalization']['std'])}]",
        ]
        blocks.append(f"{member['name']}:\n" + "\n".join(f"{k}. {line}" for k, line in enumerate(lines, start=1)))
    clahe = facts.configuration["datasets"][facts.content["provenance"]["dataset"]]["preprocessing"]["clahe"]
    note = f"\n\nCLAHE (clip {clahe}) was an augmentation of training alone." if clahe else ""
    return "\n\n".join(blocks) + note


def _volume_steps(steps: Mapping[str, Any]) -> str:
    slices, resize, spacing = steps["slices"], steps["resize"], steps["spacing_mm"]
    lines = [
        f"read a CT volume in Hounsfield units ({steps['read']['axes']}); declared slopes: "
        f"{steps['read']['declared_slopes']}",
        f"{slices['count']} slices, strategy {slices['strategy']}; {steps['between_slices']}",
        *([f"resample to {' x '.join(f'{value:g}' for value in spacing)} mm (z, y, x)"] if spacing else []),
        f"{'cut to' if spacing else 'resize to'} {resize['width']} x {resize['height']}; shrinking: "
        f"{resize['shrinking']}; growing: {resize['growing']}",
        "window and normalise: inside the network",
    ]
    return "\n".join(f"{k}. {line}" for k, line in enumerate(lines, start=1))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _record(record: Mapping[str, Any] | None) -> list[str]:
    """Value and interval of a metric record as two cells."""
    if not record or record.get("value") is None:
        return ["undefined", str((record or {}).get("reason") or "")]
    low, high = record.get("low"), record.get("high")
    return [f"{record['value']:.3f}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}"]


def _metrics(facts: Facts) -> str:
    metrics = facts.metrics
    confidence = f"{facts.configuration['evaluation']['confidence']:.0%}".replace("%", " %")
    rows = [
        [f"**{name}**" if name == metrics["primary"] else name, *_record(record)]
        for name, record in metrics["metrics"].items()
    ]
    text = (
        f"{metrics['n_cases']} images of {metrics['n_patients']} patients, each predicted by networks that never saw "
        f"the patient; intervals of {confidence} by resampling patients. The primary metric is bold.\n\n"
    )
    text += _table(["metric", "value", "interval"], rows)
    per_class = metrics.get("per_class") or metrics.get("per_zone") or {}
    if per_class:
        shown = [[name, values["support"], *_record(values.get("auroc"))] for name, values in per_class.items()]
        text += "\n\n" + _table(["class, label or zone", "images", "AUROC", "interval"], shown)
    return text


def _decisions(facts: Facts) -> str:
    content, lines = facts.content, []
    fitted = content["calibration"]
    if fitted["method"] == "none":
        lines.append(f"Not calibrated: {fitted['reason']}.")
    else:
        lines.append(
            f"Calibrated by {fitted['method']}, fitted on {fitted['fitted_on']} ({fitted['n_cases']} images of "
            f"{fitted['n_patients']} patients). The error below is that of fits which left each fold out."
        )
        ece = facts.calibration.get("ece") or {}
        rows = [[kind, *_record(ece.get(kind))] for kind in ("raw", "calibrated")]
        lines.append(_table(["expected calibration error", "value", "interval"], rows))
    if content["outputs"] in ("classes", "zones"):
        lines.append(f"Decision: {DECISIONS[content['decision']]}.")
    if content.get("cut_points"):
        cuts = ", ".join(f"{cut:.3f}" for cut in content["cut_points"]["cuts"])
        lines.append(
            "`label_at_cut_points` is the grade by cut points of the calibrated mean grade, fitted for the best QWK on "
            f"all out-of-fold rows: {cuts}. The figures above are not of it; metrics.json of the study has them."
        )
    if content["thresholds"] is not None:
        lines.append(_thresholds(content))
    return "\n\n".join(lines)


def _thresholds(content: Mapping[str, Any]) -> str:
    thresholds = content["thresholds"]
    rows = [
        [name, f"{value:.3f}", reason or ""]
        for name, value, reason in zip(content["labels"], thresholds["log_odds"], thresholds["reasons"], strict=True)
    ]
    rule = RULES[thresholds["rule"]].format(value=thresholds.get("value"))
    rule += "" if thresholds["rule"] == "half" else " on all out-of-fold rows"
    return f"A label is called present at or above its threshold ({rule}).\n\n" + _table(
        ["label", "threshold, log odds", "note"], rows
    )


def _checks(facts: Facts) -> str:
    keys = ("max_logit_difference", "max_probability_difference")
    rows = [[found["member"], found["n_images"], *(f"{found[key]:.1e}" for key in keys)] for found in facts.checked]
    text = (
        "The runner predicted these images from their source files. Its pixels equal those of the study's image "
        "cache; differences to the study's own predictions:\n\n"
        + _table(["network", "images", "largest of a logit", "largest of a probability"], rows)
    )
    study = facts.content.get("study")
    if study is None:
        return text
    if study["max_probability_difference"] is None:
        return text + "\n\nNo fold of the study was combined in this way, so its own predictions could not be compared."
    return text + (
        f"\n\nCombined by the runner, with fits that left their fold out, {study['n_predictions']} of the study's "
        f"predictions of the ensemble come out as they are there: the largest difference of a probability is "
        f"{study['max_probability_difference']:.1e}."
    )


def _files(facts: Facts) -> str:
    return _table(["file", "SHA-256"], [[f"`{name}`", f"`{digest}`"] for name, digest in facts.sums])


def _origin(facts: Facts) -> str:
    of = facts.content["provenance"]
    packages = ", ".join(f"{name} {version}" for name, version in of["packages"].items())
    runner = ", ".join(f"{name} {version}" for name, version in facts.content["versions"].items())
    return (
        f"Study {of['study']}, configuration {of['config_hash']}, code {of['code']}. Made with Python {of['python']}, "
        f"{packages}. Checked with {runner}."
    )
