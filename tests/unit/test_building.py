"""Networks from names: the head's start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from archbench.freezing import set_trainable
from archbench.models.building import build_network, is_new, parameter_stages
from archbench.models.heads import AttendedPool


def test_training_starts_from_nearly_equal_class_probabilities():
    """timm's EfficientNet head started with logits of ±3; a short fine-tuning never unlearned them."""
    torch.manual_seed(0)
    network = build_network("tf_efficientnet_lite0", num_classes=5, image_size=64).eval()
    images = torch.randint(0, 255, (8, 3, 64, 64)).float()
    logits = network(images)
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8) % 5)
    assert abs(float(loss.detach()) - math.log(5)) < 0.2
    weight = dict(network.network.named_parameters())["classifier.weight"]
    assert float(weight.detach().std()) < 0.02


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "convnext_tiny", "swin_tiny_patch4_window7_224", "custom1"]
)
@pytest.mark.parametrize("attention", ["se", "cbam"])
def test_attention_weighs_the_map_before_pooling(name: str, attention: str) -> None:
    """Fault of S2: attention stood behind the pooling, where a map of one cell has nothing to attend to."""
    network = build_network(name, num_classes=3, image_size=64, attention=attention).eval()
    (block,) = [m for m in network.network.modules() if isinstance(m, AttendedPool)]
    seen: list[torch.Size] = []
    block.attention.register_forward_hook(lambda module, args, out: seen.extend([args[0].shape, out.shape]))
    logits = network(torch.randint(0, 256, (2, 3, 64, 64)))
    assert seen[0] == seen[1] and seen[0][1] == network.network.num_features and seen[0][2:] == (2, 2)
    names = [n for n, _ in network.network.named_parameters() if is_new(network, n)]
    assert any(".attention." in n for n in names), "it trains with the head while the backbone is frozen"
    squeeze = next(m for m in block.attention.modules() if isinstance(m, nn.Conv2d))
    assert squeeze.out_channels == pytest.approx(network.network.num_features / 16, abs=4), "reduction 16"
    assert torch.isfinite(logits).all()


def test_attention_changes_the_logits_by_place() -> None:
    """CBAM weighs cells: blanking its spatial gate outside a corner changes what is pooled."""
    network = build_network("resnet18", num_classes=3, image_size=64, attention="cbam").eval()
    images = torch.randint(0, 256, (1, 3, 64, 64))
    before = network(images)
    network.network.global_pool.attention.register_forward_hook(lambda module, args, out: 2 * out)
    assert not torch.allclose(before, network(images))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "biomedclip"])
def test_a_class_token_has_no_map_to_attend_to(name: str) -> None:
    with pytest.raises(ValueError, match="pools no feature map, so attention: se has no place"):
        build_network(name, num_classes=3, image_size=32, attention="se")


def test_the_hidden_head_has_the_published_shape() -> None:
    """S2: pool, dropout, 512, dropout/2, K."""
    network = build_network("resnet18", num_classes=18, image_size=32, head="mlp", dropout=0.3)
    kinds = [type(layer).__name__ for layer in network.network.fc]
    assert kinds == ["Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    first, hidden, _, second, last = network.network.fc
    assert (first.p, second.p) == (0.3, 0.15)
    assert (hidden.in_features, hidden.out_features, last.in_features, last.out_features) == (512, 512, 512, 18)
    assert float(hidden.weight.detach().std()) > 0.02, "only the last layer starts small"


def test_dropout_acts_in_training_alone_and_with_a_frozen_backbone_too() -> None:
    network = build_network("resnet18", num_classes=3, image_size=32, dropout=0.9)
    images = torch.randint(0, 256, (2, 3, 32, 32))
    with torch.no_grad():
        assert torch.equal(network.eval()(images), network(images))
        set_trainable(network, parameter_stages(network), n_open=1)
        assert not torch.equal(network(images), network(images))
        plain = build_network("resnet18", num_classes=3, image_size=32)
        set_trainable(plain, parameter_stages(plain), n_open=1)
        assert torch.equal(plain(images), plain(images))


def test_drop_path_drops_whole_branches() -> None:
    torch.manual_seed(0)
    network = build_network("vit_tiny_patch16_224", num_classes=3, image_size=32, drop_path=0.5)
    rates = [
        float(block.drop_path1.drop_prob) for block in network.network.blocks if hasattr(block.drop_path1, "drop_prob")
    ]
    assert max(rates) == pytest.approx(0.5) and rates == sorted(rates)
    with pytest.raises(ValueError, match=r"custom1 has no residual branches that training\.drop_path"):
        build_network("custom1", num_classes=3, image_size=32, drop_path=0.1)


def test_a_gray_network_takes_one_channel() -> None:
    network = build_network("custom1", num_classes=3, image_size=32, in_channels=1).eval()
    assert network(torch.randint(0, 256, (2, 1, 32, 32))).shape == (2, 3)
    assert network.mean.shape == (1, 1, 1, 1)
