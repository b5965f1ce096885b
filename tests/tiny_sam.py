"""A folder with the config.json, and if asked for the weights, of a very small SAM."""

from __future__ import annotations

import json
from pathlib import Path

VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64, "output_channels": 32}
CONFIG = {
    "model_type": "sam",
    "vision_config": {**VISION, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16, "image_size": 64},
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "image_embedding_size": 4},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
}


def write_tiny_sam(folder: Path, *, weights: bool = False) -> str:
    """Write it and return its name as an architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if weights:
        from safetensors.torch import save_file
        from transformers import SamConfig, SamModel

        model = SamModel(SamConfig(**{key: value for key, value in CONFIG.items() if key != "model_type"}))
        tensors = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return f"sam:{folder}"
