"""SAM's image encoder, prompt encoder and mask decoder as a network of classes (torch)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from archbench.models.transformers_network import hold_fixed

PASS_BYTES = 2 * 2**30
BYTES_PER_PAIR = 12  # positions, scores and their softmax, of four bytes
ABSENT = -30.0  # logit of a structure that no prompt asks for: nothing is drawn, and no gradient passes


class SamNetwork(nn.Module):
    """Logits of each structure's mask, 0 for the background; one prompt a structure.

    With one structure the softmax of both is SAM's own sigmoid, cut at one half as SAM does. Of the masks that the
    decoder offers it is the single one, not the best of three. The prompt encoder stays as it was trained.

    Attributes:
        largest_pass: Images that a pass should hold at most: 1 of the published ones at 1024 px.
    """

    def __init__(self, model: Any, *, num_classes: int) -> None:
        super().__init__()
        self.vision_encoder: Any = model.vision_encoder
        self.prompt_encoder: Any = model.prompt_encoder
        self.mask_decoder: Any = model.mask_decoder
        self.num_classes = num_classes
        self.whole = False
        self.largest_pass = _largest_pass(model.config.vision_config)
        idle = [*self.mask_decoder.output_hypernetworks_mlps[1:], self.mask_decoder.iou_prediction_head]
        for module in (self.prompt_encoder, *idle):
            hold_fixed(module, [name for name, _ in module.named_parameters()])

    def forward(self, images: torch.Tensor, prompts: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (B, K, S, S).

        Args:
            images: Normalised, shape (B, C, S, S).
            prompts: Boxes (B, K - 1, 4), x0 y0 x1 y1, or points (B, K - 1, 2), x y, in pixels; NaN where a structure
                has none.
        Raises:
            ValueError: If there are no prompts, or not one for each structure.
        """
        if prompts is None and self.whole:
            side = images.shape[-1] - 1
            prompts = images.new_tensor([0, 0, side, side]).expand(len(images), self.num_classes - 1, 4)
        if prompts is None or prompts.shape[1] != self.num_classes - 1:
            found = "none" if prompts is None else str(prompts.shape[1])
            raise ValueError(f"SAM needs a prompt for each of {self.num_classes - 1} structures, got {found}")
        absent = prompts.isnan().any(dim=2)
        maps = self.vision_encoder(images).last_hidden_state
        with torch.autocast(images.device.type, enabled=False):  # in half precision a coordinate is pixels off
            sparse, dense = self._encoded(torch.nan_to_num(prompts.float(), nan=0.0))
            grid = self._grid()
        masks, _ = self.mask_decoder(
            image_embeddings=maps,
            image_positional_embeddings=grid.expand(len(maps), -1, -1, -1),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        drawn = functional.interpolate(masks[:, :, 0], size=images.shape[-2:], mode="bilinear", align_corners=False)
        drawn = torch.where(absent[:, :, None, None], torch.full_like(drawn, ABSENT), drawn)
        return torch.cat([torch.zeros_like(drawn[:, :1]), drawn], dim=1)

    def prompt_with_whole_image(self) -> None:
        """Take the box of the whole image where no prompt is given: as much work as any, for timing alone."""
        self.whole = True

    def _encoded(self, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sparse embeddings (B, L, tokens, F) and dense ones (B, F, h, w)."""
        boxes = prompts if prompts.shape[2] == 4 else None
        points = prompts[:, :, None] if boxes is None else None
        labels = None if points is None else torch.ones(points.shape[:3], dtype=torch.int, device=points.device)
        encoded: tuple[torch.Tensor, torch.Tensor] = self.prompt_encoder(
            input_points=points, input_labels=labels, input_boxes=boxes, input_masks=None
        )
        return encoded

    def _grid(self) -> torch.Tensor:
        """Return the embedding of each cell's centre, shape (1, F, h, w)."""
        side = self.prompt_encoder.image_embedding_size[0]
        embed = self.prompt_encoder.shared_embedding
        places = (torch.arange(side, device=embed.positional_embedding.device) + 0.5) / side
        y, x = torch.meshgrid(places, places, indexing="ij")
        grid: torch.Tensor = embed(torch.stack([x, y], dim=-1)[None])
        return grid.permute(0, 3, 1, 2)


def _largest_pass(vision: Any) -> int:
    """Return how many images fit into a pass: the attention over a whole image has a weight for each pair of cells."""
    cells = (vision.image_size // vision.patch_size) ** 2
    return max(1, int(PASS_BYTES // (vision.num_attention_heads * cells**2 * BYTES_PER_PAIR)))


def build_sam(config: dict[str, Any], *, num_classes: int, image_size: int, in_channels: int) -> SamNetwork:
    """Return a SAM of random weights for exactly this input size.

    Args:
        config: Content of a config.json.
    """
    from transformers import SamConfig, SamModel

    vision = {**config["vision_config"], "image_size": image_size, "num_channels": in_channels}
    side = image_size // int(vision.get("patch_size", 16))
    prompt = {**config.get("prompt_encoder_config", {}), "image_size": image_size, "image_embedding_size": side}
    settings = SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=config.get("mask_decoder_config", {})
    )
    return SamNetwork(SamModel(settings), num_classes=num_classes)
