"""Write the prompts of a prompted model: boxes or points of the true masks, or those of a CSV, checked row by row.

python scripts/prompts.py --study study.yaml --dataset chest --model sam --manifest … --cache … --output prompts.parquet
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from archbench.artifacts import provenance, read_table, write_table
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study
from archbench.image_cache import open_cache
from archbench.prompts import COORDINATES, TRUTH, PromptedCase, Prompts, prompts_of_masks, read_given

if TYPE_CHECKING:
    import argparse

    from archbench.image_cache import ImageCache


def main(argv: list[str] | None = None) -> int:
    """Parse, make the prompts, write them."""
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--output", required=True, help="table to write (parquet)")
    arguments = parser.parse_args(argv)
    label_progress(f"prompts {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    cache = open_cache(arguments.cache)
    _, metadata = read_table(arguments.manifest)
    structures = list(metadata["labels"])
    found = _prompts(study, arguments, cache, structures)
    _write(study, arguments, cache, structures, found)
    told = found.account()
    print(f"{told['n_prompts']} prompts ({told['kind']}, {told['source']}), {told['n_without']} structures without one")
    return 0


def _prompts(study: Study, arguments: argparse.Namespace, cache: ImageCache, structures: list[str]) -> Prompts:
    settings = study.prompt_of(arguments.model)
    assert settings is not None and cache.masks is not None
    if settings.csv is None:
        values = prompts_of_masks(cache.masks, structures=len(structures), kind=settings.kind)
        return Prompts(settings.kind, values, TRUTH)
    table, _ = read_table(arguments.manifest)
    columns = (table[name].to_pylist() for name in ("case_id", "height", "width"))
    shapes = {case: (int(height), int(width)) for case, height, width in zip(*columns, strict=True)}
    cases = [
        PromptedCase(case, shapes[case], tuple(box))
        for case, box in zip(cache.case_ids, cache.geometry.tolist(), strict=True)
    ]
    values = read_given(Path(settings.csv), cases, structures=structures, kind=settings.kind, size=cache.size)
    return Prompts(settings.kind, values, settings.csv)


def _write(
    study: Study, arguments: argparse.Namespace, cache: ImageCache, structures: list[str], found: Prompts
) -> None:
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"case_id": pa.array(list(cache.case_ids), pa.string())}
    for k, structure in enumerate(structures):
        for j, name in enumerate(COORDINATES[found.kind]):
            columns[f"{structure}:{name}"] = pa.array(found.values[:, k, j], pa.float32(), from_pandas=True)
    origin = provenance(
        study=study.study,
        dataset=arguments.dataset,
        model=arguments.model,
        config_hash=study.hash,
        code=arguments.code,
    )
    write_table(
        arguments.output, pa.table(columns), {"provenance": origin, "structures": structures, **found.account()}
    )


if __name__ == "__main__":
    run(main)
