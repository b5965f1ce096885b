"""What goes into a bundle: networks that passed their gate, and the proof that the runner repeats the study.

Before anything is written, the runner itself predicts images of the study from their source files: its pixels must be
those of the study's image cache, its probabilities those of the study's prediction table.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions
from archbench.bundle_files import Images
from archbench.checksums import file_sha256
from archbench.image_cache import ImageCache
from archbench.onnx_files import external_files

CHECKED_IMAGES = 16
PARITY = 1e-4  # largest difference of a probability in fp32; what other precisions cost, the export has judged
PARITY_OF_GPUS = 1e-2  # their convolutions round more coarsely than the CPU's
LARGEST_FIXED_BATCH = 8  # a larger one would make the last images, and single ones, wait for its empty places


class BundleFailure(RuntimeError):
    """No bundle can be made; the message says why."""


@dataclass(frozen=True)
class MemberSource:
    """One network with what the study knows of it.

    Attributes:
        account: Content of export.json.
        folder: Folder of export.json, which the files of its variants are relative to.
        mean, std: Normalisation of pixels 0-255, per channel; 0 and 1 of volumes, which the network windows itself.
        predictions: The model's own prediction table.
    """

    name: str
    architecture: str
    account: Mapping[str, Any]
    folder: Path
    cache: ImageCache
    preprocessing: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    predictions: Predictions

    @property
    def seed(self) -> int:
        """Training seed of the exported network."""
        return int(self.account["seed"])


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


def member_content(member: MemberSource, variant: Mapping[str, Any], file: str) -> dict[str, Any]:
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


def _units(member: MemberSource) -> str:
    return "pixels 0-255" if member.cache.volumes is None else "Hounsfield units, left to the network"


def copy_network(member: MemberSource, variant: Mapping[str, Any], folder: Path, file: str) -> None:
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


def check_runner(folder: Path, members: Sequence[MemberSource], images: Images) -> list[dict[str, Any]]:
    """Let the runner predict test images of each member's fold from their files, and compare it with the study.

    Returns:
        Per member: how many images, and the largest difference of pixels, logits and probabilities.
    Raises:
        BundleFailure: If pixels differ at all, or probabilities by more than 1e-4 (fp32).
    """
    from archbench_predict.bundle import read_bundle
    from archbench_predict.predictor import Predictor

    bundle = read_bundle(folder)
    predictor = Predictor(bundle, threads=1)
    found = []
    for k, member in enumerate(members):
        cases, expected = checked_rows(member)
        prepared = [
            predictor.prepare(str(images.path(case)), _text(images.mask(case)), images.declared.get(case))
            for case in cases
        ]
        entry = bundle.content["members"][k]
        _compare_pixels(member, cases, [inputs[k] for inputs in prepared], normalized=entry["input"]["normalized"])
        logits = predictor.member_logits(prepared)[:, k]
        said, meant = predictor.task.probabilities(logits), predictor.task.probabilities(expected)
        difference = float((np.abs(said - meant) / np.maximum(1.0, np.abs(meant))).max())
        if entry["precision"] == "fp32" and not difference <= _limit(member):
            raise BundleFailure(
                f"{member.name}: the runner's probabilities differ from the study's by up to {difference:.1e} "
                f"on {len(cases)} images of fold {member.account['fold']}: the exported file is another network "
                "than the predictions come from; run the export and predictions again"
            )
        found.append(
            {
                "member": member.name,
                "n_images": len(cases),
                "max_logit_difference": float(np.abs(logits - expected).max()),
                "max_probability_difference": difference,
            }
        )
    return found


def check_combination(study: Mapping[str, Any] | None) -> None:
    """Refuse an ensemble that the runner would combine otherwise than the study did.

    Args:
        study: `study_difference` of the deployed fits; None of a single model.
    Raises:
        BundleFailure: If a probability differs by more than 1e-4.
    """
    difference = None if study is None else study["max_probability_difference"]
    if difference is not None and not difference <= PARITY:
        raise BundleFailure(
            f"combined by the runner, the members' predictions differ from the study's ensemble by up to "
            f"{difference:.1e}: its decision.json or predictions are older than its members; run snakemake again"
        )


def _limit(member: MemberSource) -> float:
    device = member.predictions.metadata.get("provenance", {}).get("device", "cpu")
    return PARITY if device == "cpu" else PARITY_OF_GPUS


def checked_rows(member: MemberSource) -> tuple[list[str], np.ndarray]:
    """Return cases that the exported network predicted in the study, spread over its table, and their logits."""
    table = member.predictions
    own = table.select((table.fold == member.account["fold"]) & (table.seed == member.seed))
    own = own.test if len(own.test) else own
    picked = np.unique(np.linspace(0, len(own) - 1, min(CHECKED_IMAGES, len(own))).astype(int))
    return own.case_id[picked].tolist(), own.logits[picked]


def _compare_pixels(
    member: MemberSource, cases: Sequence[str], inputs: Sequence[np.ndarray], *, normalized: bool
) -> None:
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
            f"{member.name}: the runner's images differ from the study's image cache by up to {difference:.2g}: the "
            "source files have changed since; run the study again"
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
