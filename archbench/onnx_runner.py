"""Logits of cached images by exported files, without torch: what a deployment would compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.onnx_session import make_session


def channels_first(images: np.ndarray) -> np.ndarray:
    """Return rows of a cache with their channels, or slices, second: (B, C, S, S) of images, (B, D, S, S) of volumes.

    Args:
        images: Pixels, uint8, shape (B, S, S, C), or Hounsfield units, int16, shape (B, D, S, S).
    """
    return images.transpose(0, 3, 1, 2) if images.dtype == np.uint8 else images


@dataclass(frozen=True)
class InputForm:
    """What an exported network takes.

    Attributes:
        mean, std: Per channel, of pixels 0-255; of volumes 0 and 1.
        normalized: Images arrive normalised, float32; else as uint8 pixels, and the graph normalises. Volumes arrive
            in Hounsfield units, float32 or else int16, and the graph does the rest.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalized: bool

    def prepare(self, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return cached images as the network's input, shape (B, C, S, S), volumes as (B, D, S, S).

        Args:
            images: The image cache, uint8, shape (N, S, S, C), or of volumes, int16, shape (N, D, S, S).
        """
        pixels = np.ascontiguousarray(channels_first(images[rows]))
        if not self.normalized:
            return pixels
        mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        prepared: np.ndarray = (pixels.astype(np.float32) - mean) / std
        return prepared


class ExportedNetwork:
    """An export in ONNX Runtime: one file for every batch size, or one for each of some."""

    def __init__(self, files: Mapping[int | None, Path], form: InputForm, *, threads: int, device: str = "cpu") -> None:
        self.form, self.device = form, device
        self._sessions: dict[int | None, Any] = {
            batch: make_session(path, threads=threads, device=device) for batch, path in files.items()
        }

    @property
    def fixed_batches(self) -> list[int]:
        """The batch sizes that it is bound to; empty if it takes any."""
        return sorted(batch for batch in self._sessions if batch is not None)

    def logits(self, images: np.ndarray, rows: np.ndarray, *, batch_size: int) -> np.ndarray:
        """Return logits of cached images, float32, shape (N, K), from calls of exactly this size.

        Args:
            rows: Rows of the cache, shape (N,), at least one. The last call is filled up by repeating some.
        """
        session = self._sessions[batch_size if self.fixed_batches else None]
        filled = np.resize(rows, -(-len(rows) // batch_size) * batch_size)
        parts = [
            session.run(None, {"images": self.form.prepare(images, filled[start : start + batch_size])})[0]
            for start in range(0, len(filled), batch_size)
        ]
        joined: np.ndarray = np.concatenate(parts)[: len(rows)].astype(np.float32)
        return joined
