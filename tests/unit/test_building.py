"""Networks from names: the head's start."""

from __future__ import annotations

import math

import torch

from archbench.models.building import build_network


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
