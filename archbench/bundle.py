"""A folder and a zip with all that a model needs outside the study: network, preprocessing, calibration, card, hashes.

Before anything is written, the runner itself predicts images of the study from their source files: its pixels must be
those of the study's image cache, its probabilities those of the study's prediction table.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import ArtifactError, Predictions, atomic_path, write_json, write_text
from archbench.checksums import file_sha256
from archbench.image_cache import ImageCache

CHECKED_IMAGES = 16
PARITY = 1e-4  # largest difference of a probability in fp32; what other precisions cost, the export has judged
PARITY_OF_GPUS = 1e-2  # their convolutions round more coarsely than the CPU's
VERSIONS = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "opencv-python-headless", "tifffile", "nibabel")
LARGEST_FIXED_BATCH = 8  # a larger one would make the last images, and single ones, wait for its empty places
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # so that equal bundles are equal files


class BundleFailure(RuntimeError):
    """No bundle can be made; the message says why."""


@dataclass(frozen=True)
class MemberSource:
    """One network with what the study knows of it.

    Attributes:
        account: Content of export.json.
        folder: Folder of export.json, which the files of its variants are relative to.
        mean, std: Normalisation of pixels 0-255, per channel.
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


@dataclass(frozen=True)
class Images:
    """Where the study's source images lie, by case."""

    root: Path
    files: Mapping[str, str]
    masks: Mapping[str, str]

    def path(self, case: str) -> Path:
        """Path of a case's image."""
        return self.root / self.files[case]

    def mask(self, case: str) -> Path | None:
        """Path of a case's mask; None without."""
        return self.root / self.masks[case] if case in self.masks else None


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
        "normalization": {"of": "pixels 0-255", "mean": list(member.mean), "std": list(member.std)},
    }


def copy_network(member: MemberSource, variant: Mapping[str, Any], folder: Path, file: str) -> None:
    """Copy a variant's ONNX file, with the external data beside it, and check the exporter's hash.

    Raises:
        ArtifactError: If the file is missing.
        BundleFailure: If it is not the one that passed.
    """
    name, expected = variant["file"], variant.get("sha256")
    source, target = member.folder / name, folder / file
    if not source.is_file():
        raise ArtifactError(f"{source} is missing: delete {member.folder / 'export.json'} and run snakemake again")
    if expected not in (None, file_sha256(source)):
        raise BundleFailure(f"{source} is not the file that passed the export's gate: run the export again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    for data in external_files(source):
        (target.parent / data).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.parent / data, target.parent / data)


def external_files(path: Path) -> list[str]:
    """Return where the weights outside an ONNX file lie, relative to its folder."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    tensors = onnx.load(path, load_external_data=False).graph.initializer
    entries = [entry for tensor in tensors if uses_external_data(tensor) for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


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
        prepared = [predictor.prepare(str(images.path(case)), _text(images.mask(case))) for case in cases]
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
    cached = member.cache.images[member.cache.rows(cases)].transpose(0, 3, 1, 2).astype(np.float32)
    if normalized:
        mean, std = (np.array(values, np.float32)[None, :, None, None] for values in (member.mean, member.std))
        cached = (cached - mean) / std
    difference = float(np.abs(np.stack(inputs).astype(np.float32) - cached).max())
    rounding = 1e-6 if inputs[0].dtype != np.float16 else 1e-2
    if difference > rounding:
        raise BundleFailure(
            f"{member.name}: the runner's images differ from the study's image cache by up to {difference:.2g}: the "
            "source files have changed since; run the study again"
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def add_example(folder: Path, case: str | None, images: Images, *, size: int, masked: bool) -> dict[str, str]:
    """Put an example image into the bundle and return its entry of bundle.json; `write_expected` fills it.

    Args:
        case: A phantom's case, whose image is copied; None draws a picture, since no patient's may leave the study.
        size: Side of the networks' input, pixels; a drawn picture is larger.
        masked: Whether the networks look at masks.
    """
    place = folder / "example"
    place.mkdir(parents=True, exist_ok=True)
    if case is None:
        files = _draw_example(place, side=2 * size)
        entry = {"image": files[0]} | ({"mask": files[1]} if masked else {})
    else:
        entry = {"image": f"image{_suffix(images.path(case))}"}
        shutil.copyfile(images.path(case), place / entry["image"])
    write_json(place / "expected.json", {"probabilities": None})
    return {key: f"example/{name}" for key, name in {**entry, "expected": "expected.json"}.items()}


def _draw_example(place: Path, *, side: int) -> tuple[str, str]:
    """Write a bright ellipse with coloured waves on black, and its mask; return the names."""
    from PIL import Image

    yy, xx = np.mgrid[:side, :side] / side - 0.5
    inside = (xx / 0.42) ** 2 + (yy / 0.36) ** 2 < 1
    waves = [np.sin(40 * xx * yy + k) + np.sin((17 + 3 * k) * np.hypot(xx, yy)) for k in range(3)]
    picture = np.rint(inside[:, :, None] * (130 + 55 * np.stack(waves, axis=2))).astype(np.uint8)
    Image.fromarray(picture).save(place / "image.png")
    Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).save(place / "mask.png")
    return "image.png", "mask.png"


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def write_expected(folder: Path) -> None:
    """Write what the bundle says of its example image."""
    from archbench_predict.bundle import read_bundle
    from archbench_predict.predictor import Predictor
    from archbench_predict.records import to_records

    predictor = Predictor(read_bundle(folder), threads=1)
    answers = predictor.example()
    expected = {
        "logits": answers.logits[0].tolist(),
        "probabilities": answers.probabilities[0].tolist(),
        "calibrated": None if answers.calibrated is None else answers.calibrated[0].tolist(),
        "record": to_records(answers, predictor.task)[0],
    }
    write_json(folder / "example/expected.json", expected)


def library_versions() -> dict[str, str]:
    """Return the installed versions of what the runner works with."""
    from importlib import metadata

    found = {}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_sums(folder: Path) -> list[tuple[str, str]]:
    """Write SHA256SUMS over all files of the bundle, and return (name, hash) of each."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sums = [(name, file_sha256(folder / name)) for name in names if name != "SHA256SUMS"]
    write_text(folder / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in sums))
    return sums


def write_zip(folder: Path, path: Path, *, name: str) -> None:
    """Write the bundle as a zip with one top folder; equal bundles give equal bytes."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive,
    ):
        for file in sorted(item for item in folder.rglob("*") if item.is_file()):
            entry = zipfile.ZipInfo(f"{name}/{file.relative_to(folder).as_posix()}", date_time=ZIP_TIME)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with file.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)


def read_images(manifest: Any, root: str) -> Images:
    """Return where the images of a manifest table lie."""
    cases = manifest["case_id"].to_pylist()
    masks = manifest["mask"].to_pylist() if "mask" in manifest.column_names else [None] * len(cases)
    return Images(
        root=Path(root),
        files=dict(zip(cases, manifest["image"].to_pylist(), strict=True)),
        masks={case: mask for case, mask in zip(cases, masks, strict=True) if mask is not None},
    )


def write_content(folder: Path, content: Mapping[str, Any]) -> None:
    """Write bundle.json."""
    write_json(folder / "bundle.json", {"format": 1, **content, "versions": library_versions()})
