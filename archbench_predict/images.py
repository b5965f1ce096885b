"""From an image file to pixels: decode, border crop, resize, CLAHE; the workflow and the runner share this code."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from archbench_predict.nifti import is_nifti, read_nifti_pixels

# Our own guard (max_pixels, checked before decoding) replaces Pillow's, whose limit is fixed and only warns.
Image.MAX_IMAGE_PIXELS = None

ORIENTATION_TAG = 0x0112
BITS_PER_SAMPLE_TAG = 0x0102
CLAHE_TILES = (8, 8)


class ImageError(ValueError):
    """An image file that can't be used; `kind` is missing_file, unreadable, truncated or oversized."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image of a cache; `size` is the side of the square result, pixels."""

    size: int
    crop_border: bool = True
    clahe: float | None = None
    intensity: str = "full_range"
    center_crop: float | None = None
    mask_focus: str = "none"
    channels: str = "rgb"


def decode(data: bytes, *, max_pixels: int, intensity: str = "full_range") -> np.ndarray:
    """The picture in an image file's bytes, shape (H, W, 3), uint8 RGB, EXIF orientation applied.

    Gray becomes three equal channels, transparent pixels become black; a TIFF's first page counts.

    Args:
        max_pixels: A header that claims more is refused before decoding.
        intensity: For images deeper than 8 bit. "full_range" maps the type's range (0-65535) to 0-255, the
            same for all images; "min_max" maps each image's own minimum and maximum to 0 and 255, as 12-bit data
            in 16-bit files need.
    Raises:
        ImageError: If the file is no image, damaged, or too large.
    """
    if is_nifti(data):
        return _to_rgb8(read_nifti(data, max_pixels=max_pixels), intensity=intensity)
    pixels, orientation = _read_pixels(data, max_pixels=max_pixels)
    return _oriented(_to_rgb8(pixels, intensity=intensity), orientation)


def read_nifti(data: bytes, *, max_pixels: int) -> np.ndarray:
    """The pixels (H, W) of a two-dimensional NIfTI file, an ImageError if there are none."""
    try:
        return read_nifti_pixels(data, check=lambda width, height: check_pixels(width, height, max_pixels=max_pixels))
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError("unreadable", str(error)) from error


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file; an ImageError of kind missing_file or unreadable if there are none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError("missing_file", f"no such file: {path}") from error
    except OSError as error:
        raise ImageError("unreadable", f"{path}: {error.strerror or error}") from error
    if not data:
        raise ImageError("unreadable", f"{path}: the file is empty")
    return data


def open_image(data: bytes, *, max_pixels: int) -> Image.Image:
    """The image with its header read and its size checked, not yet decoded.

    Raises:
        ImageError: If Pillow does not know the format, or the header claims too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError("unreadable", "not a PNG, JPEG or TIFF image that can be read") from error
    check_pixels(*image.size, max_pixels=max_pixels)
    return image


def check_pixels(width: int, height: int, *, max_pixels: int) -> None:
    """Refuse a size, in pixels, that a damaged or hostile header may claim."""
    if width * height > max_pixels:
        raise ImageError(
            "oversized",
            f"the header claims {width} x {height} pixels, more than audit.max_pixels ({max_pixels})",
        )


def damage(error: Exception) -> ImageError:
    """The ImageError for an error met while decoding an image whose header was fine."""
    kind = "truncated" if "truncated" in str(error).lower() else "unreadable"
    return ImageError(kind, f"damaged image data ({error})")


def _read_pixels(data: bytes, *, max_pixels: int) -> tuple[np.ndarray, int]:
    """Pixels as stored, shape (H, W) or (H, W, 1-4), RGB order, and the EXIF orientation (1-8)."""
    try:
        image = open_image(data, max_pixels=max_pixels)
    except ImageError as error:
        if error.kind == "oversized" or data[:2] not in (b"II", b"MM"):
            raise
        return _read_tiff(data, max_pixels=max_pixels)
    if image.format == "TIFF" and _is_deep_colour_tiff(image):
        return _read_tiff(data, max_pixels=max_pixels)
    with image:
        orientation = _orientation(image)
        if _is_deep_colour_png(data):
            # Pillow would keep the high byte only, which min_max can't be computed from.
            stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if stored is None:
                raise ImageError("unreadable", "damaged image data")
            order = [2, 1, 0, 3][: stored.shape[2]]
            return stored[:, :, order], orientation
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise damage(error) from error
        return np.asarray(_plain_mode(image)), orientation


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation (1-8); of a PNG Pillow looks for it behind the pixels, which may be damaged."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except (OSError, SyntaxError, ValueError) as error:
        raise damage(error) from error


def _is_deep_colour_tiff(image: Image.Image) -> bool:
    """Whether a colour TIFF has more than 8 bits: Pillow cuts them off, or mixes planes up."""
    bits = image.getexif().get(BITS_PER_SAMPLE_TAG, 8)
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _is_deep_colour_png(data: bytes) -> bool:
    return data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 25 and data[24] == 16 and data[25] in (2, 6)


def _plain_mode(image: Image.Image) -> Image.Image:
    """The image in a mode whose array is gray, gray of more bits, RGB or RGBA."""
    if image.mode in ("L", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return image
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _read_tiff(data: bytes, *, max_pixels: int) -> tuple[np.ndarray, int]:
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            check_pixels(page.imagewidth, page.imagelength, max_pixels=max_pixels)
            pixels = page.asarray()
            tag = page.tags.get(ORIENTATION_TAG)
            planar = pixels.ndim == 3 and pixels.shape[:2] != (page.imagelength, page.imagewidth)
    except ImageError:
        raise
    except Exception as error:  # tifffile raises whatever the damaged bytes lead to
        raise damage(error) from error
    return np.moveaxis(pixels, 0, -1) if planar else pixels, int(tag.value) if tag is not None else 1


def _to_rgb8(pixels: np.ndarray, *, intensity: str) -> np.ndarray:
    alpha = None
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[:, :, :-1], pixels[:, :, -1:]
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if alpha is not None:
        opaque = float(np.iinfo(alpha.dtype).max) if alpha.dtype.kind == "u" else 1.0
        pixels = (pixels * (alpha / opaque)).astype(pixels.dtype)
    if pixels.dtype != np.uint8:
        pixels = _scale(pixels, intensity=intensity)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _scale(pixels: np.ndarray, *, intensity: str) -> np.ndarray:
    if intensity == "min_max":
        low, high = float(pixels.min()), float(pixels.max())
        if not np.isfinite([low, high]).all():
            raise ImageError("unreadable", "the image holds NaN or infinite values")
        return np.rint((pixels - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)
    # Pillow gives some 16-bit files as 32-bit integers.
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 65535:
        return np.rint(pixels / 257.0).astype(np.uint8)
    raise ImageError(
        "unreadable",
        f"pixels of type {pixels.dtype} have no fixed range; set preprocessing.intensity: min_max",
    )


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels turned and mirrored as the EXIF orientation tag (1-8) says; other values mean upright."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def border_box(image: np.ndarray, *, threshold: int = 10, pad: float = 0.05) -> tuple[int, int, int, int]:
    """The box x0, y0, x1, y1 (pixels, end excluded) around what is brighter than the black border.

    A row or column counts when more than 1 % of it is brighter than `threshold`, so that a hot pixel does not hold the
    border open; the box grows by `pad` of its sides. A black image keeps its full frame.
    """
    height, width = image.shape[:2]
    # image.max(axis=2) and a mean of booleans took 15 times as long, more than decoding the file
    bright = np.maximum(np.maximum(image[:, :, 0], image[:, :, 1]), image[:, :, 2]) > threshold
    columns = np.flatnonzero(np.count_nonzero(bright, axis=0) / height > 0.01)
    rows = np.flatnonzero(np.count_nonzero(bright, axis=1) / width > 0.01)
    if not len(columns) or not len(rows):
        return 0, 0, width, height
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    dx, dy = round(pad * (x1 - x0)), round(pad * (y1 - y0))
    return max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, width), min(y1 + dy, height)


def resize(image: np.ndarray, *, size: int) -> np.ndarray:
    """The image as a square (size, size, 3): area-averaged where it shrinks, cubic where it grows."""
    shrinks = min(image.shape[:2]) >= size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def equalize(image: np.ndarray, *, clip: float) -> np.ndarray:
    """The RGB image with its lightness equalised locally (CLAHE on L of L*a*b*, 8 x 8 tiles)."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[:, :, 0] = cv2.createCLAHE(clipLimit=clip, tileGridSize=CLAHE_TILES).apply(lab[:, :, 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def center_box(box: tuple[int, int, int, int], *, share: float) -> tuple[int, int, int, int]:
    """The central square of a box, its side this share of the box's shorter one."""
    x0, y0, x1, y1 = box
    side = max(1, round(share * min(x1 - x0, y1 - y0)))
    left, top = x0 + (x1 - x0 - side) // 2, y0 + (y1 - y0 - side) // 2
    return left, top, left + side, top + side


def mask_box(mask: np.ndarray, *, pad: float = 0.05) -> tuple[int, int, int, int]:
    """The box x0, y0, x1, y1 around a mask (H, W), 5 % wider on each side; an empty mask keeps the full frame."""
    height, width = mask.shape
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0, 0, width, height
    x0, x1, y0, y1 = int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1
    dx, dy = round(pad * (x1 - x0)), round(pad * (y1 - y0))
    return max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, width), min(y1 + dy, height)


def read_mask(path: Path, *, shape: tuple[int, int], max_pixels: int) -> np.ndarray:
    """A mask file as boolean pixels of the image's shape (H, W), enlarged or shrunk to it where it differs.

    Raises:
        ImageError: If the file is no image or damaged.
    """
    pixels = decode(read_image_file(path), max_pixels=max_pixels, intensity="min_max")[:, :, 0] > 0
    if pixels.shape == shape:
        return pixels
    resized = cv2.resize(pixels.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized > 0)


def _crop_box(image: np.ndarray, mask: np.ndarray | None, settings: Preprocessing) -> tuple[int, int, int, int]:
    box = border_box(image) if settings.crop_border else (0, 0, image.shape[1], image.shape[0])
    if mask is not None and settings.mask_focus == "crop":
        box = mask_box(mask)
    return box if settings.center_crop is None else center_box(box, share=settings.center_crop)


def preprocess(
    image: np.ndarray, settings: Preprocessing, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, tuple[int, int, int, int]]:
    """The square image (S, S, 3), its CLAHE version or None, the crop box x0, y0, x1, y1 in source pixels.

    With `channels: gray` both have one channel, (S, S, 1).

    Args:
        mask: Boolean, shape (H, W), for `mask_focus`; None leaves the image as it is.
    """
    box = x0, y0, x1, y1 = _crop_box(image, mask, settings)
    if mask is not None and settings.mask_focus == "blank":
        image = np.where(mask[:, :, None], image, 0).astype(np.uint8)
    square = resize(image[y0:y1, x0:x1], size=settings.size)
    equalized = None if settings.clahe is None else equalize(square, clip=settings.clahe)
    if settings.channels == "gray":
        return to_gray(square), None if equalized is None else to_gray(equalized), box
    return square, equalized, box


def to_gray(image: np.ndarray) -> np.ndarray:
    """The luminance of an RGB image (H, W, 3) as one channel (H, W, 1); three equal channels stay as they are."""
    if (image == image[:, :, :1]).all():
        return np.ascontiguousarray(image[:, :, :1])
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]


def to_cached_pixels(points: np.ndarray, *, box: np.ndarray, size: int) -> np.ndarray:
    """Source pixel coordinates (N, 2) as x, y in the cached image of side `size` (pixel centres are whole).

    Args:
        box: The case's row of `ImageCache.geometry`: x0, y0, x1, y1.
    """
    box = np.asarray(box, dtype=np.float64)
    scale = size / (box[2:] - box[:2])
    return np.asarray((np.asarray(points, dtype=np.float64) + 0.5 - box[:2]) * scale - 0.5)
