"""What a paper says of a dataset: its cases, what was left out, what unclear labels count as, its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.collect import DatasetResult
from archbench.report.labels import format_count
from archbench.report.text import join_names
from archbench.tasks import UNGRADABLE

_UNCLEAR = {"uncertain": ("uncertain labels", "ignore"), "blank": ("labels that are not mentioned", "zeros")}


def data_paragraph(dataset: DatasetResult) -> str:
    """Sentences on a dataset: what it holds, what was left out, what unclear labels count as, how images were made."""
    audit = dataset.audit or {}
    classes = [row["name"] for row in audit.get("classes", [])] or list(dataset.entry.get("classes") or [])
    task = audit.get("task") or dataset.entry.get("task") or "classification"
    kind = "Phantom data, drawn by the program with known truth. " if dataset.phantom else ""
    grades = [name for name in classes if name != UNGRADABLE]
    what = {
        "labels": f"{len(classes)} labels that may go together ({join_names(classes)})",
        "zones": f"zones graded into {len(grades)} classes ({join_names(grades)}); ungradable ones are not scored",
        "value": "regression of a number",
    }
    holds = what.get(dataset.outputs, f"{task} classification into {len(classes)} classes ({join_names(classes)})")
    sentences = [f"{kind}Dataset {dataset.name}: {holds}"]
    if audit:
        sentences[0] += f"; {format_count(audit['n_cases'])} cases of {format_count(audit['n_patients'])} patients"
        dropped = sum((audit.get("dropped") or {}).values())
        if dropped:
            reasons = ", ".join(f"{k.replace('_', ' ')} {n}" for k, n in audit["dropped"].items() if n)
            sentences.append(
                f"{format_count(dropped)} of {format_count(audit['n_rows'])} rows were left out ({reasons})"
            )
    sentences += [said] if (said := unclear_labels(dataset)) else []
    steps = _preprocessing(dataset.entry.get("preprocessing") or {})
    if steps:
        sentences.append(f"Images: {join_names(steps)}")
    volumes = dataset.entry.get("volumes")
    if volumes:
        sentences.append(_slices(volumes))
    return ". ".join(sentences) + "."


def _slices(volumes: Mapping[str, Any]) -> str:
    """How slices were made of volumes."""
    chosen, (low, high) = volumes["slices"], volumes["hu_window"]
    how = {
        "multi": f"{chosen['count']} slices were taken, three fifths of them from the middle third",
        "anatomical": "six slices at fixed shares of the height were taken",
        "all": f"the whole volume was resampled to {chosen['count']} slices",
        "best": "the slice with most lung was taken",
    }[chosen["strategy"]]
    spacing = volumes.get("spacing")
    resampled = "" if spacing is None else f", resampled to {' × '.join(f'{mm:g}' for mm in spacing)}\u00a0mm (z, y, x)"
    return f"Of each CT volume {how}{resampled}, in a window of {low:g} to {high:g} Hounsfield units"


def _preprocessing(settings: Mapping[str, Any]) -> list[str]:
    steps = []
    if settings.get("crop_border"):
        steps.append("dark borders were cropped")
    if settings.get("clahe"):
        steps.append(f"contrast-limited equalisation (clip {settings['clahe']}) was used in training only")
    if settings.get("normalization"):
        kinds = {
            "auto": "the mean and standard deviation that each architecture expects",
            "imagenet": "ImageNet's mean and standard deviation",
            "half": "a mean and standard deviation of .5",
        }
        steps.append(
            f"intensities were normalised by {kinds.get(settings['normalization'], settings['normalization'])}"
        )
    return steps


def unclear_labels(dataset: DatasetResult) -> str | None:
    """What uncertain labels and labels that are not mentioned count as, where a reader has policies for them."""
    if dataset.entry.get("format") != "chexpert":
        return None
    given = dataset.entry.get("label_values") or {}
    meanings = {
        "ignore": "as unknown",
        "zeros": "as absent",
        "ones": "as present",
        "smooth": f"as {given.get('smooth_target')} in training and as unknown in testing",
    }
    parts = []
    for kind, (words, default) in _UNCLEAR.items():
        policies = dict(given.get(kind) or {})
        usual = policies.pop("default", default)
        others: dict[str, list[str]] = {}
        for label, policy in policies.items():
            if policy != usual:
                others.setdefault(policy, []).append(label)
        apart = [f"those of {join_names(labels)} {meanings[policy]}" for policy, labels in others.items()]
        parts.append(f"{words} counted {meanings[usual]}{f' ({join_names(apart)})' if apart else ''}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}"


def missing_words(dataset: DatasetResult) -> str | None:
    """How missing images and targets were treated; None without an audit."""
    audit = dataset.audit
    if not audit:
        return None
    dropped = sum((audit.get("dropped") or {}).values())
    text = f"{format_count(dropped)} rows with unusable image or target were left out"
    unclear = unclear_labels(dataset)
    if unclear:
        return f"{text}. {unclear}."
    apart = ""
    if dataset.outputs == "zones":
        apart = "ungradable zones were not scored, and "
    elif dataset.entry.get("missing_label") == "mask":
        apart = "unknown labels were neither trained nor scored, and "
    return f"{text}; {apart}nothing was imputed."


def partition_words(dataset: DatasetResult) -> str | None:
    """Cases, patients and classes of each part of each fold; None where the audit does not say."""
    audit = dataset.audit or {}
    names = [row["name"] for row in audit.get("classes", []) if "name" in row]
    folds = []
    for fold in audit.get("folds") or []:
        parts = [
            f"{part} {format_count(of['n_cases'])} cases of {format_count(of['n_patients'])} patients"
            f"{_counts(names, of.get('per_class') or [])}"
            for part, of in (fold.get("parts") or {}).items()
            if of
        ]
        folds.append(f"Fold {fold['fold']}: {'; '.join(parts)}.")
    return " ".join(folds) or None


def _counts(names: list[str], counts: list[int]) -> str:
    if len(names) != len(counts) or not names:
        return ""
    return f" ({', '.join(f'{name} {format_count(n)}' for name, n in zip(names, counts, strict=True))})"
