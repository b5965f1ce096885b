"""The networks of a bundle: exports that passed their gate, copied, and what the study knows of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError
from archbench.checksums import file_sha256
from archbench.image_cache import ImageCache, unit_of
from archbench.onnx_files import external_files
from archbench.registry import ARCHITECTURES

PARITY = 1e-4  # largest difference of a probability in fp32; what other precisions cost, the export has judged
PARITY_OF_GPUS = 1e-2  # their convolutions round more coarsely than the CPU's
LARGEST_FIXED_BATCH = 8  # a larger one would make the last images, and single ones, wait for its empty places


class BundleFailure(RuntimeError):
    """No bundle can be made; the message says why."""


@dataclass(frozen=True)
class NetworkSource:
    """One network with what the study knows of it.

    Attributes:
        account: Content of export.json.
        folder: Folder of export.json, which the files of its variants are relative to.
        mean, std: Normalisation of pixels 0-255, per channel; 0 and 1 of volumes, which the network windows itself.
    """

    name: str
    architecture: str
    account: Mapping[str, Any]
    folder: Path
    cache: ImageCache
    preprocessing: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def seed(self) -> int:
        """Training seed of the exported network."""
        return int(self.account["seed"])


def allowed_difference(provenance: Mapping[str, Any]) -> float:
    """Return by how much the runner's probabilities may differ from the study's, by where those were computed."""
    return PARITY if provenance.get("device", "cpu") == "cpu" else PARITY_OF_GPUS


def passed_variant(account: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Return the exported variant of a precision that may be deployed.

    Args:
        account: Content of export.json; one without variants describes a single fp32 file.
    Raises:
        BundleFailure: If there is none, or it didn't pass its gate, with the reason.
    """
    plain = {
        "precision": "fp32",
        "file": "model.onnx",
        "status": "passed" if account.get("passed") else "failed",
        "reason": None,
        "batch": "dynamic",
        "inputs": {"normalized": True},
    }
    variants: Sequence[Mapping[str, Any]] = account.get("variants") or [plain]
    found = next((variant for variant in variants if variant["precision"] == precision), None)
    known = ", ".join(f"{variant['precision']} ({variant['status']})" for variant in variants)
    if found is None:
        raise BundleFailure(
            f"{account['model']} was not exported in {precision} (there is {known}): add it to inference.precisions"
        )
    if found["status"] != "passed":
        raise BundleFailure(
            f"{account['model']} in {precision} is not fit to be deployed, its export {found['status']}: "
            f"{found.get('reason') or 'see export.json'} (there is {known})"
        )
    return _one_file(found)


def _one_file(variant: Mapping[str, Any]) -> dict[str, Any]:
    """A variant of one file per batch size as the one file that the runner fills up: up to 8 images, the largest."""
    if variant["batch"] == "dynamic":
        return dict(variant)
    files = {int(entry["batch"]): entry for entry in variant["files"] if entry["batch"] is not None}
    batch = max((size for size in files if size <= LARGEST_FIXED_BATCH), default=min(files))
    return {**variant, "batch": batch, "file": files[batch]["file"], "sha256": files[batch].get("sha256")}


def member_content(member: NetworkSource, variant: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return a member's entry of bundle.json."""
    return {
        "name": member.name,
        "file": file,
        "architecture": member.architecture,
        "fold": member.account["fold"],
        "seed": member.account["seed"],
        "precision": variant["precision"],
        "input": {"normalized": bool(variant["inputs"].get("normalized", True)), "batch": variant["batch"]},
        "preprocessing": dict(member.preprocessing),
        "normalization": {"of": _units(member), "mean": list(member.mean), "std": list(member.std)},
    }


def _units(member: NetworkSource) -> str:
    return "pixels 0-255" if member.cache.volumes is None else "Hounsfield units, left to the network"


def copy_network(member: NetworkSource, variant: Mapping[str, Any], folder: Path, file: str) -> None:
    """Copy a variant's ONNX file, with the external data beside it, and check the exporter's hashes.

    Raises:
        ArtifactError: If a file is missing.
        BundleFailure: If one is not that which passed.
    """
    sums = {entry["file"]: entry.get("sha256") for entry in variant.get("files", ())}
    sums.setdefault(variant["file"], variant.get("sha256"))
    source, target = member.folder / variant["file"], folder / file
    _copy_checked(source, target, sums[variant["file"]], member.folder)
    for data in external_files(source):
        place = source.parent / data
        known = sums.get(place.relative_to(member.folder).as_posix())
        _copy_checked(place, target.parent / data, known, member.folder)


def _copy_checked(source: Path, target: Path, expected: str | None, folder: Path) -> None:
    if not source.is_file():
        raise ArtifactError(f"{source} is missing: delete {folder / 'export.json'} and run snakemake again")
    if expected not in (None, file_sha256(source)):
        raise BundleFailure(f"{source} is not the file that passed the export's gate: run the export again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def compare_pixels(
    member: NetworkSource, cases: Sequence[str], inputs: Sequence[np.ndarray], *, normalized: bool
) -> None:
    """Refuse inputs of the runner, (C, S, S) each, that are not those of the study's image cache."""
    cached = member.cache.images[member.cache.rows(cases)].astype(np.float32)
    if member.cache.volumes is None:
        cached = cached.transpose(0, 3, 1, 2)
    if normalized:
        mean, std = (np.array(values, np.float32)[None, :, None, None] for values in (member.mean, member.std))
        cached = (cached - mean) / std
    difference = float(np.abs(np.stack(inputs).astype(np.float32) - cached).max())
    half = inputs[0].dtype == np.float16
    rounding = (1e-2 if member.cache.volumes is None else 2.0) if half else 1e-6  # of 3000 Hounsfield units, 2
    if difference > rounding:
        raise BundleFailure(
            f"{member.name}: the runner's {unit_of(member.cache.images)} differ from the study's image cache by up to "
            f"{difference:.2g}: the source files have changed since; run the study again"
        )


def image_steps(settings: Mapping[str, Any], *, size: int, max_pixels: int) -> dict[str, Any]:
    """Return the description of what prediction does to a picture, by a dataset's `preprocessing`."""
    from archbench_predict.description import describe_steps
    from archbench_predict.images import Preprocessing

    steps = Preprocessing(
        size=size,
        crop_border=settings["crop_border"],
        clahe=None,  # a random augmentation of training, not part of prediction
        intensity=settings["intensity"],
        channels=settings["channels"],
        center_crop=settings["center_crop"],
        mask_focus=settings["mask_focus"],
    )
    return describe_steps(steps, max_pixels=max_pixels)


def pixel_normalization(
    architecture: str, normalization: str, *, in_channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of pixels 0-255 per channel, in the network's own arithmetic (float32)."""
    mean, std = ARCHITECTURES.get(architecture).mean_std_of(normalization, in_channels=in_channels)
    return _of_pixels(mean), _of_pixels(std)


def _of_pixels(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(np.float32(255) * np.float32(value)) for value in values)


def licence_of(architecture: str, *, weights: str, checkpoint: str | None) -> str:
    """Return where a model's start weights come from, and their licence."""
    if checkpoint is not None:
        return f"given weights {Path(checkpoint).name}: licence unknown here, ask their source"
    if weights == "none":
        return "random: no others' weights"
    source, _, name = weights.partition(":")
    if source == "file":
        return f"given file {Path(name).name}: licence unknown here, ask its source"
    known = ARCHITECTURES.get(architecture).weights.get(source)
    return f"{weights}: {known.licence if known is not None else 'licence unknown here'}"
