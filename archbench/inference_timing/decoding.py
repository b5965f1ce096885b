"""From an image file on the disk to logits, with the time of each step; used inside a contender's own process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from archbench.inference_timing.engines import Engine


def make_end_to_end(engine: Engine, spec: Mapping[str, Any]) -> Callable[[], tuple[float, ...]]:
    """Return a call that takes the next file: milliseconds of all, of decoding and of preprocessing.

    The files are those of real cases of the dataset, one after the other; after the first round through them
    they come from the system's file cache, as those of a busy service do.
    """
    import cv2

    from archbench_predict.images import Preprocessing, decode, preprocess, read_image_file, read_mask

    cv2.setNumThreads(int(spec["threads"]))
    if spec.get("volume") is not None:
        return _volume_call(engine, spec)
    settings, max_pixels = Preprocessing(**spec["preprocessing"]), int(spec["max_pixels"])
    files = cycle(spec["files"])

    def call() -> tuple[float, ...]:
        image_file, mask_file = next(files)
        started = time.perf_counter_ns()
        data = read_image_file(Path(image_file))
        image = decode(data, max_pixels=max_pixels, intensity=settings.intensity)
        shape = (image.shape[0], image.shape[1])
        mask = None if mask_file is None else read_mask(Path(mask_file), shape=shape, max_pixels=max_pixels)
        decoded = time.perf_counter_ns()
        square = preprocess(image, settings, mask)[0]
        prepared = time.perf_counter_ns()
        engine.answer(np.ascontiguousarray(square)[None])
        answered = time.perf_counter_ns()
        return tuple(ns / 1e6 for ns in (answered - started, decoded - started, prepared - decoded))

    return call


def _volume_call(engine: Engine, spec: Mapping[str, Any]) -> Callable[[], tuple[float, ...]]:
    """Return the same of CT volumes: read with Hounsfield units, resample, choose slices, answer."""
    from archbench_predict.hounsfield import Declared
    from archbench_predict.volumes import VolumeSettings, prepare_volume, read_volume

    given, files = spec["volume"], cycle(spec["files"])
    spacing = given["spacing_mm"]
    settings = VolumeSettings(given["strategy"], given["count"], None if spacing is None else tuple(spacing))

    def call() -> tuple[float, ...]:
        file, declared = next(files)
        told = Declared.of(declared)
        started = time.perf_counter_ns()
        volume = read_volume(file, declared=told, rescale=given["rescale"], max_voxels=int(spec["max_pixels"]))
        decoded = time.perf_counter_ns()
        slices = prepare_volume(volume, settings, size=int(given["size"]))
        prepared = time.perf_counter_ns()
        engine.answer(slices[None])
        answered = time.perf_counter_ns()
        return tuple(ns / 1e6 for ns in (answered - started, decoded - started, prepared - decoded))

    return call
