"""The masks of a study's models joined with their truth: pictures case by case, slices put together into volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archbench.artifacts import ArtifactError, read_json, read_table
from archbench.mask_pairs import MaskCase
from archbench.mask_stacks import write_stack

Row = Mapping[str, Any]
Masks = Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]  # by model, seed and case


@dataclass(frozen=True)
class Tested:
    """The cases that every model was tested on.

    Attributes:
        cases: With the mask file of each model, once for each seed.
        images, spacings_mm: By case; without a spacing there is none.
        folds: Fold in which a case was tested.
        seconds: Of inference, by model, case and seed.
        memory_mib: Peak memory of each model's prediction job.
        slices: Of volumes their single slices, once for each seed; empty of pictures.
        volumes: The volume that a slice was cut from.
        prompts: What each model was told beside the image; None for nothing.
    """

    cases: list[MaskCase]
    images: dict[str, Path]
    spacings_mm: dict[str, tuple[float, ...]]
    folds: dict[str, int]
    seconds: dict[tuple[str, str, int], float]
    memory_mib: dict[str, float | None]
    structures: tuple[str, ...]
    phantom: bool
    slices: list[MaskCase]
    volumes: dict[str, str]
    prompts: dict[str, dict[str, Any] | None]

    @property
    def seeds(self) -> list[int]:
        """Training seeds."""
        return sorted({case.seed for case in self.cases})


def read_tested(manifest: Path, folders: Mapping[str, str], scratch: Path) -> Tested:
    """Join the manifest and the masks of every model by case; slices become the volumes that they were cut from.

    Args:
        folders: What the rule segment wrote of each model.
        scratch: Folder for the volumes.
    Raises:
        ArtifactError: If the models were tested on different cases or with different seeds.
    """
    table, metadata = read_table(manifest)
    indices = {model: read_json(Path(folder) / "index.json") for model, folder in folders.items()}
    masks = {model: _by_seed(index["masks"]) for model, index in indices.items()}
    root = Path(metadata["root"])
    groups = _groups(table.drop_columns(["lesions"]).to_pylist(), masks)
    first = next(iter(next(iter(masks.values())).values()))

    def file(name: str, kind: str, paths: list[Path]) -> Path:
        return write_stack(scratch / kind / f"{name}.tif", paths) if len(paths) > 1 else paths[0]

    def of_model(name: str, model: str, seed: int) -> Path:
        paths = [Path(folders[model]) / masks[model][seed][row["case_id"]]["file"] for row in groups[name]]
        return file(name, f"model-{model}-seed{seed}", paths)

    truths = {name: file(name, "truth", [root / row["mask"] for row in rows]) for name, rows in groups.items()}
    return Tested(
        cases=[
            MaskCase(
                name=name,
                patient=rows[0]["patient_id"],
                truth=truths[name],
                predictions={model: of_model(name, model, seed) for model in masks},
                seed=seed,
            )
            for seed in next(iter(masks.values()))
            for name, rows in groups.items()
        ],
        images={name: file(name, "images", [root / row["image"] for row in rows]) for name, rows in groups.items()},
        spacings_mm={name: _spacing(rows) for name, rows in groups.items() if rows[0].get("row_mm")},
        folds={name: int(first[rows[0]["case_id"]]["fold"]) for name, rows in groups.items()},
        seconds={
            (model, name, seed): sum(of_seed[row["case_id"]]["seconds"] for row in rows)
            for model, seeds in masks.items()
            for seed, of_seed in seeds.items()
            for name, rows in groups.items()
        },
        memory_mib={model: index["peak_memory_mib"] for model, index in indices.items()},
        structures=tuple(metadata["labels"]),
        phantom=bool(metadata.get("phantom")),
        slices=_slices(groups, masks, folders, root),
        volumes={row["case_id"]: name for name, rows in groups.items() for row in rows if row.get("volume")},
        prompts={model: index.get("prompt") for model, index in indices.items()},
    )


def _by_seed(entries: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Mapping[str, Any]]]:
    found: dict[int, dict[str, Mapping[str, Any]]] = {}
    for entry in sorted(entries, key=lambda entry: int(entry["seed"])):
        found.setdefault(int(entry["seed"]), {})[entry["case"]] = entry
    return found


def _groups(rows: Sequence[dict[str, Any]], masks: Masks) -> dict[str, list[dict[str, Any]]]:
    """The tested rows of the manifest by volume, of pictures by case, in the order of their slices."""
    first = next(iter(masks))
    tested = {model: {seed: set(of_seed) for seed, of_seed in seeds.items()} for model, seeds in masks.items()}
    reference = next(iter(tested[first].values()), set())
    for model, seeds in tested.items():
        if list(seeds) != list(tested[first]) or any(cases != reference for cases in seeds.values()):
            raise ArtifactError(f"{model} and {first} were not tested on the same cases: run the rule segment again")
    if not reference:
        raise ArtifactError("no case was tested: the folds have no test part, which masks are scored on")
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: str(row["case_id"])):
        if row["case_id"] in reference:
            groups.setdefault(row.get("volume") or row["case_id"], []).append(row)
    return groups


def _slices(
    groups: Mapping[str, Sequence[Row]], masks: Masks, folders: Mapping[str, str], root: Path
) -> list[MaskCase]:
    """The slices of volumes one by one, once for each seed."""
    return [
        MaskCase(
            name=row["case_id"],
            patient=row["patient_id"],
            truth=root / row["mask"],
            predictions={model: Path(folders[model]) / masks[model][seed][row["case_id"]]["file"] for model in masks},
            seed=seed,
        )
        for seed in next(iter(masks.values()))
        for rows in groups.values()
        for row in rows
        if row.get("volume")
    ]


def _spacing(rows: Sequence[Row]) -> tuple[float, ...]:
    """Along the axes of a case's mask: rows and columns, of several slices these before them."""
    plane = (rows[0]["row_mm"], rows[0]["column_mm"])
    return plane if len(rows) == 1 else (rows[0]["slice_mm"], *plane)
