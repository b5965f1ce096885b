"""DenseNet (Huang et al., 2017), as in timm, and CheXNet, a DenseNet-121 that has learned from chest X-rays."""

from __future__ import annotations

from archbench.models.architecture import IMAGENET_MEAN_STD, Architecture, Preset, WeightSource, timm_builder
from archbench.registry import ARCHITECTURES

PAPER = "Huang et al., Densely Connected Convolutional Networks, CVPR 2017"
CHEXNET_PAPER = "Rajpurkar et al., CheXNet, arXiv:1711.05225, 2017; " + PAPER
CHEXNET_DEMANDS = (
    "CheXNet is a DenseNet-121 with chest X-ray weights: name their file as weights: file:<path>, or a checkpoint. "
    "From random or ImageNet weights it would be no CheXNet but densenet121, which has a name of its own"
)
# Files of early torchvision split the names of layers inside a block (norm.1); CheXNet files wrap the head.
OLD_NAMES = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."), (r"classifier\.0\.", "classifier."))


def _densenet(
    name: str,
    *,
    weights: dict[str, WeightSource],
    paper: str = PAPER,
    lr: float = 1e-3,
    demands: str = "",
) -> Architecture:
    return Architecture(
        build=timm_builder(name, branches=False),
        family="DenseNet",
        image_size=224,
        mean_std=IMAGENET_MEAN_STD,
        head="classifier",
        cam_layer="features.norm5",
        finer_cam_layers=(("features.denseblock3", 16), ("features.denseblock2", 8)),
        paper=paper,
        preset=Preset(lr=lr, batch_size=32),
        drop_path=False,
        weights=weights,
        demands=demands,
        renames=OLD_NAMES,
    )


def _imagenet(model: str) -> dict[str, WeightSource]:
    return {"imagenet": WeightSource(location=model, licence="Apache-2.0")}


ARCHITECTURES.register("densenet121", _densenet("densenet121", weights=_imagenet("densenet121.ra_in1k")))
ARCHITECTURES.register("densenet169", _densenet("densenet169", weights=_imagenet("densenet169.tv_in1k")))
ARCHITECTURES.register("densenet201", _densenet("densenet201", weights=_imagenet("densenet201.tv_in1k")))
ARCHITECTURES.register(
    "chexnet", _densenet("densenet121", weights={}, paper=CHEXNET_PAPER, lr=1e-4, demands=CHEXNET_DEMANDS)
)
