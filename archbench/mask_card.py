"""MODEL_CARD.md of a bundle that draws masks."""

from __future__ import annotations

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

DOUBT = "a structure is drawn where it is likelier than all others: the masks carry no measure of doubt"


def mask_card(facts: Facts) -> str:
    """Return the card as Markdown.

    Args:
        facts: `metrics` is the part of one model of the masks' summary.json, with the counts and warnings of all.
    """
    sections = [
        f"# {facts.content['name']}\n\n{_opening(facts)}",
        section("Use", _use(facts)),
        section("Limits", limits(facts, DOUBT)),
        section("Data", data(facts)),
        section("Networks", networks(facts)),
        section("Preprocessing", _slices(facts) + preprocessing(facts) + _back()),
        section("Metrics", _metrics(facts)),
        section("Empty masks", _detection(facts)),
        section("Checks", _checks(facts)),
        section("Files", files(facts)),
        section("Origin", origin(facts)),
    ]
    return "\n\n".join(sections) + "\n"


def _scans(facts: Facts) -> bool:
    return facts.content["slices"] is not None


def _opening(facts: Facts) -> str:
    kind = "**Made from drawn phantom images: for tests of the software only.** " if facts.audit.get("phantom") else ""
    of, names = facts.content["provenance"], ", ".join(facts.content["labels"])
    what = "the axial slices of a scan" if _scans(facts) else "a picture"
    return f"{kind}A network that draws {names} in {what}. Study {of['study']}, dataset {of['dataset']}."


def _use(facts: Facts) -> str:
    what = (
        "`masks/` gets one NIfTI mask per scan (NIfTI or .mha) with its size and affine, every axial slice predicted"
        if _scans(facts)
        else "`masks/` gets one PNG per picture (PNG, JPEG, TIFF), in its size as it is displayed"
    )
    rows = [["background", 0], *([name, k] for k, name in enumerate(facts.content["labels"], start=1))]
    size = "voxels, mm³ and ml" if _scans(facts) else "pixels"
    return (
        f"    archbench-predict BUNDLE {files_of(facts)}/ --out masks\n\n"
        f"`BUNDLE` is this folder or its zip. {what}, and `masks.csv` with the {size} of each structure.\n\n"
        + table(["structure", "value in the mask"], rows)
    )


def _slices(facts: Facts) -> str:
    slices = facts.content["slices"]
    if slices is None:
        return ""
    window = slices["gray"]["window"]
    if window is None:
        said = f"black and white at the quantiles of {slices['gray']['cut_percent']:g} % at either end of its values"
    else:
        said = f"values below {window[0]:g} black, above {window[1]:g} white"
    return f"A scan is cut into {slices['read']['axes']}, each 256 gray values ({said}). Then, slice by slice:\n\n"


def _back() -> str:
    return (
        "\n\nThe probabilities of all classes are enlarged linearly to the pixels that the network's input was cut "
        "from, and the likeliest class is drawn; what was cut off is background."
    )


def _metrics(facts: Facts) -> str:
    metrics = facts.metrics
    confidence = f"{facts.configuration['evaluation']['confidence']:.0%}".replace("%", " %")
    text = (
        f"{metrics['n_cases']} {files_of(facts)} of {metrics['n_patients']} patients, each "
        "drawn by networks that never saw the patient and scored in the pixels of its file; means over patients with "
        f"intervals of {confidence} by resampling patients. Dice is the primary metric. Surface Dice has a tolerance "
        f"of {metrics['tolerance_mm']:g} mm."
    )
    for name, records in metrics["structures"].items():
        rows = [[f"**{key}**" if key == "dice" else key, *record_cells(record)] for key, record in records.items()]
        text += f"\n\n{name}:\n\n" + table(["metric", "value", "interval"], rows)
    return text


def _detection(facts: Facts) -> str:
    keys = ("true_positive", "false_negative", "false_positive", "true_negative")
    rows = [
        [name, *(found[key] for key in keys), *record_cells(found["sensitivity"]), *record_cells(found["specificity"])]
        for name, found in facts.metrics["detection"].items()
    ]
    head = ["structure", "found", "missed", "false", "both empty"]
    return table([*head, "sensitivity", "interval", "specificity", "interval"], rows)


def _checks(facts: Facts) -> str:
    rows = [
        [
            *(found["member"], found["n_images"], found["n_pixels"], found["n_differing_pixels"]),
            "none drawn" if found["dice"] is None else f"{found['dice']:.6f}",
            f"{found['max_probability_difference']:.1e}",
        ]
        for found in facts.checked
    ]
    head = [
        "network",
        cases_of(facts),
        "pixels",
        "differing",
        "Dice of both masks",
        "largest difference of a probability",
    ]
    return (
        f"The runner drew these {cases_of(facts)} from their source files. Its input equals the study's image cache; "
        "its masks against the study's own:\n\n" + table(head, rows)
    )
