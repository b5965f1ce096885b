"""A bundle that draws masks: its content, and the proof that the runner repeats the study's masks.

Before anything is written, the runner itself draws test images of the study from their source files: its pixels must
be those of the study's image cache, its masks those of the study but where two classes are as good as tied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.artifacts import read_json
from archbench.bundle_network import BundleFailure, NetworkSource, allowed_difference, compare_pixels
from archbench.mask_files import read_mask
from archbench.metrics.metric import Array, mean_defined, ratio

if TYPE_CHECKING:
    from archbench_predict.mask_predictor import Drawn, MaskPredictor, Picture

CHECKED_IMAGES = 16
CHECKED_SCANS = 4  # they are read whole
EXAMPLE_MASK = "mask"


@dataclass(frozen=True)
class StudyMasks:
    """The study's own masks of the exported network, by case, and where they were computed."""

    files: Mapping[str, Path]
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class SourceImage:
    """Where a case of the study comes from: a picture, or a slice of a scan."""

    path: Path
    slice_index: int | None = None


def study_masks(folder: Path, *, fold: int, seed: int) -> StudyMasks:
    """Return the masks that the network of a fold and seed drew in the study.

    Args:
        folder: What the rule segment wrote.
    """
    index = read_json(folder / "index.json")
    files = {
        entry["case"]: folder / entry["file"]
        for entry in index["masks"]
        if (entry["fold"], entry["seed"]) == (fold, seed)
    }
    return StudyMasks(files, index["provenance"])


def check_masks(
    folder: Path, network: NetworkSource, studied: StudyMasks, images: Mapping[str, SourceImage]
) -> dict[str, Any]:
    """Let the runner draw test images of the network's fold from their files, and compare it with the study.

    Args:
        folder: The bundle.
        images: Where each case comes from.
    Returns:
        How many images and pixels were compared, how many pixels differ, the mean Dice of both masks over the
        structures that one of them holds, and the largest difference of a probability that a pixel shows.
    Raises:
        BundleFailure: If pixels of the input differ at all, or a mask where no two classes are tied (fp32).
    """
    from archbench_predict.bundle import read_bundle
    from archbench_predict.mask_predictor import MaskPredictor

    predictor = MaskPredictor(read_bundle(folder), threads=1)
    entry = predictor.bundle.content["members"][0]
    gaps, overlaps, n_differing, n_pixels = [0.0], [np.nan], 0, 0
    cases = checked_cases(studied, images)
    for case, picture, drawn in _drawn(predictor, cases, images):
        compare_pixels(network, [case], [picture.inputs], normalized=entry["input"]["normalized"])
        meant = read_mask(studied.files[case]).labels
        if meant.shape != drawn.labels.shape:
            raise BundleFailure(f"{case}: the source file is no longer of the size that was predicted: run again")
        gaps.append(_gap(drawn, meant))
        overlaps.append(_overlap(drawn.labels, meant, structures=len(predictor.structures)))
        n_differing += int((drawn.labels != meant).sum())
        n_pixels += meant.size
    difference, unit = max(gaps), "images" if predictor.bundle.slices is None else "slices"
    if entry["precision"] == "fp32" and not difference <= allowed_difference(studied.provenance):
        raise BundleFailure(
            f"{network.name}: the runner's masks differ from the study's where its probabilities are up to "
            f"{difference:.1e} apart, on {len(cases)} {unit} of fold {network.account['fold']}: the exported file is "
            "another network than the masks come from; run the export and segment again"
        )
    dice = mean_defined(np.array(overlaps))
    return {
        "member": network.name,
        "n_images": len(cases),
        "n_pixels": n_pixels,
        "n_differing_pixels": n_differing,
        "dice": None if np.isnan(dice) else float(dice),
        "max_probability_difference": difference,
    }


def checked_cases(studied: StudyMasks, images: Mapping[str, SourceImage]) -> list[str]:
    """Return cases that the exported network drew in the study, spread over them; slices of a few scans."""
    names = sorted(studied.files)
    scans = sorted({images[name].path for name in names if images[name].slice_index is not None})
    if scans:
        chosen = set(_spread(scans, CHECKED_SCANS))
        names = [name for name in names if images[name].path in chosen]
    return _spread(names, CHECKED_IMAGES)


def _spread(items: Sequence[Any], n: int) -> list[Any]:
    if not items:
        return []
    picked = np.unique(np.linspace(0, len(items) - 1, min(n, len(items))).astype(int))
    return [items[k] for k in picked.tolist()]


def _drawn(
    predictor: MaskPredictor, cases: Sequence[str], images: Mapping[str, SourceImage]
) -> Iterator[tuple[str, Picture, Drawn]]:
    """Each case with its input and what the runner says of it; a scan is read once for all its slices."""
    of_file: dict[Path, list[str]] = {}
    for case in cases:
        of_file.setdefault(images[case].path, []).append(case)
    for path, names in of_file.items():
        prepared: Any = predictor.prepare(str(path))
        indices = [images[name].slice_index for name in names]
        if indices[0] is None:
            yield names[0], prepared, next(predictor.drawn([prepared]))
            continue
        chosen = [index for index in indices if index is not None]
        for name, (_, picture) in zip(names, predictor.slice_pictures(prepared, chosen), strict=True):
            yield name, picture, next(predictor.drawn([picture]))


def _gap(drawn: Drawn, meant: Array) -> float:
    """Difference of a probability that a mask shows; infinite where the study drew outside the image's box."""
    from archbench_predict.source_masks import tie_gap

    x0, y0, x1, y1 = drawn.box
    inside = np.zeros(meant.shape, bool)
    inside[y0:y1, x0:x1] = True
    return np.inf if meant[~inside].any() else tie_gap(drawn.probabilities, meant[y0:y1, x0:x1]) / 2


def _overlap(said: Array, meant: Array, *, structures: int) -> float:
    """Mean Dice over the structures that either mask holds; NaN where both are empty."""
    sizes = [[np.count_nonzero(mask == k) for k in range(1, structures + 1)] for mask in (said, meant)]
    both = [np.count_nonzero((said == k) & (meant == k)) for k in range(1, structures + 1)]
    return float(mean_defined(ratio(2 * np.array(both), np.sum(sizes, axis=0))))


def mask_content(
    *,
    name: str,
    task: str,
    classes: Sequence[str],
    member: Mapping[str, Any],
    slices: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what bundle.json says of a network that draws masks, but for the example."""
    return {
        "name": name,
        "task": task,
        "outputs": "masks",
        "logits": list(classes),
        "classes": list(classes),
        "labels": list(classes[1:]),
        "decision": "argmax",
        "members": [dict(member)],
        "combination": {"kind": "single"},
        "slices": None if slices is None else dict(slices),
        "provenance": dict(provenance),
    }


def write_example_mask(folder: Path) -> None:
    """Draw the bundle's example image by its own runner: the mask and what expected.json says of it."""
    from archbench.artifacts import write_json
    from archbench_predict.bundle import read_bundle
    from archbench_predict.mask_predictor import MaskPredictor, write_mask
    from archbench_predict.mask_records import mask_record

    bundle = read_bundle(folder)
    predictor = MaskPredictor(bundle, threads=1)
    prepared = predictor.example()
    means = [drawn.probabilities.mean(axis=(1, 2), dtype=np.float64) for _, drawn in predictor.planes(prepared)]
    (labels,) = predictor.masks([prepared])
    if isinstance(labels, Exception):
        raise BundleFailure(f"the example image has no mask: {labels}")
    place = bundle.content["example"][EXAMPLE_MASK]
    write_mask(folder / place, labels, prepared)
    record = mask_record(labels, prepared, predictor.structures, place)
    write_json(folder / bundle.content["example"]["expected"], {"probabilities": np.mean(means, axis=0), **record})
