"""Read a bundle: check every file against SHA256SUMS, then what bundle.json says.

A bundle is a folder, or a zip of one: bundle.json, SHA256SUMS, the ONNX files it names, an example image with its
expected output, and a model card for people.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench_predict.description import DescriptionError, Normalization, described_normalization, described_steps
from archbench_predict.images import Preprocessing
from archbench_predict.scans import SliceSettings, described_slices
from archbench_predict.volume_description import VolumePreparation, described_volume_steps, describes_volume

FORMAT = 2  # 2: labels that one member answers alone, isotonic steps, arrays beside bundle.json
MASK_FORMAT = 3  # the networks draw masks
READS = (1, FORMAT, MASK_FORMAT)
SUMS = "SHA256SUMS"
CONTENT = "bundle.json"


class BundleError(ValueError):
    """A bundle that can't be used: incomplete, modified, or made for another runner."""


@dataclass(frozen=True)
class Member:
    """One network of a bundle.

    Attributes:
        path: Its ONNX file.
        preprocessing: Of pictures, or of CT volumes.
        max_pixels: Pixels, or voxels, that a header may claim.
        normalized: The graph expects normalised float32 input; otherwise pixels 0-255.
    """

    name: str
    path: Path
    preprocessing: Preprocessing | VolumePreparation
    max_pixels: int
    normalization: Normalization
    normalized: bool


@dataclass(frozen=True)
class Bundle:
    """An intact bundle.

    Attributes:
        content: The whole of bundle.json.
        combination: How the members are combined, with its arrays.
        identity: SHA-256 of SHA256SUMS, which names this very bundle.
        slices: How scans become pictures; None where the networks read pictures or whole volumes.
    """

    folder: Path
    content: Mapping[str, Any]
    combination: Mapping[str, Any]
    members: tuple[Member, ...]
    identity: str
    slices: SliceSettings | None = None

    @property
    def name(self) -> str:
        """Study, dataset, model and precision."""
        return str(self.content["name"])

    @property
    def needs_masks(self) -> bool:
        """Whether the networks were trained on images cut or blanked by a mask."""
        return any(member.preprocessing.mask_focus != "none" for member in self.members)

    @property
    def draws_masks(self) -> bool:
        """Whether its network says what each pixel is."""
        return self.content.get("outputs") == "masks"

    @property
    def reads_volumes(self) -> bool:
        """Whether its networks read CT volumes."""
        return any(isinstance(member.preprocessing, VolumePreparation) for member in self.members)

    @property
    def unit(self) -> str:
        """What its answers are of: images, or volumes, read whole or slice by slice."""
        return "images" if not self.reads_volumes and self.slices is None else "volumes"


@contextmanager
def open_bundle(path: str | Path) -> Iterator[Bundle]:
    """Give the bundle in a folder or a zip; of a zip as long as the context lasts.

    Raises:
        BundleError: If it is no bundle, incomplete, modified, or made for another runner.
    """
    path = Path(path)
    if path.is_dir():
        yield read_bundle(path)
        return
    if not path.is_file():
        raise BundleError(f"{path}: no such bundle (a folder or a zip written by `make bundle`)")
    if not zipfile.is_zipfile(path):
        raise BundleError(f"{path} is neither a folder nor a zip")
    with tempfile.TemporaryDirectory(prefix="archbench-bundle-") as unpacked:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(unpacked)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise BundleError(f"{path} is damaged ({error}): get the bundle again") from error
        found = sorted(Path(unpacked).rglob(SUMS))
        if len(found) != 1:
            raise BundleError(f"{path} holds {len(found)} files {SUMS}, a bundle has one")
        yield read_bundle(found[0].parent)


def read_bundle(folder: Path) -> Bundle:
    """Return the bundle in a folder, every listed file checked.

    Raises:
        BundleError: If a file is missing or modified, or the runner can't do what it describes.
    """
    listed = check_sums(folder)
    if CONTENT not in listed:
        raise BundleError(f"{folder / SUMS} doesn't list {CONTENT}: this is no bundle")
    content = json.loads((folder / CONTENT).read_text(encoding="utf-8"))
    if content.get("format") not in READS:
        raise BundleError(
            f"{folder / CONTENT} has format {content.get('format')!r}, this runner reads up to {READS[-1]}: "
            "install the runner of the archbench that wrote it"
        )
    arrays = content["combination"].get("arrays")
    named = [member["file"] for member in content["members"]] + list(content["example"].values())
    named += [] if arrays is None else [arrays]
    unlisted = [name for name in named if name not in listed]
    if unlisted:
        raise BundleError(f"{folder / SUMS} doesn't list {unlisted[0]}, which the bundle uses: get the bundle again")
    identity = hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    combination = dict(content["combination"])
    if arrays is not None:
        combination["fits"] = read_fits(folder / arrays)
    members = tuple(_member(folder, entry) for entry in content["members"])
    return Bundle(folder, content, combination, members, identity, _slices(folder, content))


def _slices(folder: Path, content: Mapping[str, Any]) -> SliceSettings | None:
    if content.get("slices") is None:
        return None
    try:
        return described_slices(content["slices"])
    except DescriptionError as error:
        raise BundleError(f"{folder / CONTENT}: {error}") from error


def read_fits(path: Path) -> list[dict[str, np.ndarray]]:
    """Return what was fitted, once or for each zone: arrays named `<number>.<name>`.

    Raises:
        BundleError: If the file is none of such arrays.
    """
    fits: dict[int, dict[str, np.ndarray]] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                number, _, name = key.partition(".")
                fits.setdefault(int(number), {})[name] = arrays[key]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} can't be read ({error}): get the bundle again") from error
    return [fits[number] for number in sorted(fits)]


def _member(folder: Path, entry: Mapping[str, Any]) -> Member:
    preprocessing: Preprocessing | VolumePreparation
    try:
        if describes_volume(entry["preprocessing"]):
            preprocessing, max_pixels = described_volume_steps(entry["preprocessing"])
        else:
            preprocessing, max_pixels = described_steps(entry["preprocessing"])
        normalization = described_normalization(entry["normalization"])
    except DescriptionError as error:
        raise BundleError(f"{folder / CONTENT}, member {entry['name']!r}: {error}") from error
    return Member(
        name=entry["name"],
        path=folder / entry["file"],
        preprocessing=preprocessing,
        max_pixels=max_pixels,
        normalization=normalization,
        normalized=bool(entry["input"]["normalized"]),
    )


def check_sums(folder: Path) -> set[str]:
    """Return the names that SHA256SUMS lists, every one of them checked.

    Raises:
        BundleError: If it is missing or malformed, or a file is missing or has another content.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BundleError(f"{folder} has no readable {SUMS}: it is no bundle, or incomplete") from None
    listed = set()
    for number, line in enumerate(lines, start=1):
        expected, _, name = line.partition("  ")
        place = folder / name
        if len(expected) != 64 or not name or not place.resolve().is_relative_to(folder.resolve()):
            raise BundleError(f"{folder / SUMS}, line {number}: not '<SHA-256>  <file>'")
        if not place.is_file():
            raise BundleError(f"{folder} lacks {name}: get the bundle again")
        if sha256_of(place) != expected:
            raise BundleError(f"{place} is not the file that {SUMS} describes: it was modified; get the bundle again")
        listed.add(name)
    return listed


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
