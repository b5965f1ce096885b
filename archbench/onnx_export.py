"""ONNX export of the best fold's network, with parity on real validation images before anything is timed."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from archbench.artifacts import atomic_path
from archbench.batches import to_batch
from archbench.models.building import NormalizedNetwork
from archbench.onnx_session import make_session

OPSET = 18
PARITY_BATCH_SIZES = (1, 3, 8)
PARITY_IMAGES = 64
RTOL, ATOL = 1e-3, 1e-4


class ExportError(RuntimeError):
    """The network can't be exported, or the exported one gives other logits."""


@dataclass(frozen=True)
class Parity:
    """Agreement of ONNX Runtime with torch at one batch size."""

    batch_size: int
    max_abs_difference: float
    max_rel_difference: float
    passed: bool


def export_onnx(network: NormalizedNetwork, path: Path, *, classes: Sequence[str]) -> None:
    """Write an ONNX file: input `images` float32 (batch, C, S, S) normalised, output `logits` (batch, K).

    The dynamo exporter with a batch of two as sample, since one of a single image is frozen at 1.

    Raises:
        ExportError: If the exporter fails, with its reason.
    """
    bare = network.network.cpu().eval()
    size = network.image_size
    sample = torch.zeros(2, network.in_channels, size, size)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making; parity decides
        raw = Path(folder) / "model.onnx"
        try:
            program = torch.onnx.export(
                bare,
                (sample,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
            assert program is not None
            program.save(raw, external_data=False)
        except Exception as error:  # the exporter raises many kinds; each means that this rung fails
            raise ExportError(f"{network.architecture} can't be exported: {type(error).__name__}: {error}") from error
        _finish(raw, path, classes)


def _finish(raw: Path, path: Path, classes: Sequence[str]) -> None:
    """Check the file, name the classes in it, and put it in place."""
    import onnx

    onnx.checker.check_model(str(raw))
    model = onnx.load(raw)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    if not batch.dim_param:
        raise ExportError(f"the batch dimension came out fixed at {batch.dim_value}")
    onnx.helper.set_model_props(model, {"classes": "\n".join(classes)})
    with atomic_path(path) as temporary:
        onnx.save(model, temporary)


@torch.no_grad()
def check_parity(
    network: NormalizedNetwork, path: Path, *, images: np.ndarray, rows: np.ndarray, threads: int
) -> list[dict[str, float | int | bool]]:
    """Compare logits of torch and ONNX Runtime on real images at several batch sizes.

    Args:
        images: The image cache.
        rows: Validation rows of the cache, at least one; up to 64 are compared at each size.
    Raises:
        ExportError: If any logit differs by more than ATOL + RTOL · |logit|.
    """
    session = make_session(path, threads=threads)
    network.cpu().eval()
    found = []
    for batch_size in PARITY_BATCH_SIZES:
        worst_abs, worst_rel, passed = 0.0, 0.0, True
        calls = max(1, min(PARITY_IMAGES, len(rows)) // batch_size)
        usable = np.resize(rows, calls * batch_size)  # of fewer images than one batch some are taken twice
        for start in range(0, len(usable), batch_size):
            inputs = network.normalize(to_batch(images, usable[start : start + batch_size], torch.device("cpu")))
            expected = network.network(inputs).numpy()
            got = session.run(None, {"images": inputs.numpy()})[0]
            difference = np.abs(got - expected)
            worst_abs = max(worst_abs, float(difference.max()))
            worst_rel = max(worst_rel, float((difference / np.maximum(np.abs(expected), 1e-6)).max()))
            passed &= bool((difference <= ATOL + RTOL * np.abs(expected)).all())
        found.append(asdict(Parity(batch_size, worst_abs, worst_rel, passed)))
        print(f"parity at batch {batch_size}: {worst_abs:.1e} on {len(usable)} images", file=sys.stderr, flush=True)
    failed = [item for item in found if not item["passed"]]
    if failed:
        raise ExportError(f"{network.architecture}: ONNX Runtime disagrees with torch: {failed}")
    return found
