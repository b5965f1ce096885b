"""Slices put together into the volumes that they were cut from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from archbench.mask_files import read_picture


def write_stack(path: Path, slices: Sequence[Path]) -> Path:
    """Write pictures of one size as the pages of a TIFF, in the order given; return its path."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    pages = np.stack([np.asarray(read_picture(file), dtype=np.uint8) for file in slices])
    tifffile.imwrite(path, pages, photometric="minisblack", compression="zlib")
    return path
