"""A bundle of masks at work: from a picture or a scan to class indices in its own pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from archbench_predict.bundle import Bundle, BundleError
from archbench_predict.images import ImageError, check_pixels, decode, read_image_file
from archbench_predict.network import Network
from archbench_predict.nifti import is_nifti
from archbench_predict.predictor import EXAMPLE_TOLERANCE, QUANTIZED_TOLERANCE, listed_versions
from archbench_predict.scans import Scan, axial, gray_limits, read_scan, to_gray, write_nifti_mask
from archbench_predict.source_masks import Array, Box, placed, source_probabilities, tie_gap

SLICES_PER_CALL = 8


@dataclass(frozen=True)
class Picture:
    """A prepared picture: the network's input (C, S, S), the box that it shows, and rows and columns of the whole."""

    inputs: Array
    box: Box
    shape: tuple[int, int]


@dataclass(frozen=True)
class Drawn:
    """What the network says of one picture or slice.

    Attributes:
        probabilities: Within the box, shape (K, h, w).
        labels: Class indices of the whole frame, uint8, shape (H, W).
    """

    probabilities: Array
    box: Box
    labels: Array


class MaskPredictor:
    """The network of a bundle of masks in a session of this process."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        cv2.setNumThreads(1)  # several images are prepared at once instead
        if len(bundle.members) != 1:
            raise BundleError(f"a bundle of masks holds one network, not {len(bundle.members)}")
        self.bundle = bundle
        self.network = Network(bundle.members[0], threads=threads)
        self.classes = tuple(bundle.content["classes"])

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures, whose labels are 1, 2 and so on."""
        return self.classes[1:]

    def prepare(self, path: str) -> Picture | Scan:
        """Return a picture ready for the network, or a scan as it was read.

        Raises:
            ImageError: If the file is missing, damaged or too large, or of another kind than was trained on.
        """
        if self.bundle.slices is not None:
            return read_scan(Path(path), max_voxels=self.bundle.slices.max_voxels)
        data = read_image_file(Path(path))
        if is_nifti(data):
            raise ImageError("unreadable", "a scan, but this bundle was trained on pictures (PNG, JPEG, TIFF)")
        settings: Any = self.network.member.preprocessing
        return self.picture(decode(data, max_pixels=self.network.member.max_pixels, intensity=settings.intensity))

    def picture(self, image: np.ndarray) -> Picture:
        """Return a decoded picture (H, W, 3), uint8, ready for the network."""
        inputs, box = self.network.prepare_with_box(image)
        return Picture(inputs, box, (image.shape[0], image.shape[1]))

    def drawn(self, pictures: Sequence[Picture]) -> Iterator[Drawn]:
        """Yield what is said of each picture, all of them predicted in one call."""
        if not pictures:
            return
        logits = self.network.logits(np.stack([picture.inputs for picture in pictures]))
        if logits.ndim != 4 or logits.shape[1] != len(self.classes):
            raise BundleError(
                f"{self.network.member.path.name} answers in shape {logits.shape[1:]}, "
                f"{len(self.classes)} maps are named"
            )
        for picture, values in zip(pictures, logits, strict=True):
            probabilities = source_probabilities(values, picture.box)
            yield Drawn(probabilities, picture.box, placed(probabilities, box=picture.box, shape=picture.shape))

    def slice_pictures(self, scan: Scan, indices: Sequence[int] | None = None) -> Iterator[tuple[int, Picture]]:
        """Yield each axial slice, or those asked for, ready for the network."""
        assert self.bundle.slices is not None
        planes = axial(scan.values, scan.affine)
        limits = gray_limits(scan.values, self.bundle.slices.window)
        for index in range(planes.shape[2]) if indices is None else indices:
            gray = to_gray(planes[:, :, index], limits)
            height, width = gray.shape
            check_pixels(width, height, max_pixels=self.network.member.max_pixels)
            yield index, self.picture(np.ascontiguousarray(np.broadcast_to(gray[:, :, None], (height, width, 3))))

    def slices(self, scan: Scan) -> Iterator[tuple[int, Drawn]]:
        """Yield what is said of each axial slice, a few predicted in one call."""
        source = self.slice_pictures(scan)
        while part := list(islice(source, SLICES_PER_CALL)):
            drawn = self.drawn([picture for _, picture in part])
            yield from zip((index for index, _ in part), drawn, strict=True)

    def masks(self, batch: Sequence[Picture | Scan]) -> Iterator[Array | ImageError]:
        """Yield the class indices of each, uint8: of a picture (H, W), of a scan in the shape of its values.

        An answer that isn't finite gives an error in its place.
        """
        pictures = self.drawn([one for one in batch if isinstance(one, Picture)])
        for one in batch:
            try:
                yield checked(next(pictures)).labels if isinstance(one, Picture) else self._volume(one)
            except ImageError as error:
                yield error

    def _volume(self, scan: Scan) -> Array:
        labels = np.zeros(scan.values.shape, dtype=np.uint8)
        planes = axial(labels, scan.affine)
        for index, drawn in self.slices(scan):
            planes[:, :, index] = checked(drawn).labels
        return labels

    def check_example(self) -> float:
        """Return the largest difference of a probability to the bundle's own answer to its example.

        Seen where the masks differ, and in the mean probability of each class.

        Raises:
            BundleError: If it is above 1e-4 (quantised networks: .05): a library of this machine works otherwise.
        """
        means, gap = self._compared_example()
        expected = np.array(json.loads(self._of_example("expected").read_text(encoding="utf-8"))["probabilities"])
        difference = max(gap, float(np.abs(means - expected).max()) if means.shape == expected.shape else np.inf)
        exact = all(entry["precision"] == "fp32" for entry in self.bundle.content["members"])
        if not difference <= (EXAMPLE_TOLERANCE if exact else QUANTIZED_TOLERANCE):
            raise BundleError(
                f"the bundle's example image gives another mask here (difference {difference:.1e}): made with "
                f"{listed_versions(self.bundle)}; install these versions"
            )
        return difference

    def _compared_example(self) -> tuple[Array, float]:
        """Mean probability of each class of the example, and by how much its mask is not the bundle's."""
        prepared, place = self.example(), self._of_example("mask")
        if isinstance(prepared, Picture):
            from PIL import Image

            with Image.open(place) as image:
                expected = np.asarray(image)[:, :, None]
        else:
            stored = read_scan(place, max_voxels=prepared.values.size)
            expected = axial(stored.values, stored.affine)
        means, gaps = [], []
        for index, drawn in self.planes(prepared):
            x0, y0, x1, y1 = drawn.box
            means.append(drawn.probabilities.mean(axis=(1, 2), dtype=np.float64))
            gaps.append(tie_gap(drawn.probabilities, expected[y0:y1, x0:x1, index]) / 2)
        return np.mean(means, axis=0), max(gaps)

    def example(self) -> Picture | Scan:
        """Return the bundle's own example, prepared."""
        return self.prepare(str(self._of_example("image")))

    def planes(self, prepared: Picture | Scan) -> Iterator[tuple[int, Drawn]]:
        """Yield what is said of each slice of a scan, or of a picture as the only one."""
        return self.slices(prepared) if isinstance(prepared, Scan) else enumerate(self.drawn([prepared]))

    def _of_example(self, name: str) -> Path:
        return self.bundle.folder / str(self.bundle.content["example"][name])


def checked(drawn: Drawn) -> Drawn:
    """Return an answer of the network; an ImageError if it is not finite."""
    if not np.isfinite(drawn.probabilities).all():
        raise ImageError("unreadable", "the network's answer is not a finite number")
    return drawn


def write_mask(path: Path, labels: Array, prepared: Picture | Scan) -> None:
    """Write a mask: PNG of class indices for a picture, NIfTI in the place of its scan."""
    if isinstance(prepared, Scan):
        write_nifti_mask(path, labels, prepared)
        return
    from PIL import Image

    Image.fromarray(labels).save(path, format="PNG")


def mask_suffix(prepared: Picture | Scan) -> str:
    """Return the ending of a mask's file."""
    return ".nii.gz" if isinstance(prepared, Scan) else ".png"
