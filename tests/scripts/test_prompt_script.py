"""The prompts of a model as the later stages read them: of the truth, and given in a CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from archbench.artifacts import ArtifactError, write_json, write_table
from archbench.config import parse_study
from archbench.image_cache import open_cache
from archbench.prompts import PromptError, prompts_of_masks, read_prompts
from scripts import prompts

SIDE, CASES = 32, ("images/a.png", "images/b.png", "images/c.png")


def write_masks(folder: Path) -> None:
    """Three cached pictures of 64 px; the second holds no heart."""
    masks = np.zeros((3, SIDE, SIDE), np.uint8)
    masks[:, 4:12, 6:20] = 1
    masks[::2, 20:28, 2:9] = 2
    cache = folder / "cache"
    cache.mkdir()
    arrays = {"images": np.zeros((3, SIDE, SIDE, 1), np.uint8), "masks": masks}
    arrays["geometry"] = np.tile(np.array([0, 0, 64, 64], np.float32), (3, 1))
    for name, array in arrays.items():
        np.save(cache / f"{name}.npy", array)
    index = {"case_ids": list(reversed(CASES)), "size": SIDE, "clahe": None, "channels": "gray", "masks": True}
    write_json(cache / "index.json", index)
    table = pa.table({"case_id": list(CASES), "height": [64] * 3, "width": [64] * 3})
    write_table(folder / "manifest.parquet", table, {"labels": ["lung", "heart"]})


def make(folder: Path, prompt: dict) -> Path:
    dataset = {"format": "phantom_masks", "task": "segmentation", "phantom": {"patients": 30}}
    model = {"architecture": "sam:facebook/sam-vit-base", "image_size": SIDE, "prompt": prompt}
    study = parse_study({"study": "s", "datasets": {"d": dataset}, "models": {"m": model}}, check_packages=False)
    write_json(folder / "study.json", study.model_dump())
    given = ["--study", "study.json", "--manifest", "manifest.parquet", "--cache", "cache", "--output", "p.parquet"]
    places = [str(folder / word) if k % 2 else word for k, word in enumerate(given)]
    assert prompts.main([*places, "--dataset", "d", "--model", "m"]) == 0
    return folder / "p.parquet"


@pytest.mark.parametrize("kind", ["box", "point"])
def test_the_truths_prompts_in_the_order_of_the_cache(tmp_path: Path, kind: str) -> None:
    write_masks(tmp_path)
    found = read_prompts(make(tmp_path, {"kind": kind}), CASES[::-1], jitter=0.2)
    cached = open_cache(tmp_path / "cache").masks
    assert cached is not None
    np.testing.assert_array_equal(found.values, prompts_of_masks(np.array(cached), structures=2, kind=kind))
    assert (found.kind, found.jitter) == (kind, 0.2)
    assert found.account() == {"kind": kind, "source": "truth", "n_prompts": 5, "n_without": 1}
    with pytest.raises(ArtifactError, match=r"no prompts for 'images/z\.png'"):
        read_prompts(tmp_path / "p.parquet", ["images/z.png"])


def test_given_boxes_are_read_and_bad_ones_refused(tmp_path: Path) -> None:
    write_masks(tmp_path)
    table = tmp_path / "boxes.csv"
    table.write_text("case,structure,x0,y0,x1,y1\na,lung,12,8,39,23\nb,heart,0,0,63,63\n")
    found = read_prompts(make(tmp_path, {"csv": str(table)}), CASES)
    np.testing.assert_allclose(found.values[0, 0], [5.75, 3.75, 19.25, 11.25])
    assert found.values[1, 1].tolist() == [0, 0, 31, 31]
    assert found.account() == {"kind": "box", "source": str(table), "n_prompts": 2, "n_without": 4}
    table.write_text("case,structure,x0,y0,x1,y1\na,lung,12,8,64,23\n")
    with pytest.raises(PromptError, match=r"boxes\.csv line 2: x1 is 64, outside of the image's 0 to 63"):
        make(tmp_path, {"csv": str(table)})
