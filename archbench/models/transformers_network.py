"""A transformers backbone with a linear head, in the shape that the rest of the product expects."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archbench import hub


class TransformersNetwork(nn.Module):
    """Backbone and head.

    Attributes:
        config: Content of the config.json that it was built from.
        cam_path: Dotted path of the layer for Grad-CAM.
        num_features: Width of what the head reads.
    """

    def __init__(self, backbone: nn.Module, *, num_features: int, num_classes: int, patch: int | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.config: dict[str, Any] = {}
        self.head = nn.Linear(num_features, num_classes)
        self.num_features = num_features
        self.patch = patch
        self.cam_path = _cam_path(backbone)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of normalised images (B, C, H, W)."""
        output = self.backbone(pixel_values=images)
        logits: torch.Tensor = self.head(self._pool(output, images.shape[-1]))
        return logits

    def _pool(self, output: Any, size: int) -> torch.Tensor:
        """Return features (B, F): the class token where there is one, else the mean of tokens or map."""
        hidden: torch.Tensor = output.last_hidden_state
        if hidden.ndim == 4:
            pooled = getattr(output, "pooler_output", None)
            return hidden.mean((2, 3)) if pooled is None else pooled.flatten(1)
        side = grid_side(hidden.shape[1], size=size, patch=self.patch)
        return hidden[:, 0] if hidden.shape[1] > side * side else hidden.mean(1)


def grid_side(tokens: int, *, size: int, patch: int | None) -> int:
    """Return the side of the grid of tokens: what the patch says, where that fits, else the largest square."""
    side = size // patch if patch else 0
    return side if 0 < side * side <= tokens else math.isqrt(tokens)


def build_backbone(
    config: dict[str, Any], *, num_classes: int, image_size: int, drop_path: float, in_channels: int
) -> TransformersNetwork:
    """Return a backbone of random weights for exactly this input size, with a head of random weights.

    Args:
        config: Content of a config.json.
    """
    from transformers import AutoModel

    sized = {"image_size": image_size} if "image_size" in config else {}
    settings = {**config, **sized, "num_channels": in_channels, "drop_path_rate": drop_path}
    backbone = AutoModel.from_config(read_config(settings))  # type: ignore[no-untyped-call]
    quiet(backbone)
    sizes = backbone.config.to_dict()
    features = sizes.get("hidden_size") or sizes["hidden_sizes"][-1]
    patch = sizes.get("patch_size") if "depths" not in sizes else None
    network = TransformersNetwork(backbone, num_features=int(features), num_classes=num_classes, patch=patch)
    network.config = dict(config)
    return network


def read_config(settings: dict[str, Any]) -> Any:
    """Return transformers' configuration of a config.json's content."""
    from transformers import AutoConfig

    kept = {key: value for key, value in settings.items() if key not in ("model_type", "architectures")}
    return AutoConfig.for_model(settings["model_type"], **kept)


def quiet(backbone: nn.Module) -> None:
    """Take out what no logit depends on: a pooler beside the class token, and the token of masked patches."""
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None and any(True for _ in pooler.parameters()):
        backbone.pooler = None  # type: ignore[assignment]
    for module in list(backbone.modules()):
        token = module._parameters.get("mask_token")
        if token is not None:
            del module._parameters["mask_token"]
            module.register_buffer("mask_token", token.detach())


def hold_fixed(module: nn.Module, names: Iterable[str]) -> None:
    """Turn parameters into buffers of the same names: what no logit depends on, or what must stay as it is."""
    for name in names:
        path, _, own = name.rpartition(".")
        part = module.get_submodule(path)
        kept = part._parameters.pop(own)
        assert kept is not None
        part.register_buffer(own, kept.detach().clone())


def _cam_path(backbone: nn.Module) -> str:
    """Return the path of the layer for Grad-CAM.

    Of tokens, the norm before the last block's attention, since behind it no gradient reaches the patches of a
    network that reads its class token; of maps, the last stage.
    """
    lists = [(name, module) for name, module in backbone.named_modules() if isinstance(module, nn.ModuleList)]
    outer = [(name, module) for name, module in lists if not any(name.startswith(other + ".") for other, _ in lists)]
    path, blocks = max(outer, key=lambda item: len(item[1]))
    if any(isinstance(module, nn.ModuleList) for module in blocks[-1].modules()) or "stages" in path:
        final = [name for name, module in backbone.named_children() if isinstance(module, nn.LayerNorm)]
        tokens = hasattr(backbone.config, "num_heads") and final
        return f"backbone.{final[0]}" if tokens else f"backbone.{path}.-1"
    norm = next((name for name, module in blocks[-1].named_modules() if isinstance(module, nn.LayerNorm)), None)
    return f"backbone.{path}.-1" + (f".{norm}" if norm else "")


def pretrained_tensors(weights: Path, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of a repository's weights file under the names of a TransformersNetwork.

    transformers itself reads them, since it renames those of its files; pickled code is not run.

    Args:
        weights: One file, or the index beside which its parts lie.
        config: Content of the config.json that belongs to the file.
    Raises:
        ValueError: If the file doesn't fit the configuration.
    """
    from transformers import AutoModel

    parts = hub.shard_names(weights) if hub.is_index(weights) else []
    whole = (hub.INDEX_FILES if parts else hub.WEIGHTS_FILES)[".safetensors" not in weights.suffixes]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(weights, Path(folder) / whole)
        for part in parts:
            shutil.copyfile(weights.with_name(part), Path(folder) / part)
        backbone, account = AutoModel.from_pretrained(
            folder, config=read_config(config), local_files_only=True, weights_only=True, output_loading_info=True
        )
    quiet(backbone)
    lost = [name for name in account["missing_keys"] if name in backbone.state_dict()]
    if lost or account["mismatched_keys"]:
        raise ValueError(f"missing {sorted(lost)[:5]}, other shapes {sorted(map(str, account['mismatched_keys']))[:5]}")
    return {f"backbone.{name}": tensor.detach().clone() for name, tensor in backbone.state_dict().items()}
