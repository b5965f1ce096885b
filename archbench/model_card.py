"""MODEL_CARD.md of a bundle: what it was made from, how good it is, what it must not be taken for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.card_sections import (
    Facts,
    cases_of,
    data,
    files,
    files_of,
    limits,
    networks,
    origin,
    preprocessing,
    record_cells,
    section,
    table,
)

DOUBT = "probabilities and thresholds hold for the share of each class in that data; elsewhere they shift"
DECISIONS = {
    "argmax": "the likeliest class",
    "expected_grade": "the mean grade by the uncalibrated probabilities, rounded",
}
RULES = {
    "f1": "chosen for F1",
    "youden": "chosen for sensitivity + specificity",
    "sensitivity": "chosen for the best specificity at a sensitivity of {value:g}",
    "specificity": "chosen for the best sensitivity at a specificity of {value:g}",
    "cost": "chosen for the least cost, a missed positive as dear as {value:g} false alarms",
    "half": "probability .5",
}


def model_card(facts: Facts) -> str:
    """Return the card as Markdown."""
    content = facts.content
    sections = [
        f"# {content['name']}\n\n{_opening(facts)}",
        section("Use", _use(facts)),
        section("Limits", limits(facts, DOUBT)),
        section("Data", data(facts)),
        section("Networks", networks(facts)),
        section("Preprocessing", preprocessing(facts)),
        section("Metrics", _metrics(facts)),
        section("Calibration and decisions", _decisions(facts)),
        section("Checks", _checks(facts)),
        section("Files", files(facts)),
        section("Origin", origin(facts)),
    ]
    return "\n\n".join(sections) + "\n"


def _opening(facts: Facts) -> str:
    content = facts.content
    one = {"images": "an image", "volumes": "a CT volume"}[cases_of(facts)]
    task = {
        "classes": f"calls {one} one of {', '.join(content['classes'])}",
        "labels": f"says which of {len(content['labels'])} labels {one} shows ({', '.join(content['labels'])})",
        "zones": f"grades {len(content['labels'])} zones of {one} ({', '.join(content['labels'])})",
        "value": f"estimates one number of {one}",
    }[content["outputs"]]
    kind = "**Made from drawn phantom images: for tests of the software only.** " if facts.audit.get("phantom") else ""
    of = content["provenance"]
    what = "An ensemble that" if len(content["members"]) > 1 else "A network that"
    return f"{kind}{what} {task}. Task {content['task']}, study {of['study']}, dataset {of['dataset']}."


def _use(facts: Facts) -> str:
    return (
        f"    archbench-predict BUNDLE {files_of(facts)}/ --out predictions.csv\n\n"
        "`BUNDLE` is this folder or its zip. `probability_*` are the networks' own, `calibrated_*` the calibrated "
        "probabilities; `label` follows the decision rule below."
    )


def _metrics(facts: Facts) -> str:
    metrics = facts.metrics
    confidence = f"{facts.configuration['evaluation']['confidence']:.0%}".replace("%", " %")
    rows = [
        [f"**{name}**" if name == metrics["primary"] else name, *record_cells(record)]
        for name, record in metrics["metrics"].items()
    ]
    text = (
        f"{metrics['n_cases']} {cases_of(facts)} of {metrics['n_patients']} patients, each predicted by networks that "
        f"never saw the patient; intervals of {confidence} by resampling patients. The primary metric is bold.\n\n"
    )
    text += table(["metric", "value", "interval"], rows)
    per_class = metrics.get("per_class") or metrics.get("per_zone") or {}
    if per_class:
        shown = [[name, values["support"], *record_cells(values.get("auroc"))] for name, values in per_class.items()]
        text += "\n\n" + table(["class, label or zone", cases_of(facts), "AUROC", "interval"], shown)
    return text


def _decisions(facts: Facts) -> str:
    content, lines = facts.content, []
    fitted = content["calibration"]
    if fitted["method"] == "none":
        lines.append(f"Not calibrated: {fitted['reason']}.")
    else:
        lines.append(
            f"Calibrated by {fitted['method']}, fitted on {fitted['fitted_on']} ({fitted['n_cases']} {cases_of(facts)} "
            f"of {fitted['n_patients']} patients). The error below is that of fits which left each fold out."
        )
        ece = facts.calibration.get("ece") or {}
        rows = [[kind, *record_cells(ece.get(kind))] for kind in ("raw", "calibrated")]
        lines.append(table(["expected calibration error", "value", "interval"], rows))
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
    return f"A label is called present at or above its threshold ({rule}).\n\n" + table(
        ["label", "threshold, log odds", "note"], rows
    )


def _checks(facts: Facts) -> str:
    keys = ("max_logit_difference", "max_probability_difference")
    rows = [[found["member"], found["n_images"], *(f"{found[key]:.1e}" for key in keys)] for found in facts.checked]
    cases, cached = cases_of(facts), "pixels" if cases_of(facts) == "images" else "Hounsfield units"
    text = (
        f"The runner predicted these {cases} from their source files. Its {cached} equal those of the study's cache; "
        "differences to the study's own predictions:\n\n"
        + table(["network", cases, "largest of a logit", "largest of a probability"], rows)
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
