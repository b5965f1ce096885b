"""Sections that the model cards of all bundles share: data, networks, preprocessing, files, origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COMBINATIONS = {
    "mean": "the plain mean of their probabilities",
    "linear": "a weighted sum of their log odds or log probabilities",
    "logistic": "logistic stacking",
    "attention": "attention: weights that depend on the case",
    "network": "a small neural network on their logits",
}
PROTOCOLS = {
    "cross_validation": "cross-validation over {folds} folds of patients",
    "holdout": "one split by patients into training, validation and test part",
    "given": "the source's own folds",
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from: what the study knows, then what the bundle itself does.

    Attributes:
        metrics, calibration, audit: The stages' files of this model and dataset.
        configuration: The resolved study.
        licences: Start weights of each member and their licence.
        content: bundle.json.
        checked: What the runner's repetition of the study found of each network.
        sums: (name, SHA-256) of the bundle's files but the card.
    """

    metrics: Mapping[str, Any]
    calibration: Mapping[str, Any]
    audit: Mapping[str, Any]
    configuration: Mapping[str, Any]
    licences: Mapping[str, str]
    content: Mapping[str, Any] = field(default_factory=dict)
    checked: Sequence[Mapping[str, Any]] = ()
    sums: Sequence[tuple[str, str]] = ()


def cases_of(facts: Facts) -> str:
    """Return what the study's cases are: images, slices of scans, or volumes."""
    if facts.content.get("slices") is not None:
        return "slices"
    from archbench_predict.volume_description import describes_volume

    volumes = any(describes_volume(member["preprocessing"]) for member in facts.content["members"])
    return "volumes" if volumes else "images"


def files_of(facts: Facts) -> str:
    """Return what the runner is given: images, scans, or volumes."""
    return {"slices": "scans"}.get(cases_of(facts), cases_of(facts))


def section(title: str, text: str) -> str:
    """Return a section of the card."""
    return f"## {title}\n{text}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def limits(facts: Facts, doubt: str) -> str:
    """Return what the bundle must not be taken for.

    Args:
        doubt: What its answers don't say of their own certainty.
    """
    warnings = list(dict.fromkeys([*facts.metrics.get("warnings", []), *facts.audit.get("warnings", [])]))
    lines = [
        "not a medical device; nothing here was tested on patients of another hospital, camera or scanner",
        f"the figures hold for {files_of(facts)} like those of the data below, prepared as described below",
        doubt,
        *_of_fold(facts),
        *warnings,
    ]
    return "\n".join(f"- {line}" for line in lines)


def _of_fold(facts: Facts) -> list[str]:
    """Return which of several trained networks is in the bundle, and what the figures are of."""
    members = facts.content["members"]
    if len(facts.metrics.get("folds", [])) * len(facts.metrics.get("seeds", [])) < 2:
        return []
    which = "; ".join(f"{m['name']}: fold {m['fold']}, seed {m['seed']}" for m in members)
    return [
        f"the figures are those of the networks of all folds and seeds; in the bundle is the one that did best in "
        f"validation ({which}), trained without its fold's test part"
    ]


def data(facts: Facts) -> str:
    """Return how many cases there were, and by which protocol they were used."""
    audit, of = facts.audit, facts.content["provenance"]
    dataset = facts.configuration["datasets"][of["dataset"]]
    protocol = facts.configuration["protocol"]
    said = PROTOCOLS[protocol["kind"]].format(folds=protocol["folds"])
    rows = [[row["name"], row["n_cases"], row["n_patients"]] for row in audit.get("classes", [])]
    text = (
        f"{audit['n_cases']} {cases_of(facts)} of {audit['n_patients']} patients (format {dataset['format']}); "
        f"{audit['n_dropped']} rows were left out. Protocol: {said}; no patient is in two parts; training seeds "
        f"{', '.join(map(str, protocol['seeds']))}."
    )
    return text + ("\n\n" + table(["class or label", cases_of(facts), "patients"], rows) if rows else "")


def networks(facts: Facts) -> str:
    """Return the networks with the licences of their start weights, and how they are combined."""
    rows = [
        [
            *(m["name"], m["architecture"], m["precision"], m["preprocessing"]["resize"]["width"]),
            *(m["fold"], m["seed"], facts.licences[m["name"]]),
        ]
        for m in facts.content["members"]
    ]
    head = ["name", "architecture", "precision", "input, px", "fold", "seed", "start weights and their licence"]
    return table(head, rows) + _combination(facts.content)


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


def preprocessing(facts: Facts) -> str:
    """Return what is done to an image, step by step."""
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


def record_cells(record: Mapping[str, Any] | None) -> list[str]:
    """Return value and interval of a metric record as two cells."""
    if not record or record.get("value") is None:
        return ["undefined", str((record or {}).get("reason") or "")]
    low, high = record.get("low"), record.get("high")
    interval = str(record.get("reason") or "") if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return [f"{record['value']:.3f}", interval]


def files(facts: Facts) -> str:
    """Return the hashes."""
    return table(["file", "SHA-256"], [[f"`{name}`", f"`{digest}`"] for name, digest in facts.sums])


def origin(facts: Facts) -> str:
    """Return study, configuration, code and versions."""
    of = facts.content["provenance"]
    packages = ", ".join(f"{name} {version}" for name, version in of["packages"].items())
    runner = ", ".join(f"{name} {version}" for name, version in facts.content["versions"].items())
    return (
        f"Study {of['study']}, configuration {of['config_hash']}, code {of['code']}. Made with Python {of['python']}, "
        f"{packages}. Checked with {runner}."
    )
