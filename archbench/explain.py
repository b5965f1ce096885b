"""Grad-CAM pictures of random test cases, each explained by the fold's network that never saw it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from archbench.artifacts import MetricRecord, Predictions, atomic_path
from archbench.cases import Cases
from archbench.explained import Question, choose_questions, questions_of, reported_rows
from archbench.image_cache import ImageCache
from archbench.metrics.views import is_grouped
from archbench.models.building import NormalizedNetwork, cam_layer, cam_maps
from archbench.models.weights import load_checkpoint
from archbench.statistics import wilson_interval
from archbench_predict.images import to_cached_pixels

PICTURE_SIDE = 320
OVERLAY_WEIGHT = 0.45
UNNUMBERED = -1  # labels, zones and numbers: their question says in words what is true and called


class ExplainError(RuntimeError):
    """A heat map could not be computed; there is no substitute picture."""


@dataclass(frozen=True)
class Explanation:
    """One explained case.

    Attributes:
        heatmap: Grad-CAM of the predicted class, float32 in 0..1, shape (S, S).
        image: The network's input before normalisation, uint8, shape (S, S, C).
        cam_max_in_lesion: Whether the map's maximum lies in a planted lesion; None without lesions.
        lesion_area: Share of the picture that lesions cover; None without lesions.
    """

    case_id: str
    patient_id: str
    fold: int
    true: int
    predicted: int
    probability: float | None
    heatmap: np.ndarray
    image: np.ndarray
    cam_max_in_lesion: bool | None
    lesion_area: float | None
    question: Question | None = None


def choose_cases(predictions: Predictions, n: int, *, seed: int) -> Predictions:
    """Return n random rows of the first seed's test part, the same cases for every model.

    The validation part serves where the protocol has no test part.
    """
    rows = reported_rows(predictions)
    chosen = np.random.default_rng(seed).choice(len(rows), size=min(n, len(rows)), replace=False)
    return rows.select(np.sort(chosen))


def choose(predictions: Predictions, n: int, *, seed: int) -> tuple[Predictions, list[Question]]:
    """Return rows and what is explained of each: random cases, or cells of labels and zones by turns."""
    if is_grouped(predictions):
        return choose_questions(predictions, n, seed=seed)
    rows = choose_cases(predictions, n, seed=seed)
    return rows, questions_of(rows)


def explain(
    network: NormalizedNetwork,
    checkpoints: Mapping[tuple[int, int], Path],
    chosen: Predictions,
    cases: Cases,
    *,
    device: torch.device,
    questions: Sequence[Question] | None = None,
) -> list[Explanation]:
    """Return a Grad-CAM for each chosen case.

    Args:
        checkpoints: Weights by (fold, seed).
        questions: What is explained of each chosen row; None: its called class.
    Raises:
        ExplainError: If a map can't be computed or is not finite.
    """
    questions = questions_of(chosen) if questions is None else questions
    found: list[Explanation] = []
    for fold in np.unique(chosen.fold).tolist():
        rows = chosen.select(chosen.fold == fold)
        asked = [question for question, of in zip(questions, chosen.fold.tolist(), strict=True) if of == fold]
        load_checkpoint(network, checkpoints[(fold, int(rows.seed[0]))], device)
        found += _explain_fold(network, rows, asked, cases, fold=fold, device=device)
        print(f"fold {fold}: {len(rows)} cases explained", file=sys.stderr, flush=True)
    return found


def _explain_fold(
    network: NormalizedNetwork,
    rows: Predictions,
    questions: Sequence[Question],
    cases: Cases,
    *,
    fold: int,
    device: torch.device,
) -> list[Explanation]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cache_rows = cases.cache.rows(rows.case_id.tolist())
    layers, reshape = [cam_layer(network)], partial(cam_maps, network)
    plain, found = rows.outputs == "classes", []
    with GradCAM(model=network, target_layers=layers, reshape_transform=reshape) as cam:
        for k, cache_row in enumerate(cache_rows.tolist()):
            image = np.array(cases.cache.images[cache_row])
            question = questions[k]
            batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(device)
            heatmap = cam(input_tensor=batch, targets=[ClassifierOutputTarget(question.output)])[0]
            _check_heatmap(heatmap, str(rows.case_id[k]), network.architecture)
            lesions = _lesions_of(cases.lesions.get(str(rows.case_id[k])), question)
            inside, area = _lesion_hit(heatmap, lesions, cases.cache, cache_row)
            found.append(
                Explanation(
                    case_id=str(rows.case_id[k]),
                    patient_id=str(rows.patient_id[k]),
                    fold=fold,
                    true=int(rows.y_true[k]) if plain else UNNUMBERED,
                    predicted=question.output if plain else UNNUMBERED,
                    probability=question.probability,
                    heatmap=heatmap.astype(np.float32),
                    image=image,
                    cam_max_in_lesion=inside,
                    lesion_area=area,
                    question=question,
                )
            )
    if len(found) < len(rows):  # the library's context manager swallows IndexError
        raise ExplainError(f"Grad-CAM of {rows.case_id[len(found)]} failed with an IndexError ({network.architecture})")
    return found


def _lesions_of(lesions: Sequence[Mapping[str, Any]] | None, question: Question) -> list[Mapping[str, Any]] | None:
    """The planted lesions that the explained output is about; None if there are none to look for."""
    if lesions is None or question.label is None:
        return None if lesions is None else list(lesions)
    own = [lesion for lesion in lesions if lesion.get("kind") == question.label]
    return own if own and question.counts_lesions else None


def _check_heatmap(heatmap: np.ndarray, case: str, architecture: str) -> None:
    """Refuse a map that is not finite; an all-zero one is legal: nothing spoke for the class."""
    if not np.isfinite(heatmap).all():
        raise ExplainError(f"the Grad-CAM of {case} is not finite ({architecture})")


def _lesion_hit(
    heatmap: np.ndarray, lesions: Sequence[Mapping[str, Any]] | None, cache: ImageCache, row: int
) -> tuple[bool | None, float | None]:
    """Return whether the map's maximum lies in a lesion, and the share of the picture that lesions cover.

    The map is as coarse as the layer behind it: a lesion counts with half a cell of slack around it.
    """
    if not lesions:
        return None, None
    side = heatmap.shape[0]
    points = np.array([[lesion["x"], lesion["y"]] for lesion in lesions], dtype=np.float64)
    box = cache.geometry[row]
    centres = to_cached_pixels(points, box=box, size=cache.size)
    radii = np.array([lesion["radius"] for lesion in lesions]) * cache.size / max(box[2] - box[0], box[3] - box[1])
    reach = np.maximum(radii, 0) + cache.size / 28
    grid_y, grid_x = np.mgrid[0:side, 0:side] + 0.5
    distance = np.hypot(grid_x[None] - centres[:, 0, None, None], grid_y[None] - centres[:, 1, None, None])
    inside = (distance <= reach[:, None, None]).any(axis=0)
    top = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    return bool(inside[top]) if heatmap.max() > 0 else False, float(inside.mean())


def lesion_hit_record(explanations: Sequence[Explanation], *, confidence: float) -> dict[str, Any] | None:
    """Return the share of CAM maxima inside a lesion, with a Wilson interval and what chance would give."""
    shown = [item for item in explanations if item.cam_max_in_lesion is not None]
    hits = [bool(item.cam_max_in_lesion) for item in shown]
    if not hits:
        return None
    areas = [item.lesion_area for item in explanations if item.lesion_area is not None]
    low, high = wilson_interval(sum(hits), len(hits), confidence=confidence)
    value, n_patients = sum(hits) / len(hits), len({item.patient_id for item in shown})
    record = MetricRecord(
        name="lesion_hit", value=value, low=low, high=high, n_cases=len(hits), n_patients=n_patients, reason=None
    )
    return {**record, "chance": math.fsum(areas) / len(areas)}


def write_pictures(explanations: Sequence[Explanation], folder: Path) -> list[dict[str, str]]:
    """Write original, heat map and overlay of each case as PNG; return their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for k, item in enumerate(explanations):
        stem = f"{k:03d}"
        original = _enlarge(np.ascontiguousarray(np.broadcast_to(item.image, (*item.image.shape[:2], 3))))
        weight = cv2.resize(item.heatmap, original.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        colours = cv2.applyColorMap(np.uint8(255 * np.clip(weight, 0, 1)), cv2.COLORMAP_VIRIDIS)  # type: ignore[call-overload]
        heat = cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)
        overlay = cv2.addWeighted(original, 1 - OVERLAY_WEIGHT, heat, OVERLAY_WEIGHT, 0)
        pictures = {"original": original, "heatmap": heat, "overlay": overlay}
        files = {kind: f"{stem}_{kind}.png" for kind in pictures}
        for kind, picture in pictures.items():
            _write_png(folder / files[kind], picture)
        names.append(files)
    return names


def _enlarge(image: np.ndarray) -> np.ndarray:
    if image.shape[0] >= PICTURE_SIDE:
        return image
    return cv2.resize(image, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_CUBIC)


def _write_png(path: Path, picture: np.ndarray) -> None:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise ExplainError(f"{path} could not be encoded")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
