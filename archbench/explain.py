"""Grad-CAM pictures of random test cases, each explained by the fold's network that never saw it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from archbench.models.building import NormalizedNetwork, VolumeNetwork, cam_layer, cam_maps
from archbench.models.weights import load_checkpoint
from archbench.statistics import wilson_interval
from archbench.volume_maps import OVERLAY_WEIGHT, VolumeMap, colours, slice_sheet, slices_of, volume_map
from archbench_predict.images import to_cached_pixels

PICTURE_SIDE = 320
UNNUMBERED = -1  # labels, zones and numbers: their question says in words what is true and called


class ExplainError(RuntimeError):
    """A heat map could not be computed; there is no substitute picture."""


@dataclass(frozen=True)
class Explanation:
    """One explained case.

    Attributes:
        heatmap: Grad-CAM of the predicted class, float32 in 0..1, shape (S, S).
        image: The network's input before normalisation, uint8, shape (S, S, C).
        volume: Of a volume, all its slices; heatmap and image are those of its key slice.
        slice_hit: Whether the slice that weighs most in the pooling shows a planted lesion; None without either.
        slice_share: Share of the slices that show one.
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
    volume: VolumeMap | None = None
    slice_hit: bool | None = None
    slice_share: float | None = None


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
    cache_rows = cases.cache.rows(rows.case_id.tolist())
    inputs = (np.array(cases.cache.images[row]) for row in cache_rows.tolist())
    outputs = [question.output for question in questions]
    if isinstance(network, VolumeNetwork):
        maps = _volume_maps(network, inputs, outputs, device)
    else:
        maps = _image_maps(network, inputs, outputs, device)
    plain, found = rows.outputs == "classes", []
    for k, (image, heatmap, volume) in enumerate(maps):
        lesions = _lesions_of(cases.lesions.get(str(rows.case_id[k])), questions[k])
        full = heatmap if volume is None else volume.heatmap
        _check_heatmap(full, str(rows.case_id[k]), network.architecture)
        on_slice, share = _slice_hit(volume, cases.lesions.get(str(rows.case_id[k])), cases.cache, int(cache_rows[k]))
        inside, area = _lesion_hit(full, lesions, cases.cache, int(cache_rows[k]))
        found.append(
            Explanation(
                case_id=str(rows.case_id[k]),
                patient_id=str(rows.patient_id[k]),
                fold=fold,
                true=int(rows.y_true[k]) if plain else UNNUMBERED,
                predicted=questions[k].output if plain else UNNUMBERED,
                probability=questions[k].probability,
                heatmap=heatmap.astype(np.float32),
                image=image,
                cam_max_in_lesion=inside,
                lesion_area=area,
                question=questions[k],
                volume=volume,
                slice_hit=on_slice,
                slice_share=share,
            )
        )
    if len(found) < len(rows):  # the library's context manager swallows IndexError
        raise ExplainError(f"Grad-CAM of {rows.case_id[len(found)]} failed with an IndexError ({network.architecture})")
    return found


Seen = tuple[np.ndarray, np.ndarray, VolumeMap | None]


def _image_maps(
    network: NormalizedNetwork, images: Iterable[np.ndarray], outputs: Sequence[int], device: torch.device
) -> Iterator[Seen]:
    """Yield each image and its Grad-CAM."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers, reshape = [cam_layer(network)], partial(cam_maps, network)
    with GradCAM(model=network, target_layers=layers, reshape_transform=reshape) as cam:
        for image, output in zip(images, outputs, strict=True):
            batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().to(device)
            yield image, cam(input_tensor=batch, targets=[ClassifierOutputTarget(output)])[0], None


def _volume_maps(
    network: VolumeNetwork, volumes: Iterable[np.ndarray], outputs: Sequence[int], device: torch.device
) -> Iterator[Seen]:
    """Yield the key slice of each volume with its Grad-CAM, and those of all its slices."""
    for volume, output in zip(volumes, outputs, strict=True):
        seen = volume_map(network, volume, output, device=device)
        yield seen.pixels[seen.key_slice][:, :, None], seen.heatmap[seen.key_slice], seen


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

    The map is as coarse as the layer behind it: a lesion counts with half a cell of slack around it. Of a volume,
    shape (D, S, S), it counts in the slices that cut it, and in the nearest one.
    """
    if not lesions:
        return None, None
    side = heatmap.shape[-1]
    points = np.array([[lesion["x"], lesion["y"]] for lesion in lesions], dtype=np.float64)
    box = cache.geometry[row]
    centres = to_cached_pixels(points, box=box, size=cache.size)
    radii = np.array([lesion["radius"] for lesion in lesions]) * cache.size / max(box[2] - box[0], box[3] - box[1])
    reach = np.maximum(radii, 0) + cache.size / 28
    grid_y, grid_x = np.mgrid[0:side, 0:side] + 0.5
    distance = np.hypot(grid_x[None] - centres[:, 0, None, None], grid_y[None] - centres[:, 1, None, None])
    inside = distance <= reach[:, None, None]
    if cache.volumes is None:
        inside = inside.any(axis=0)
    else:
        cut = slices_of(lesions, cache.volumes.slice_mm[row])
        inside = (cut[:, :, None, None] & inside[:, None]).any(axis=0)
    top = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    return bool(inside[top]) if heatmap.max() > 0 else False, float(inside.mean())


def _slice_hit(
    volume: VolumeMap | None, lesions: Sequence[Mapping[str, Any]] | None, cache: ImageCache, row: int
) -> tuple[bool | None, float | None]:
    """Return whether the heaviest slice shows any lesion of its volume, and the share of the slices that show one.

    One weight serves all labels, so all lesions count; where every slice weighs the same there is no heaviest one.
    """
    if volume is None or volume.weights is None or cache.volumes is None or not lesions or not np.ptp(volume.weights):
        return None, None
    shows = np.asarray(slices_of(lesions, cache.volumes.slice_mm[row]).any(axis=0))
    return bool(shows[volume.weights.argmax()]), float(shows.mean())


def lesion_hit_record(explanations: Sequence[Explanation], *, confidence: float) -> dict[str, Any] | None:
    """Return the share of CAM maxima inside a lesion, with a Wilson interval and what chance would give."""
    found = [
        (item.patient_id, item.cam_max_in_lesion, item.lesion_area)
        for item in explanations
        if item.cam_max_in_lesion is not None and item.lesion_area is not None
    ]
    return _hit_record("lesion_hit", found, confidence=confidence)


def slice_hit_record(explanations: Sequence[Explanation], *, confidence: float) -> dict[str, Any] | None:
    """Return the share of volumes whose heaviest slice shows a lesion, each once, likewise."""
    found = {
        item.case_id: (item.patient_id, item.slice_hit, item.slice_share)
        for item in explanations
        if item.slice_hit is not None and item.slice_share is not None
    }
    return _hit_record("slice_hit", list(found.values()), confidence=confidence)


def _hit_record(name: str, found: Sequence[tuple[str, bool, float]], *, confidence: float) -> dict[str, Any] | None:
    """Return a share with its interval, of patient, hit and chance of a hit; None of nothing."""
    if not found:
        return None
    patients, hits, chances = zip(*found, strict=True)
    n, n_hits = len(hits), sum(map(bool, hits))
    low, high = wilson_interval(n_hits, n, confidence=confidence)
    record = MetricRecord(
        name=name, value=n_hits / n, low=low, high=high, n_cases=n, n_patients=len(set(patients)), reason=None
    )
    return {**record, "chance": math.fsum(chances) / n}


def write_pictures(explanations: Sequence[Explanation], folder: Path) -> list[dict[str, str]]:
    """Write original, heat map and overlay of each case as PNG, of a volume the sheet too; return their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for k, item in enumerate(explanations):
        stem = f"{k:03d}"
        original = _enlarge(np.ascontiguousarray(np.broadcast_to(item.image, (*item.image.shape[:2], 3))))
        heat = colours(cv2.resize(item.heatmap, original.shape[1::-1], interpolation=cv2.INTER_LINEAR))
        overlay = cv2.addWeighted(original, 1 - OVERLAY_WEIGHT, heat, OVERLAY_WEIGHT, 0)
        pictures = {"original": original, "heatmap": heat, "overlay": overlay}
        if item.volume is not None:
            pictures["sheet"] = slice_sheet(item.volume)
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
