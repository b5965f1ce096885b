"""The files of a bundle: weights, example, hashes, zip; and where the study's own images lie."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import atomic_path, write_json, write_text
from archbench.checksums import file_sha256
from archbench_predict.hounsfield import Declared

ARRAYS = "combination.npz"
VERSIONS = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "opencv-python-headless", "tifffile", "nibabel")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # so that equal bundles are equal files


@dataclass(frozen=True)
class Images:
    """Where the study's source images lie, by case, and what a table declares of volumes."""

    root: Path
    files: Mapping[str, str]
    masks: Mapping[str, str]
    declared: Mapping[str, Declared] = field(default_factory=dict)

    def path(self, case: str) -> Path:
        """Path of a case's image."""
        return self.root / self.files[case]

    def mask(self, case: str) -> Path | None:
        """Path of a case's mask; None without."""
        return self.root / self.masks[case] if case in self.masks else None


def add_example(
    folder: Path, case: str | None, images: Images, *, size: int, masked: bool, volume: bool = False
) -> dict[str, str]:
    """Put an example image into the bundle and return its entry of bundle.json; `write_expected` fills it.

    Args:
        case: A phantom's case, whose image is copied; None draws a picture, since no patient's may leave the study.
        size: Side of the networks' input, pixels; a drawn picture is larger.
        masked: Whether the networks look at masks.
        volume: Whether they read volumes.
    """
    place = folder / "example"
    place.mkdir(parents=True, exist_ok=True)
    if case is None and volume:
        entry = {"image": _draw_volume(place)}
    elif case is None:
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


def _draw_volume(place: Path) -> str:
    """Write a drawn chest of 64 x 64 x 48 voxels; return its name."""
    from archbench.datasets.ct_body import FIELD_MM, STEP_MM, draw_body, scanned
    from archbench.datasets.phantom_ct import write_nifti

    streams = [np.random.default_rng(k) for k in range(3)]
    units = scanned(draw_body(streams[0], streams[1], side=64, heart_mm=50.0), streams[2], sharp=False)
    write_nifti(place / "image.nii.gz", units, spacing_mm=(STEP_MM, FIELD_MM / 64, FIELD_MM / 64))
    return "image.nii.gz"


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
    declared = manifest["declared"].to_pylist() if "declared" in manifest.column_names else [None] * len(cases)
    return Images(
        root=Path(root),
        files=dict(zip(cases, manifest["image"].to_pylist(), strict=True)),
        masks={case: mask for case, mask in zip(cases, masks, strict=True) if mask is not None},
        declared={case: Declared.of(json.loads(text)) for case, text in zip(cases, declared, strict=True) if text},
    )


def write_content(folder: Path, content: Mapping[str, Any]) -> None:
    """Write bundle.json, and the arrays of a fitted combination beside it."""
    from archbench_predict.bundle import FORMAT, MASK_FORMAT

    combination = dict(content["combination"])
    fits = combination.get("fits", [])
    if any(isinstance(value, np.ndarray) for fit in fits for value in fit.values()):
        del combination["fits"]
        combination["arrays"] = ARRAYS
        arrays: dict[str, Any] = {
            f"{k}.{name}": np.asarray(value) for k, fit in enumerate(fits) for name, value in fit.items()
        }
        with atomic_path(folder / ARRAYS) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
    content = {**content, "combination": combination}
    number = MASK_FORMAT if content.get("outputs") == "masks" else FORMAT
    write_json(folder / "bundle.json", {"format": number, **content, "versions": library_versions()})
