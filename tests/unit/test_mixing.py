"""MixUp and CutMix: pixels, shares and losses belong together, whatever the targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import run, tiny_network

from archbench.losses.loss import LossNumbers
from archbench.mixing import Mix, blend, draw_mix
from archbench.registry import LOSSES

SIDE, B = 16, 32
NAN = float("nan")


def draw(seed: int = 0, **asked: float) -> Mix:
    settings = {"mixup": 0.0, "cutmix": 0.0, **asked}
    mix = draw_mix(B, **settings, size=SIDE, generator=np.random.default_rng(seed))
    assert mix is not None
    return mix


def painted() -> torch.Tensor:
    """Each image has its own even value."""
    return torch.arange(B, dtype=torch.float32).view(B, 1, 1, 1).expand(B, 3, SIDE, SIDE) * 10


def test_nothing_is_drawn_when_both_are_off() -> None:
    generator = np.random.default_rng(0)
    assert draw_mix(B, mixup=0, cutmix=0, size=SIDE, generator=generator) is None
    assert generator.random() == np.random.default_rng(0).random()


def test_mixup_blends_by_its_share() -> None:
    mix = draw(mixup=0.4)
    mixed = mix.images(painted())[:, 0, 0, 0]
    expected = 10 * (mix.share * torch.arange(B) + (1 - mix.share) * mix.partner)
    torch.testing.assert_close(mixed, expected)
    assert (mix.share >= 0).all() and (mix.share <= 1).all() and mix.share.std() > 0.1


def test_cutmix_counts_the_pixels_that_it_pasted() -> None:
    mix = draw(cutmix=1.0)
    mixed = mix.images(painted())
    own = (mixed[:, 0] == painted()[:, 0]).float().mean(dim=(1, 2))
    moved = mix.partner != torch.arange(B)
    torch.testing.assert_close(own[moved], mix.share[moved])
    pasted = mixed[:, 0] != painted()[:, 0]
    for k in torch.nonzero(moved)[:, 0].tolist():
        assert (mixed[k, 0][pasted[k]] == 10 * float(mix.partner[k])).all()
        rows, columns = pasted[k].any(dim=1).sum(), pasted[k].any(dim=0).sum()
        assert pasted[k].sum() == rows * columns, "one rectangle"


def test_both_take_turns() -> None:
    kinds = {draw(seed, mixup=0.2, cutmix=1.0).boxes is None for seed in range(20)}
    assert kinds == {True, False}


@pytest.mark.parametrize("loss", ["weighted_cross_entropy", "focal", "cumulative_link"])
def test_class_losses_are_summed_by_their_shares(loss: str) -> None:
    mix = draw(mixup=0.4)
    weights = torch.tensor([0.5, 1.0, 3.0])
    function = LOSSES.get(loss).build(LossNumbers(num_classes=3, weights=weights if "weighted" in loss else None))
    logits = torch.randn(B, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 3, (B, 1), generator=torch.Generator().manual_seed(1)).float()
    values = blend(mix, lambda t: function.cells(logits, t), targets)[:, 0]
    for k in range(B):
        own, other = (function.cells(logits[k : k + 1], targets[i : i + 1])[0, 0] for i in (k, int(mix.partner[k])))
        torch.testing.assert_close(values[k], mix.share[k] * own + (1 - mix.share[k]) * other)


def test_a_mixed_unknown_cell_counts_for_the_known_part_alone() -> None:
    mix = Mix(partner=torch.tensor([1, 0]), share=torch.tensor([0.3, 0.8]), boxes=None)
    function = LOSSES.get("bce").build(LossNumbers(outputs="labels"))
    targets = torch.tensor([[1.0, NAN], [NAN, NAN]])
    logits = torch.zeros(2, 2)
    torch.testing.assert_close(blend(mix, function.weights, targets), torch.tensor([[0.3, 0.0], [0.2, 0.0]]))
    values = blend(mix, lambda t: function.cells(logits, t), targets)
    torch.testing.assert_close(values, torch.tensor([[0.3, 0.0], [0.2, 0.0]]) * np.log(2))


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_a_training_with_mixing_differs_and_repeats(tmp_path: Path, changes: dict[str, float]) -> None:
    plain = run(tmp_path / "a", epochs=2)
    mixed = run(tmp_path / "b", epochs=2, **changes)
    again = run(tmp_path / "c", network=tiny_network(), epochs=2, **changes)
    assert mixed.figures != plain.figures
    assert mixed.figures == again.figures
