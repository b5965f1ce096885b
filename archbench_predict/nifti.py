"""Two-dimensional NIfTI files, from bytes, with their header checked before anything large is unpacked."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np

GZIP = b"\x1f\x8b"
HEADER_BYTES = 352
MAX_BYTES_PER_PIXEL = 16


def is_nifti(data: bytes) -> bool:
    """Whether the bytes are a (gzipped) NIfTI-1 file in one piece."""
    try:
        head = _unpacked(data, HEADER_BYTES) if data[:2] == GZIP else data[:HEADER_BYTES]
    except ValueError:
        return False
    return len(head) >= 348 and head[344:348] in (b"n+1\0", b"ni1\0")


def read_nifti_pixels(data: bytes, *, check: Callable[[int, int], None]) -> np.ndarray:
    """The picture, shape (H, W): the file's second axis is the rows, from top to bottom, its first the columns.

    Args:
        check: Called with width and height from the header, before the pixels are unpacked.
    Raises:
        ValueError: If the file holds more than one picture, or is damaged.
    """
    import nibabel

    packed = data[:2] == GZIP
    width, height = _plane(_unpacked(data, HEADER_BYTES) if packed else data)
    check(width, height)
    whole = _unpacked(data, width * height * MAX_BYTES_PER_PIXEL + 1_000_000) if packed else data
    try:
        pixels = np.asarray(nibabel.Nifti1Image.from_bytes(whole).dataobj)
    except Exception as error:  # nibabel raises whatever the damaged bytes lead to
        raise ValueError(f"damaged NIfTI file ({error})") from error
    pixels = pixels.reshape(width, height).T
    if pixels.dtype.kind not in "uif":
        raise ValueError(f"NIfTI pixels of type {pixels.dtype} are no gray values")
    return np.ascontiguousarray(pixels)


def _plane(head: bytes) -> tuple[int, int]:
    for order in ("<", ">"):
        count, *sizes = struct.unpack(f"{order}8h", head[40:56])
        if 1 <= count <= 7:
            used = [size for size in sizes[:count] if size != 1]
            if len(used) > 2 or min(sizes[:2]) < 1:
                raise ValueError(f"a NIfTI file of shape {tuple(sizes[:count])} is no single picture")
            return int(sizes[0]), int(sizes[1])
    raise ValueError("damaged NIfTI header")


def _unpacked(data: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, limit)
    except zlib.error as error:
        raise ValueError(f"damaged gzip data ({error})") from error
