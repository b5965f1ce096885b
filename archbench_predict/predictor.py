"""A bundle at work: from an image file to what is said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from archbench_predict import outputs
from archbench_predict.bundle import Bundle, BundleError
from archbench_predict.hounsfield import Declared
from archbench_predict.images import decode, read_image_file, read_mask
from archbench_predict.network import Network
from archbench_predict.outputs import Array, Task
from archbench_predict.volume_description import VolumePreparation
from archbench_predict.volumes import Volume, read_volume

EXAMPLE_TOLERANCE = 1e-4
QUANTIZED_TOLERANCE = 5e-2  # whole-number kernels differ between processors

Inputs = list[np.ndarray]


@dataclass(frozen=True)
class Answers:
    """What is said of N images.

    Attributes:
        logits: Combined over members, shape (N, K).
        probabilities: Uncalibrated: (N, K) of classes, (N, L) of labels, (N, L, K') of zones, (N, 1) of a value.
        calibrated: Likewise; None where nothing was fitted.
        called: Class of each case (N,) or zone (N, L), or which labels are present (N, L), or the value (N, 1).
        tuned: Grade of each case (N,) by the bundle's cut points; None without.
    """

    logits: Array
    probabilities: Array
    calibrated: Array | None
    called: Array
    tuned: Array | None = None


class Predictor:
    """The networks of a bundle in sessions of this process."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        cv2.setNumThreads(1)  # several images are prepared at once instead
        content = bundle.content
        self.bundle = bundle
        self.task = Task(
            outputs=content["outputs"],
            classes=tuple(content["classes"]),
            labels=tuple(content["labels"]),
            decision=content["decision"],
        )
        self._networks = [Network(member, threads=threads) for member in bundle.members]
        self._width = len(content["logits"])

    def prepare(self, path: str, mask: str | None = None, declared: Declared | None = None) -> Inputs:
        """Return one input (C, S, S) per member, of volumes (D, S, S), of one file decoded once.

        Args:
            declared: What a table says of a volume beside its file.
        Raises:
            ImageError: If the image or its mask is missing, damaged or too large.
        """
        if self.bundle.reads_volumes:
            return self._prepare_volume(path, declared)
        data = read_image_file(Path(path))
        pictures: dict[tuple[int, str], tuple[np.ndarray, np.ndarray | None]] = {}
        inputs = []
        for network in self._networks:
            limit, settings = network.member.max_pixels, network.member.preprocessing
            assert not isinstance(settings, VolumePreparation)
            kind = (limit, settings.intensity)
            if kind not in pictures:
                image = decode(data, max_pixels=limit, intensity=settings.intensity)
                shape = image.shape[:2]
                read = None if mask is None else read_mask(Path(mask), shape=(shape[0], shape[1]), max_pixels=limit)
                pictures[kind] = image, read
            inputs.append(network.prepare(*pictures[kind]))
        return inputs

    def _prepare_volume(self, path: str, declared: Declared | None) -> Inputs:
        volumes: dict[tuple[int, str], Volume] = {}
        inputs = []
        for network in self._networks:
            preparation = network.member.preprocessing
            assert isinstance(preparation, VolumePreparation)
            kind = (network.member.max_pixels, preparation.rescale)
            if kind not in volumes:
                volumes[kind] = read_volume(path, declared=declared, max_voxels=kind[0], rescale=kind[1])
            inputs.append(network.prepare_volume(volumes[kind]))
        return inputs

    def member_logits(self, prepared: Sequence[Inputs]) -> Array:
        """Return the logits of each member, float32, shape (N, M, K)."""
        found = [
            network.logits(np.stack([inputs[m] for inputs in prepared])) for m, network in enumerate(self._networks)
        ]
        for network, logits in zip(self._networks, found, strict=True):
            if logits.shape != (len(prepared), self._width):
                raise BundleError(
                    f"{network.member.path.name} answers in shape {logits.shape[1:]}, {self._width} logits are named"
                )
        return np.stack(found, axis=1)

    def predict(self, prepared: Sequence[Inputs]) -> Answers:
        """Return what is said of N prepared images."""
        content, task = self.bundle.content, self.task
        logits = outputs.combine(self.member_logits(prepared), self.bundle.combination, task)
        probabilities = task.probabilities(logits)
        if task.outputs == "labels":
            called = outputs.present(logits, content["thresholds"])
        elif task.outputs == "value":
            called = probabilities
        else:
            called = task.called(probabilities)
        calibrated = outputs.calibrated(logits, content["calibration"], task)
        cuts, tuned = content.get("cut_points"), None
        if cuts is not None and calibrated is not None:
            tuned = outputs.grades_at_cuts(calibrated, cuts["cuts"])
        return Answers(logits, probabilities, calibrated, called, tuned)

    def example(self) -> Answers:
        """Return what is said of the bundle's own example image."""
        place = self.bundle.folder / self.bundle.content["example"]["image"]
        mask = self.bundle.content["example"].get("mask")
        return self.predict([self.prepare(str(place), None if mask is None else str(self.bundle.folder / mask))])

    def check_example(self) -> float:
        """Return the largest difference to the bundle's expected probabilities.

        Raises:
            BundleError: If it is above 1e-4 (quantised networks: .05): a library of this machine works otherwise.
        """
        place = self.bundle.folder / self.bundle.content["example"]["expected"]
        expected = np.array(json.loads(place.read_text(encoding="utf-8"))["probabilities"])
        found = self.example().probabilities[0]
        scale = np.maximum(1.0, np.abs(expected))  # values have no bounds
        difference = float((np.abs(found - expected) / scale).max()) if found.shape == expected.shape else np.inf
        exact = all(entry["precision"] == "fp32" for entry in self.bundle.content["members"])
        if not difference <= (EXAMPLE_TOLERANCE if exact else QUANTIZED_TOLERANCE):
            raise BundleError(
                f"the bundle's example image gives other probabilities here (difference {difference:.1e}): made with "
                f"{listed_versions(self.bundle)}; install these versions"
            )
        return difference


def listed_versions(bundle: Bundle) -> str:
    """Return the packages that the bundle was made with, in words."""
    versions: dict[str, Any] = bundle.content["versions"]
    return ", ".join(f"{name} {version}" for name, version in versions.items())
