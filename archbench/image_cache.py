"""One memory-mapped cache of preprocessed images for every model, fold and seed.

A cache is a folder named by its content: images.npy (N, S, S, C) uint8 RGB or gray, clahe.npy likewise if asked for,
masks.npy (N, S, S) class indices where masks are learned, geometry.npy (N, 4) crop boxes, index.json. It is built in
`<key>.partial`, where an interrupted build goes on, and gets its name only when every image is in it. It stands apart
from images.py because those who read it need no decoder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench.artifacts import ArtifactError, read_json, write_json
from archbench.mask_files import read_mask

if TYPE_CHECKING:
    from archbench_predict.images import Preprocessing

CHECKPOINT_IMAGES = 64
PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class ImageCache:
    """Preprocessed images of a dataset, memory-mapped, in the order of `case_ids`.

    `images` and `clahe` are uint8, of shape (N, S, S, 3), RGB, or (N, S, S, 1), gray; `geometry` (N, 4) holds
    x0, y0, x1, y1 of the crop box in source pixels (EXIF orientation applied). `masks` (N, S, S), uint8, are the
    class indices of segmentation; None without.
    """

    images: np.ndarray
    clahe: np.ndarray | None
    geometry: np.ndarray
    case_ids: tuple[str, ...]
    size: int
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
    folder = Path(read_json(path)["path"]) if path.suffix == ".json" else path
    if not (folder / "index.json").is_file():
        raise ArtifactError(f"the image cache {folder} is gone or incomplete: {remedy}")
    index = read_json(folder / "index.json")
    n, size = len(index["case_ids"]), int(index["size"])
    images = _open_array(
        folder / "images.npy", shape=(n, size, size, _depth(index.get("channels", "rgb"))), remedy=remedy
    )
    clahe = _open_array(folder / "clahe.npy", shape=images.shape, remedy=remedy) if index["clahe"] else None
    geometry = _open_array(folder / "geometry.npy", shape=(n, 4), remedy=remedy)
    learned = index.get("masks", False)
    masks = _open_array(folder / "masks.npy", shape=(n, size, size), remedy=remedy) if learned else None
    return ImageCache(images, clahe, np.array(geometry), tuple(index["case_ids"]), size, masks)


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
    from filelock import FileLock

    masks = None if preprocessing.mask_focus == "none" and not learned else masks
    hashes = None if masks is None else [mask and file_sha256(Path(root) / mask) for mask in masks]
    key = cache_key(
        case_ids=case_ids, sha256s=sha256s, preprocessing=preprocessing, code=code, masks=hashes, learned=learned
    )
    folder = Path(cache_dir) / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{key}.lock")):
        if (folder / "index.json").is_file():
            print(f"image cache {key}: {len(case_ids)} images, already there", file=sys.stderr, flush=True)
            return folder
        partial = _Partial.open(
            folder.with_name(f"{key}.partial"), n=len(case_ids), preprocessing=preprocessing, learned=learned
        )
        try:
            partial.fill(_maker(root, images, sha256s, preprocessing, max_pixels, masks, learned), threads=threads)
        finally:
            partial.close()
        write_json(
            partial.folder / "index.json",
            {
                "case_ids": list(case_ids),
                "images": list(images),
                "sha256": list(sha256s),
                "code": code,
                **asdict(preprocessing),
                **({"masks": True} if learned else {}),
            },
        )
        (partial.folder / "done.npy").unlink()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial.folder, folder)
        _sync_folder(folder.parent)
    return folder


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
) -> Callable[[int], tuple[Any, ...]]:
    """A function that decodes and preprocesses the i-th image: image, CLAHE image, box and, if learned, its mask."""
    import cv2

    from archbench_predict.images import ImageError, decode, preprocess, read_image_file
    from archbench_predict.images import read_mask as read_focus

    # The pool below is the parallelism; OpenCV's own threads on top of it only get in each other's way.
    cv2.setNumThreads(1)

    def make(index: int) -> tuple[Any, ...]:
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
        made = preprocess(image, preprocessing, mask)
        if not learned or masks is None:
            return made
        return (*made, cached_mask(Path(root) / str(masks[index]), image.shape[:2], made[2], preprocessing.size))

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


@dataclass
class _Partial:
    """The arrays of a cache under construction, and which of their rows are on the disk."""

    folder: Path
    arrays: dict[str, np.memmap[Any, Any]]

    @classmethod
    def open(cls, folder: Path, *, n: int, preprocessing: Preprocessing, learned: bool = False) -> _Partial:
        """Go on with the arrays in `folder` if they are all there and fit; otherwise start over."""
        square = (n, preprocessing.size, preprocessing.size, _depth(preprocessing.channels))
        kinds: dict[str, tuple[tuple[int, ...], str]] = {
            "images": (square, "|u1"),
            "geometry": ((n, 4), "<f4"),
        }
        if preprocessing.clahe is not None:
            kinds["clahe"] = (square, "|u1")
        if learned:
            kinds["masks"] = (square[:3], "|u1")
        kinds["done"] = ((n,), "|u1")
        try:
            arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+") for name in kinds}
            if all((arrays[name].shape, arrays[name].dtype.str) == kind for name, kind in kinds.items()):
                return cls(folder, arrays)
        except (OSError, ValueError):
            arrays = {}
        for array in arrays.values():
            _unmap(array)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _check_disk(folder, needed=sum(int(np.prod(shape)) for shape, _ in kinds.values()))
        # done.npy comes last: without it the folder counts as nothing.
        return cls(
            folder,
            {
                name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
                for name, (shape, dtype) in kinds.items()
            },
        )

    def fill(self, make: Callable[[int], tuple[Any, ...]], *, threads: int) -> None:
        """Make the rows that are not on the disk yet; pixels are flushed before their marks."""
        pending = np.flatnonzero(self.arrays["done"] == 0)
        report = _progress(total=len(self.arrays["done"]), already=len(self.arrays["done"]) - len(pending))
        with ThreadPoolExecutor(max_workers=threads) as pool:
            try:
                for start in range(0, len(pending), CHECKPOINT_IMAGES):
                    batch = pending[start : start + CHECKPOINT_IMAGES].tolist()
                    for index, (image, clahe, box, *mask) in zip(batch, pool.map(make, batch), strict=True):
                        self.arrays["images"][index] = image
                        self.arrays["geometry"][index] = box
                        if clahe is not None:
                            self.arrays["clahe"][index] = clahe
                        if mask:
                            self.arrays["masks"][index] = mask[0]
                    self._checkpoint(batch)
                    report(start + len(batch))
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _checkpoint(self, batch: list[int]) -> None:
        for name, array in self.arrays.items():
            if name != "done":
                array.flush()
        self.arrays["done"][batch] = 1
        self.arrays["done"].flush()

    def close(self) -> None:
        """Flush and unmap, since Windows renames no folder with a mapped file in it."""
        for array in self.arrays.values():
            array.flush()
            _unmap(array)
        self.arrays.clear()


def _unmap(array: np.memmap[Any, Any]) -> None:
    array._mmap.close()  # type: ignore[attr-defined]  # numpy offers no public way


def _check_disk(folder: Path, *, needed: int) -> None:
    """Refuse a cache that the disk can't hold: a mapped file on a full disk would kill the process."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ArtifactError(
            f"the image cache needs {needed / 2**30:.1f} GiB, {folder.parent} has {free / 2**30:.1f} GiB: "
            "make room, choose a smaller image_size, or put the cache elsewhere"
        )


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _progress(*, total: int, already: int) -> Callable[[int], None]:
    """A function that is told how many images this run has made, and prints a line now and then."""
    begin = last = time.monotonic()

    def report(made: int) -> None:
        nonlocal last
        now = time.monotonic()
        if already + made < total and now - last < PROGRESS_SECONDS:
            return
        last = now
        rate = made / max(now - begin, 1e-9)
        remaining_s = (total - already - made) / max(rate, 1e-9)
        print(
            f"images {already + made}/{total}, {rate:.0f} images/s, {remaining_s:.0f} s remaining",
            file=sys.stderr,
            flush=True,
        )

    return report
