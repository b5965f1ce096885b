"""A folder of memory-mapped arrays that is filled row by row, goes on after an interruption, and appears when whole.

It is built in `<name>.partial`; a second job that wants the same folder waits and finds it done.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, write_json

CHECKPOINT_ROWS = 64
PROGRESS_SECONDS = 2.0

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
Row = Mapping[str, Any]


def build_folder(
    folder: Path,
    *,
    shapes: Shapes,
    make: Callable[[int], Row],
    index: Mapping[str, Any],
    listed: tuple[str, ...] = (),
    threads: int,
    unit: str = "image",
) -> Path:
    """The finished folder, built if it is not there.

    Args:
        shapes: Shape, the rows first, and type of each array.
        make: Gives row i of the arrays, in threads.
        index: What index.json says.
        listed: Arrays that are put into index.json instead of files of their own.
        unit: What a row is, for the progress.
    Raises:
        ArtifactError: If the disk is too small; whatever `make` raises.
    """
    from filelock import FileLock

    n = next(iter(shapes.values()))[0][0]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if (folder / "index.json").is_file():
            print(f"image cache {folder.name}: {n} {unit}s, already there", file=sys.stderr, flush=True)
            return folder
        partial = _Partial.open(folder.with_name(f"{folder.name}.partial"), n=n, shapes=shapes)
        try:
            partial.fill(make, threads=threads, unit=unit)
            values = {name: partial.arrays[name].tolist() for name in listed}
        finally:
            partial.close()
        write_json(partial.folder / "index.json", {**index, **values})
        for name in ("done", *listed):
            (partial.folder / f"{name}.npy").unlink()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial.folder, folder)
        _sync_folder(folder.parent)
    return folder


@dataclass
class _Partial:
    """The arrays of a cache under construction, and which of their rows are on the disk."""

    folder: Path
    arrays: dict[str, np.memmap[Any, Any]]

    @classmethod
    def open(cls, folder: Path, *, n: int, shapes: Shapes) -> _Partial:
        """Go on with the arrays in `folder` if they are all there and fit; otherwise start over."""
        kinds = {**shapes, "done": ((n,), "|u1")}
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
        _check_disk(folder, needed=sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in kinds.values()))
        # done.npy comes last: without it the folder counts as nothing.
        return cls(
            folder,
            {
                name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
                for name, (shape, dtype) in kinds.items()
            },
        )

    def fill(self, make: Callable[[int], Row], *, threads: int, unit: str) -> None:
        """Make the rows that are not on the disk yet; pixels are flushed before their marks."""
        done = self.arrays["done"]
        pending = np.flatnonzero(done == 0)
        report = _progress(total=len(done), already=len(done) - len(pending), unit=unit)
        with ThreadPoolExecutor(max_workers=threads) as pool:
            try:
                for start in range(0, len(pending), CHECKPOINT_ROWS):
                    batch = pending[start : start + CHECKPOINT_ROWS].tolist()
                    for index, row in zip(batch, pool.map(make, batch), strict=True):
                        for name, values in row.items():
                            self.arrays[name][index] = values
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


def _progress(*, total: int, already: int, unit: str) -> Callable[[int], None]:
    """A function that is told how many rows this run has made, and prints a line now and then."""
    begin = last = time.monotonic()

    def report(made: int) -> None:
        nonlocal last
        now = time.monotonic()
        if already + made < total and now - last < PROGRESS_SECONDS:
            return
        last = now
        rate = made / max(now - begin, 1e-9)
        remaining_s = (total - already - made) / max(rate, 1e-9)
        speed = f"{rate:.{0 if rate >= 10 else 1}f} {unit}s/s"
        print(
            f"{unit}s {already + made}/{total}, {speed}, {remaining_s:.0f} s remaining",
            file=sys.stderr,
            flush=True,
        )

    return report
