"""One memory-mapped cache of preprocessed images for every model, fold and seed.

A cache is a folder named by its content: images.npy (N, S, S, C) uint8 RGB or gray, clahe.npy likewise if asked for,
masks.npy (N, S, S) class indices where masks are learned, geometry.npy (N, 4) crop boxes, index.json. It gets its name
only when every image is in it (`archbench.cache_folder`). It stands apart from images.py because those who read it need
no decoder. `archbench.volume_cache` builds that of CT volumes, which is opened here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.artifacts import ArtifactError, read_json
from archbench.cache_folder import build_folder
from archbench.mask_files import read_mask

if TYPE_CHECKING:
    from archbench_predict.images import Preprocessing

VOLUMES = "volumes"


@dataclass(frozen=True)
class VolumeGeometry:
    """What the cached slices of CT volumes are.

    Attributes:
        hu_window: Hounsfield units that networks see as black and as white; the cached ones are not clipped to it.
        slice_mm: Where each slice was cut, above the lower face of its volume, millimetres, shape (N, D).
        strategy: How the slices were chosen: multi, anatomical, all or best.
    """

    hu_window: tuple[float, float]
    slice_mm: np.ndarray
    strategy: str


@dataclass(frozen=True)
class ImageCache:
    """Preprocessed images of a dataset, memory-mapped, in the order of `case_ids`.

    `images` and `clahe` are uint8, of shape (N, S, S, 3), RGB, or (N, S, S, 1), gray; `geometry` (N, 4) holds
    x0, y0, x1, y1 of the crop box in source pixels (EXIF orientation applied). Of volumes `images` are Hounsfield
    units before windowing, int16, of shape (N, D, S, S), slices from feet to head, and `volumes` says more. `masks`
    (N, S, S), uint8, are the class indices of segmentation; None without.
    """

    images: np.ndarray
    clahe: np.ndarray | None
    geometry: np.ndarray
    case_ids: tuple[str, ...]
    size: int
    volumes: VolumeGeometry | None = None
    masks: np.ndarray | None = None

    def rows(self, case_ids: Sequence[str]) -> np.ndarray:
        """The positions of `case_ids` in the arrays, shape (len(case_ids),).

        Raises:
            ArtifactError: If a case is not in the cache.
        """
        position = {case_id: index for index, case_id in enumerate(self.case_ids)}
        missing = [case_id for case_id in case_ids if case_id not in position]
        if missing:
            raise ArtifactError(
                f"{len(missing)} cases are not in the image cache, such as {missing[0]!r}: it belongs to "
                "another manifest; delete the images-*.json files beside the manifest and run snakemake again"
            )
        return np.array([position[case_id] for case_id in case_ids], dtype=np.int64)


def unit_of(images: np.ndarray) -> str:
    """Return what the rows of a cache or of cached features are: images, or volumes."""
    return "volumes" if images.dtype == np.int16 or images.ndim == 3 else "images"


def cache_key(
    *,
    case_ids: Sequence[str],
    sha256s: Sequence[str],
    preprocessing: Preprocessing,
    code: str,
    masks: Sequence[str | None] | None = None,
    learned: bool = False,
) -> str:
    """The name of the cache: a hash of the files' content, the settings and the code that makes it.

    Args:
        masks: Content hash of each mask, None where there is none.
        learned: Whether the masks themselves are kept.
    """
    parts = [list(case_ids), list(sha256s), asdict(preprocessing), code, *(["masks"] if learned else [])]
    content = json.dumps(parts if masks is None else [*parts, list(masks)])
    return hashlib.sha256(content.encode()).hexdigest()[:20]


def open_cache(path: str | Path) -> ImageCache:
    """The cache in a folder, or the one that a pointer file `images-<key>.json` names.

    Raises:
        ArtifactError: If the folder is gone, incomplete, or its arrays do not fit its index.
    """
    path = Path(path)
    remedy = f"delete {path} and run snakemake again"
    pointer = read_json(path) if path.suffix == ".json" else {"path": path}
    folder = Path(pointer["path"])
    if not (folder / "index.json").is_file():
        raise ArtifactError(f"the image cache {folder} is gone or incomplete: {remedy}")
    index = read_json(folder / "index.json")
    n, size = len(index["case_ids"]), int(index["size"])
    geometry = _open_array(folder / "geometry.npy", shape=(n, 4), remedy=remedy)
    case_ids = tuple(index["case_ids"])
    if index.get("kind") == VOLUMES:
        volumes = _volume_geometry({**index, **pointer})
        shape = (n, volumes.slice_mm.shape[1], size, size)
        slices = _open_array(folder / "images.npy", shape=shape, remedy=remedy)
        return ImageCache(slices, None, np.array(geometry), case_ids, size, volumes)
    shape = (n, size, size, _depth(index.get("channels", "rgb")))
    images = _open_array(folder / "images.npy", shape=shape, remedy=remedy)
    clahe = _open_array(folder / "clahe.npy", shape=images.shape, remedy=remedy) if index["clahe"] else None
    learned = index.get("masks", False)
    masks = _open_array(folder / "masks.npy", shape=(n, size, size), remedy=remedy) if learned else None
    return ImageCache(images, clahe, np.array(geometry), case_ids, size, masks=masks)


def _volume_geometry(index: Mapping[str, Any]) -> VolumeGeometry:
    """Of a folder's index, and of the pointer to it, which names its own study's window."""
    low, high = index["hu_window"]
    slice_mm = np.array(index["slice_mm"], dtype=np.float64).reshape(len(index["case_ids"]), -1)
    return VolumeGeometry((float(low), float(high)), slice_mm, str(index["strategy"]))


def _depth(channels: str) -> int:
    return 1 if channels == "gray" else 3


def _open_array(path: Path, *, shape: tuple[int, ...], remedy: str) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} is missing or damaged ({error}): {remedy}") from error
    if array.shape != shape:
        raise ArtifactError(f"{path} has shape {array.shape}, its index says {shape}: {remedy}")
    return array


def build_cache(
    *,
    cache_dir: Path,
    root: Path,
    case_ids: Sequence[str],
    images: Sequence[str],
    sha256s: Sequence[str],
    preprocessing: Preprocessing,
    max_pixels: int,
    threads: int,
    code: str,
    masks: Sequence[str | None] | None = None,
    learned: bool = False,
) -> Path:
    """The folder of the finished cache, built if it is not there; a second job waits and finds it done.

    Args:
        images: Image paths relative to `root`, in the order of `case_ids`.
        sha256s: Hashes of the files' bytes from the manifest; a file that has changed since is refused.
        code: Fingerprint of the code, part of the cache's name.
        masks: Mask paths relative to `root`, None where an image has none; used for `mask_focus`, or `learned`.
        learned: The masks' values are class indices that are cached in the geometry of their images.
    Raises:
        ArtifactError: If an image is unreadable or has changed since the audit, or the disk is too small.
    """
    masks = None if preprocessing.mask_focus == "none" and not learned else masks
    hashes = None if masks is None else [mask and file_sha256(Path(root) / mask) for mask in masks]
    key = cache_key(
        case_ids=case_ids, sha256s=sha256s, preprocessing=preprocessing, code=code, masks=hashes, learned=learned
    )
    square = (len(case_ids), preprocessing.size, preprocessing.size, _depth(preprocessing.channels))
    shapes = {"images": (square, "|u1"), "geometry": ((len(case_ids), 4), "<f4")}
    if preprocessing.clahe is not None:
        shapes["clahe"] = (square, "|u1")
    if learned:
        shapes["masks"] = (square[:3], "|u1")
    index = {"case_ids": list(case_ids), "images": list(images), "sha256": list(sha256s), "code": code}
    return build_folder(
        Path(cache_dir) / key,
        shapes=shapes,
        make=_maker(root, images, sha256s, preprocessing, max_pixels, masks, learned),
        index={**index, **asdict(preprocessing), **({"masks": True} if learned else {})},
        threads=threads,
    )


def file_sha256(path: Path) -> str:
    """Content hash of a file; a missing one raises ArtifactError."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error}): run the rule prepare_dataset again") from error


def _maker(
    root: Path,
    images: Sequence[str],
    sha256s: Sequence[str],
    preprocessing: Preprocessing,
    max_pixels: int,
    masks: Sequence[str | None] | None = None,
    learned: bool = False,
) -> Callable[[int], dict[str, Any]]:
    """A function that decodes and preprocesses the i-th image, and its mask if that is learned."""
    import cv2

    from archbench_predict.images import ImageError, decode, preprocess, read_image_file
    from archbench_predict.images import read_mask as read_focus

    # The pool below is the parallelism; OpenCV's own threads on top of it only get in each other's way.
    cv2.setNumThreads(1)

    def make(index: int) -> dict[str, Any]:
        path = Path(root) / images[index]
        try:
            data = read_image_file(path)
            if hashlib.sha256(data).hexdigest() != sha256s[index]:
                raise ArtifactError(f"{path} has changed since the audit: run the rule prepare_dataset again")
            image = decode(data, max_pixels=max_pixels, intensity=preprocessing.intensity)
            mask = None
            if masks is not None and masks[index] is not None and not learned:
                mask = read_focus(Path(root) / str(masks[index]), shape=image.shape[:2], max_pixels=max_pixels)
        except ImageError as error:
            raise ArtifactError(
                f"{path}: {error}. The audit found nothing here; run the rule prepare_dataset again"
            ) from error
        pixels, clahe, box = preprocess(image, preprocessing, mask)
        made = {"images": pixels, "geometry": box} | ({} if clahe is None else {"clahe": clahe})
        if not learned or masks is None:
            return made
        return {**made, "masks": cached_mask(Path(root) / str(masks[index]), image.shape[:2], box, preprocessing.size)}

    return make


def cached_mask(path: Path, shape: tuple[int, int], box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """A mask of class indices in the geometry of its cached image, uint8, shape (size, size), by nearest neighbour.

    Raises:
        ArtifactError: If it hasn't the pixels of its image.
    """
    import cv2

    labels = read_mask(path).labels
    if labels.shape != shape:
        raise ArtifactError(f"{path} has {labels.shape} pixels, its image {shape}: run the rule prepare_dataset again")
    x0, y0, x1, y1 = box
    cut = np.ascontiguousarray(labels[y0:y1, x0:x1]).astype(np.uint8)
    return np.asarray(cv2.resize(cut, (size, size), interpolation=cv2.INTER_NEAREST_EXACT))
