"""From logits in a network's pixels to class indices in those of the source; the workflow and the runner share this."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Box = tuple[int, int, int, int]


def source_probabilities(logits: Array, box: Box) -> Array:
    """Return the probabilities in the pixels that an image was cut from, enlarged linearly, float32.

    Args:
        logits: Of one square image, shape (K, S, S).
        box: x0, y0, x1, y1 of the cut in source pixels.
    Returns:
        Shape (K, y1 - y0, x1 - x0).
    """
    wide = logits.astype(np.float64)
    wide = np.exp(wide - wide.max(axis=0))
    shares = (wide / wide.sum(axis=0)).astype(np.float32)
    size = (box[2] - box[0], box[3] - box[1])
    return np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in shares])


def to_source(logits: Array, *, box: Box, shape: tuple[int, int]) -> Array:
    """Return class indices in source pixels, uint8: the likeliest class, outside the box background.

    Args:
        logits: Of one square image, shape (K, S, S).
        box: x0, y0, x1, y1 of the cut in source pixels.
        shape: Rows and columns of the source.
    """
    return placed(source_probabilities(logits, box), box=box, shape=shape)


def placed(probabilities: Array, *, box: Box, shape: tuple[int, int]) -> Array:
    """Return the likeliest class of each pixel (K, h, w) in the frame of the source (H, W), uint8."""
    x0, y0, x1, y1 = box
    labels = np.zeros(shape, dtype=np.uint8)
    labels[y0:y1, x0:x1] = probabilities.argmax(axis=0)
    return labels


def tie_gap(probabilities: Array, labels: Array) -> float:
    """Return by how much the likeliest class is likelier than the one that a mask names, at most over its pixels.

    Two computations whose probabilities differ by less than d give masks with a gap below 2 d: they differ only where
    two classes are as good as tied.

    Args:
        probabilities: Shape (K, h, w).
        labels: Class indices, shape (h, w).
    """
    named = np.take_along_axis(probabilities, labels[None].astype(np.int64), axis=0)[0]
    return float((probabilities.max(axis=0) - named).max())
