"""How much a network computes: parameters and multiply-accumulates of one image, and what they leave out."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from archbench.models.building import NormalizedNetwork, count_parameters

COUNTED_BY = "torch.utils.flop_counter; a multiply-accumulate counts once"
# Only another view of the same numbers, or numbers that are there before the image: no work is missed.
FREE = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "slice", "select"),
    *("unsqueeze", "squeeze", "detach", "alias", "clone", "contiguous", "as_strided", "unflatten", "lift_fresh"),
    *("empty", "empty_like", "zeros", "ones", "full", "arange", "unbind", "split", "split_with_sizes", "chunk"),
    *("_to_copy", "copy_"),
}


class _Uncounted(TorchDispatchMode):
    """Notes the operations that the counter knows no formula for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet not in flop_registry and packet.__name__ not in FREE:
            self.names.add(packet.__name__)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def count_work(network: NormalizedNetwork) -> dict[str, Any]:
    """Return parameters and GMACs of one image, with the names of the operations that count nothing."""
    bare = network.network.eval()
    device = next(bare.parameters()).device
    if hasattr(bare, "prompt_with_whole_image"):
        bare.prompt_with_whole_image()  # type: ignore[operator]
    with _Uncounted() as uncounted, FlopCounterMode(display=False) as counter:
        bare(torch.zeros(1, *network.input_shape, device=device))
    return {
        "parameters": count_parameters(network),
        "gmacs": counter.get_total_flops() / 2e9,
        "counted_by": COUNTED_BY,
        "uncounted": sorted(uncounted.names),
    }
