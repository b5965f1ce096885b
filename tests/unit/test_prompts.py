"""Prompts: from masks, moved in training, given in a CSV with every bad row named, declared in the results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archbench.config import ConfigError, parse_study
from archbench.prompts import (
    PromptedCase,
    PromptError,
    Prompts,
    names_of,
    prompts_of_masks,
    read_given,
    training_prompts,
)

SIDE = 40


def masks() -> np.ndarray:
    labels = np.zeros((2, SIDE, SIDE), np.uint8)
    labels[0, 5:15, 10:30] = 1
    labels[0, 20:30, 2:5] = 2
    labels[1, 30:40, 0:11] = 2
    return labels


def test_boxes_enclose_and_points_lie_deepest() -> None:
    boxes = prompts_of_masks(masks(), structures=2, kind="box")
    assert boxes[0].tolist() == [[10, 5, 29, 14], [2, 20, 4, 29]]
    assert np.isnan(boxes[1, 0]).all() and boxes[1, 1].tolist() == [0, 30, 10, 39]
    points = prompts_of_masks(masks(), structures=2, kind="point")
    assert points.shape == (2, 2, 2) and np.isnan(points[1, 0]).all()
    x, y = points[0, 0]
    assert 14 <= x <= 25 and y in (9, 10)
    assert points[0, 1, 0] == 3


def test_jitter_moves_within_its_share_and_the_image() -> None:
    exact = prompts_of_masks(masks(), structures=2, kind="box")
    generator = np.random.default_rng(0)
    moved = np.stack(
        [training_prompts(masks(), structures=2, kind="box", jitter=0.2, generator=generator) for _ in range(50)]
    )
    assert np.isnan(moved[:, 1, 0]).all()
    gap = np.abs(moved - exact)[:, 0, 0]
    assert gap[:, [0, 2]].max() <= 0.2 * 20 and gap[:, [1, 3]].max() <= 0.2 * 10 and gap.mean() > 0.5
    assert np.nanmin(moved) >= 0 and np.nanmax(moved) <= SIDE - 1
    assert (moved[:, 0, :, 0] <= moved[:, 0, :, 2]).all() and (moved[:, 0, :, 1] <= moved[:, 0, :, 3]).all()
    still = training_prompts(masks(), structures=2, kind="point", jitter=0.0, generator=generator)
    np.testing.assert_array_equal(still, prompts_of_masks(masks(), structures=2, kind="point"))


CASES = [
    PromptedCase("images/a.png", (80, 100), (10.0, 0.0, 90.0, 80.0)),
    PromptedCase("images/b.nii.gz", (40, 40), (0.0, 0.0, 40.0, 40.0)),
    PromptedCase("other/b.nii.gz", (40, 40), (0.0, 0.0, 40.0, 40.0)),
]


def given(folder: Path, text: str, kind: str = "box") -> np.ndarray:
    (folder / "p.csv").write_text(text)
    return read_given(folder / "p.csv", CASES, structures=["lung", "heart"], kind=kind, size=SIDE)


def test_given_boxes_come_into_the_pixels_of_the_cache(tmp_path: Path) -> None:
    values = given(tmp_path, "case,structure,x0,y0,x1,y1\na,heart,10,0,89,79\nimages/b,lung,1,2,3,4\n")
    np.testing.assert_allclose(values[0, 1], [-0.25 + 0.25, 0, 39, 39], atol=0.3)
    assert values[1, 0].tolist() == [1, 2, 3, 4]
    assert np.isnan(values[0, 0]).all() and np.isnan(values[2]).all()
    told = Prompts("box", values, "p.csv").account()
    assert told == {"kind": "box", "source": "p.csv", "n_prompts": 2, "n_without": 4}
    points = given(tmp_path, "case,structure,x,y\nother/b.nii.gz,lung,7,8\n", kind="point")
    assert points[2, 0].tolist() == [7, 8]
    assert names_of("images/b.nii.gz") == {"images/b.nii.gz", "images/b", "b"}


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    rows = (
        "case,structure,x0,y0,x1,y1\n"
        "a,lung,1,1,5,5\n"
        "c,lung,1,1,5,5\n"
        "b,lung,1,1,5,5\n"
        "a,liver,1,1,5,5\n"
        "a,heart,9,1,5,5\n"
        "a,lung,1,1,5,5\n"
        "images/b,lung,1,1,five,5\n"
        "images/b,heart,1,1,40,5\n"
    )
    with pytest.raises(PromptError) as caught:
        given(tmp_path, rows)
    told = str(caught.value)
    assert "7 problems" in told and "line 2:" not in told
    for words in (
        "line 3: case 'c' is no case of this dataset",
        "line 4: case 'b' stands for 2 cases: write its whole path",
        "line 5: structure 'liver' is none of lung, heart",
        "line 6: the box [9.0, 1.0, 5.0, 5.0] is empty",
        "line 7: a, lung has a prompt in line 2 already: keep one",
        "line 8: x1 is 'five': it must be a number",
        "line 9: x1 is 40, outside of the image's 0 to 39",
    ):
        assert words in told
    with pytest.raises(PromptError, match=r"line 1: no column x, y; a point needs case, structure, x, y"):
        given(tmp_path, rows, kind="point")
    with pytest.raises(PromptError, match="no row below its header"):
        given(tmp_path, "case,structure,x0,y0,x1,y1\n")


def study(model: dict, **more: object) -> dict:
    dataset = {"format": "phantom_masks", "task": "segmentation", "phantom": {"patients": 30}}
    return {"study": "s", "datasets": {"d": dataset}, "models": {"m": model}, **more}


SAM = "sam:facebook/sam-vit-base"


def test_published_weights_are_evaluated_where_the_rule_puts_them() -> None:
    found = parse_study(study({"architecture": SAM, "checkpoint": "hub"}), check_packages=False)
    assert found.models["m"].checkpoint == "results/cache/weights/sam-facebook-sam-vit-base-hub.safetensors"
    again = parse_study(found.model_dump(), check_packages=False)
    assert again.models["m"].checkpoint == found.models["m"].checkpoint
    prompt = found.prompt_of("m")
    assert prompt is not None and (prompt.kind, prompt.csv) == ("box", None)


@pytest.mark.parametrize(
    ("model", "more", "words"),
    [
        ({"architecture": "unet", "prompt": {"kind": "box"}}, {}, r"m\.prompt: unet takes no prompt"),
        ({"architecture": "unet", "checkpoint": "hub"}, {}, r"m\.checkpoint: no file 'hub'"),
        ({"architecture": SAM, "prompt": {"csv": "gone.csv"}}, {}, r"prompt\.csv: no file 'gone\.csv'"),
        ({"architecture": SAM, "checkpoint": "hub", "prompt": {"jitter": 0.3}}, {}, r"prompt\.jitter: has no effect"),
        ({"architecture": SAM, "training": {"mixup": 0.4}}, {}, r"training\.mixup: a prompt asks for one image"),
        ({"architecture": SAM}, {"training": {"cutmix": 0.4}}, r"training\.cutmix: a prompt asks for one image"),
        ({"architecture": SAM}, {"inference": {"runtimes": ["onnxruntime"]}}, r"none could be timed: add torch"),
        ({"architecture": SAM, "image_size": 100}, {}, "no multiple of the patch size 16"),
    ],
)
def test_what_a_prompted_model_cannot_be(model: dict, more: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_study(study(model, **more), check_packages=False)
