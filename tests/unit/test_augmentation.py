"""Augmentation: each image its own numbers, repeatable, never mirrored where left and right matter."""

from __future__ import annotations

import pytest
import torch

from archbench.augmentation import STRENGTHS, _affine_grid, _recolour, augment

SIDE = 48


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dotted(n: int) -> torch.Tensor:
    """Grey pictures with a bright spot in the upper left quarter and a red one in the lower left."""
    images = torch.full((n, 3, SIDE, SIDE), 60.0)
    images[:, :, 10:16, 10:16] = 250.0
    images[:, 0, 34:40, 10:16] = 250.0
    return images


def noise(n: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, SIDE, SIDE), generator=generator(9)).float()


def spot(images: torch.Tensor) -> torch.Tensor:
    """Centre (x, y) of the white spot, shape (B, 2), -1 to 1."""
    weight = (images.amin(dim=1) - 150).clamp_min(0)
    axis = torch.linspace(-1, 1, SIDE)
    total = weight.sum(dim=(1, 2))
    assert (total > 0).all()
    return torch.stack([(weight.sum(1) * axis).sum(1) / total, (weight.sum(2) * axis).sum(1) / total], dim=1)


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_each_image_gets_its_own_numbers(strength: str) -> None:
    changed = augment(dotted(16), strength=strength, flips="none", generator=generator())
    flat = changed.flatten(1)
    distances = torch.cdist(flat, flat) + 1e9 * torch.eye(16)
    assert distances.min() > 1.0
    assert not torch.equal(changed, dotted(16))


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_equal_generators_give_equal_images_and_the_next_draw_others(strength: str) -> None:
    source, first, second = noise(), generator(3), generator(3)
    one = augment(source, strength=strength, flips="both", generator=first)
    assert torch.equal(one, augment(source, strength=strength, flips="both", generator=second))
    assert not torch.equal(one, augment(source, strength=strength, flips="both", generator=first))
    assert not torch.equal(one, augment(source, strength=strength, flips="both", generator=generator(4)))


@pytest.mark.parametrize(("flips", "mirrored_x", "mirrored_y"), [("none", 0, 0), ("horizontal", 1, 0), ("both", 1, 1)])
def test_mirroring_is_what_was_asked_for(flips: str, mirrored_x: int, mirrored_y: int) -> None:
    centres = spot(augment(dotted(200), strength="light", flips=flips, generator=generator()))
    share_x, share_y = (centres > 0).float().mean(dim=0).tolist()
    for share, asked in ((share_x, mirrored_x), (share_y, mirrored_y)):
        assert 0.35 < share < 0.65 if asked else share == 0


def test_a_rotation_is_no_reflection() -> None:
    """Seen from the white spot, the red one stays on its side: the sign of the turn is kept without flips."""
    images = dotted(100)
    images[:, :, 10:16, 34:40] = 0.0  # a black spot in the upper right: white, black, red turn clockwise
    changed = augment(images, strength="strong", flips="none", generator=generator())
    axis = torch.linspace(-1, 1, SIDE)

    def centre(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.clamp_min(0)
        total = weight.sum(dim=(1, 2)).clamp_min(1e-3)
        return torch.stack([(weight.sum(1) * axis).sum(1) / total, (weight.sum(2) * axis).sum(1) / total], dim=1)

    white = centre(changed.amin(dim=1) - 120)
    red = centre(changed[:, 0] - changed[:, 1] - 60)
    middle = torch.zeros(100, 2)
    a, b = white - middle, red - middle
    turn = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    usable = (white.abs().sum(1) > 0.1) & (red.abs().sum(1) > 0.1)
    assert usable.sum() > 80
    assert (turn[usable] < 0).all()


@pytest.mark.parametrize("strength", ["none", "light", "strong"])
def test_shape_type_and_range_stay(strength: str) -> None:
    source = torch.cat([noise(4), torch.zeros(2, 3, SIDE, SIDE), torch.full((2, 3, SIDE, SIDE), 255.0)])
    before = source.clone()
    changed = augment(source, strength=strength, flips="both", generator=generator())
    assert changed.shape == source.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0 and changed.max() <= 255
    assert torch.equal(source, before), "the caller's images are left alone"


def test_none_is_the_identity() -> None:
    source = noise()
    assert torch.equal(augment(source, strength="none", flips="both", generator=generator()), source)


def test_light_stays_near_the_picture() -> None:
    centres = spot(augment(dotted(200), strength="light", flips="none", generator=generator()))
    assert (centres - spot(dotted(1))).norm(dim=1).max() < 0.35


def test_saturation_leaves_grey_grey() -> None:
    changed = augment(noise()[:, :1].expand(-1, 3, -1, -1), strength="strong", flips="none", generator=generator())
    torch.testing.assert_close(changed[:, 0], changed[:, 2])


def test_strong_blanks_a_rectangle_in_about_a_quarter() -> None:
    bright = torch.full((400, 3, SIDE, SIDE), 200.0)
    changed = augment(bright, strength="strong", flips="none", generator=generator())
    # Rotation blanks corners, so look at the middle alone.
    middle = changed[:, :, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    share = float((middle == 0).flatten(1).any(dim=1).float().mean())
    assert 0.08 < share < 0.35
    assert STRENGTHS["light"].erase == 0


@pytest.mark.parametrize("size", [(7, 7), (6, 11)])
def test_the_grid_is_torchs(size: tuple[int, int]) -> None:
    matrices = torch.randn(5, 2, 3, generator=generator())
    theirs = torch.nn.functional.affine_grid(matrices, [5, 3, *size], align_corners=False)
    torch.testing.assert_close(_affine_grid(matrices, height=size[0], width=size[1]), theirs)


def test_the_colour_step_by_hand() -> None:
    """Each image about its own mean; the numbers are drawn in the order brightness, contrast, saturation."""
    bounds, images = STRENGTHS["strong"], noise()
    drawn, limits = generator(), (bounds.brightness, bounds.contrast, bounds.saturation)
    factors = [1 + (2 * torch.rand(len(images), generator=drawn) - 1) * limit for limit in limits]
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in factors)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    expected = (images - mean) * contrast + mean * brightness
    gray = expected.mean(dim=1, keepdim=True)
    expected = (gray + (expected - gray) * saturation).clamp(0, 255)
    torch.testing.assert_close(_recolour(images.clone(), bounds, generator()), expected, atol=1e-3, rtol=0)


def test_unknown_strength_is_an_error() -> None:
    with pytest.raises(KeyError):
        augment(noise(), strength="wild", flips="none", generator=generator())
