"""Grad-CAM: never silent, never blank for want of a map, and lesion hits by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_cases import CLASSES, FOLDS, SIDE, make_cases, random_predictions

from archbench import explain as explain_module
from archbench.artifacts import Predictions
from archbench.cases import Cases
from archbench.explain import (
    ExplainError,
    Explanation,
    choose_cases,
    explain,
    lesion_hit_record,
    write_pictures,
)
from archbench.image_cache import ImageCache
from archbench.models.building import NormalizedNetwork, build_network, cam_layer, cam_maps
from archbench.models.weights import save_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return make_cases(tmp_path_factory.mktemp("cases"))


def network(architecture: str = "custom1", seed: int = 0) -> NormalizedNetwork:
    torch.manual_seed(seed)
    return build_network(architecture, num_classes=len(CLASSES), image_size=SIDE).eval()


def run(folder: Path, cases: Cases, net: NormalizedNetwork, *, n: int = 4) -> list[Explanation]:
    save_weights(net.network, folder / "w.safetensors")
    chosen = choose_cases(random_predictions(cases), n, seed=1)
    paths = {(fold, 42): folder / "w.safetensors" for fold in range(FOLDS)}
    return explain(net, paths, chosen, cases, device=CPU)


def test_each_case_is_explained_by_its_own_folds_network(tmp_path: Path, cases: Cases) -> None:
    chosen = choose_cases(random_predictions(cases), 6, seed=1)
    paths = {}
    for fold in range(FOLDS):
        paths[fold, 42] = tmp_path / f"{fold}.safetensors"
        save_weights(network(seed=fold).network, paths[fold, 42])
    items = explain(network(), paths, chosen, cases, device=CPU)
    assert len(items) == 6
    for item in items:
        assert item.case_id in cases.part(item.fold, "test").case_ids
        row = cases.cache.rows([item.case_id])[0]
        np.testing.assert_array_equal(item.image, cases.cache.images[row])
        with_own = run_one(network(seed=item.fold), item.image, item.predicted)
        np.testing.assert_allclose(item.heatmap, with_own, atol=1e-4)


def run_one(net: NormalizedNetwork, image: np.ndarray, target: int) -> np.ndarray:
    """Grad-CAM by its definition: relu of the gradient-weighted sum of maps, scaled to 0..1, enlarged, scaled."""
    kept: list[torch.Tensor] = []
    handle = cam_layer(net).register_forward_hook(lambda module, args, out: kept.append(out))
    batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    logit = net(batch)[0, target]
    (gradient,) = torch.autograd.grad(logit, kept[0])
    handle.remove()
    weighted = (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(1)[0].clamp_min(0).detach().numpy()
    enlarged = np.asarray(cv2.resize(scaled(weighted), (image.shape[1], image.shape[0])))
    return scaled(enlarged)


def scaled(values: np.ndarray) -> np.ndarray:
    """To 0..1; grad-cam does so before and after it enlarges a map."""
    values = values - values.min()
    return np.asarray(values / (1e-7 + values.max()))


def test_explanations_carry_truth_and_prediction(tmp_path: Path, cases: Cases) -> None:
    predictions = random_predictions(cases)
    for item in run(tmp_path, cases, network(), n=100):
        row = predictions.case_id.tolist().index(item.case_id)
        assert item.true == predictions.targets[row, 0]
        assert item.predicted == predictions.logits[row].argmax()
        shares = np.exp(predictions.logits[row]) / np.exp(predictions.logits[row]).sum()
        assert item.probability == pytest.approx(shares.max(), rel=1e-5)
        assert (item.cam_max_in_lesion is None) == (int(item.case_id[4:]) % 2 == 0)


def test_tokens_of_a_vit_become_a_map(tmp_path: Path) -> None:
    cases = make_cases(tmp_path, side=64)
    torch.manual_seed(0)
    net = build_network("vit_tiny_patch16_224", num_classes=len(CLASSES), image_size=64).eval()
    items = run(tmp_path, cases, net, n=4)
    assert len(items) == 4
    for item in items:
        assert item.heatmap.shape == (64, 64)
    assert max(float(item.heatmap.std()) for item in items) > 0.05, "a map that says nothing"


def test_token_order_is_row_by_row() -> None:
    torch.manual_seed(0)
    net = build_network("vit_tiny_patch16_224", num_classes=3, image_size=64)
    tokens = torch.arange(17.0).view(1, 17, 1)
    grid = cam_maps(net, tokens)
    assert grid.shape == (1, 1, 4, 4)
    assert grid[0, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], [13, 14, 15, 16]]


@pytest.mark.parametrize("error", [RuntimeError, IndexError, ValueError])
def test_a_failing_layer_fails_the_job(
    tmp_path: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Fault of S0: Grad-CAM failed silently. The library itself swallows IndexError."""
    net = network()

    def fail(*args: Any) -> None:
        raise error("the layer is broken")

    cam_layer(net).register_forward_hook(fail)
    with pytest.raises((error, ExplainError)):
        run(tmp_path, cases, net)


def test_a_map_that_is_not_finite_fails_the_job(tmp_path: Path, cases: Cases) -> None:
    net = network()
    cam_layer(net).register_forward_hook(lambda module, args, out: out * float("nan"))
    with pytest.raises(ExplainError, match=r"Grad-CAM of case\d\d is not finite \(custom1\)"):
        run(tmp_path, cases, net)


def test_a_layer_that_is_not_part_of_the_answer_fails_the_job(tmp_path: Path, cases: Cases) -> None:
    net = network()
    cam_layer(net).register_forward_hook(lambda module, args, out: out.detach())
    with pytest.raises((AttributeError, RuntimeError)):  # of the library: there is no gradient
        run(tmp_path, cases, net)


# Lesion hits


def cache_of(box: tuple[float, float, float, float], size: int = 56) -> ImageCache:
    blank = np.zeros((1, size, size, 3), np.uint8)
    return ImageCache(blank, None, np.array([box], np.float32), ("case",), size)


def peak_at(x: int, y: int, size: int = 56) -> np.ndarray:
    heatmap = np.zeros((size, size), np.float32)
    heatmap[y, x] = 1.0
    return heatmap


def hit(x: int, y: int, lesions: Any, cache: ImageCache) -> bool | None:
    return explain_module._lesion_hit(peak_at(x, y, cache.size), lesions, cache, 0)[0]


LESION = [{"x": 130.0, "y": 60.0, "radius": 10.0, "kind": "spot"}]


def test_lesion_hit_by_hand() -> None:
    # The box 100..212 x 20..132 becomes 56 px: half size. The lesion lies at (15, 20), radius 5, slack 2.
    cache = cache_of((100, 20, 212, 132))
    assert hit(15, 20, LESION, cache) is True
    assert hit(21, 20, LESION, cache) is True  # 6.5 px away, within 5 + 2
    assert hit(22, 20, LESION, cache) is False  # 7.5 px away
    assert hit(20, 15, LESION, cache) is False  # x and y in each other's place


def test_axes_are_not_swapped() -> None:
    lesions = [{"x": 44.0, "y": 8.0, "radius": 2.0, "kind": "spot"}]
    cache = cache_of((0, 0, 56, 56))
    assert hit(44, 8, lesions, cache) is True
    assert hit(8, 44, lesions, cache) is False


def test_any_lesion_counts_and_none_is_no_verdict() -> None:
    cache = cache_of((0, 0, 56, 56))
    two = [{"x": 5.0, "y": 5.0, "radius": 2.0}, {"x": 50.0, "y": 50.0, "radius": 2.0}]
    assert hit(50, 50, two, cache) is True and hit(5, 5, two, cache) is True and hit(28, 28, two, cache) is False
    assert explain_module._lesion_hit(peak_at(1, 1), None, cache, 0) == (None, None)
    assert explain_module._lesion_hit(peak_at(1, 1), [], cache, 0) == (None, None)


def test_an_empty_map_hits_nothing() -> None:
    cache = cache_of((0, 0, 56, 56))
    everywhere = [{"x": 28.0, "y": 28.0, "radius": 100.0}]
    assert explain_module._lesion_hit(np.zeros((56, 56)), everywhere, cache, 0) == (False, 1.0)


def test_chance_is_the_area_of_the_lesions() -> None:
    cache = cache_of((0, 0, 56, 56))
    lesions = [{"x": 28.0, "y": 28.0, "radius": 8.0}]
    area = explain_module._lesion_hit(peak_at(1, 1), lesions, cache, 0)[1]
    assert area == pytest.approx(np.pi * 10**2 / 56**2, rel=0.03)


def explanation(hit: bool | None, area: float | None) -> Explanation:
    blank = np.zeros((8, 8), np.float32)
    return Explanation("c", "p", 0, 1, 2, 0.5, blank, np.zeros((8, 8, 3), np.uint8), hit, area)


def test_hit_record_counts_cases_with_lesions_alone() -> None:
    items = [explanation(True, 0.1), explanation(False, 0.2), explanation(True, 0.3), explanation(None, None)]
    record = lesion_hit_record(items, confidence=0.95)
    assert record is not None
    assert (record["value"], record["n_cases"]) == (pytest.approx(2 / 3), 3)
    assert record["chance"] == pytest.approx(0.2)
    assert record["low"] < 2 / 3 < record["high"]
    assert lesion_hit_record([explanation(None, None)], confidence=0.95) is None


# Which cases


def test_all_models_explain_the_same_cases(cases: Cases) -> None:
    one, other = random_predictions(cases), random_predictions(cases, rng=9)
    shuffled = other.select(np.random.default_rng(3).permutation(len(other)))
    assert choose_cases(one, 7, seed=1).case_id.tolist() == choose_cases(shuffled, 7, seed=1).case_id.tolist()
    assert choose_cases(one, 7, seed=1).case_id.tolist() != choose_cases(one, 7, seed=2).case_id.tolist()


def test_chosen_cases_are_known_distinct_and_of_one_seed(cases: Cases) -> None:
    first, second = random_predictions(cases, seed=7), random_predictions(cases, seed=3)
    names = ("case_id", "patient_id", "split", "fold", "seed", "logits", "targets")
    columns = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    both = Predictions(**columns, classes=CLASSES, labels=("grade",))
    chosen = choose_cases(both, 1000, seed=0)
    assert set(chosen.seed) == {3}
    assert len(set(chosen.case_id)) == len(chosen) == 23, "24 cases, one without a grade"
    assert "case05" not in chosen.case_id


def test_validation_cases_serve_where_nothing_is_tested(cases: Cases) -> None:
    predictions = random_predictions(cases)
    untested = replace(predictions, split=np.full(len(predictions), "val"))
    assert len(choose_cases(untested, 5, seed=1)) == 5
    mixed = replace(predictions, split=np.where(predictions.fold == 0, "val", "test"))
    assert set(choose_cases(mixed, 50, seed=1).split) == {"test"}


# Pictures


def test_pictures_show_original_heat_and_both(tmp_path: Path) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0] = 200  # red, to see that channels are not swapped
    heatmap = np.zeros((8, 8), np.float32)
    heatmap[:, 4:] = 1.0
    item = replace(explanation(None, None), image=image, heatmap=heatmap)
    names = write_pictures([item, item], tmp_path / "gradcam")
    assert names[0].keys() == {"original", "heatmap", "overlay"}
    assert len({name for files in names for name in files.values()}) == 6
    pictures = {kind: cv2.imread(str(tmp_path / "gradcam" / name))[..., ::-1] for kind, name in names[0].items()}
    assert {picture.shape for picture in pictures.values()} == {(320, 320, 3)}
    assert pictures["original"].mean(axis=(0, 1)) == pytest.approx([200, 0, 0], abs=1)
    left, right = (pictures["heatmap"][160, x].astype(int) for x in (20, 300))
    assert right.sum() > left.sum() + 100
    expected = 0.55 * pictures["original"] + 0.45 * pictures["heatmap"].astype(float)
    np.testing.assert_allclose(pictures["overlay"], expected, atol=1.5)
