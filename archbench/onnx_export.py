"""The rungs of the export ladder: each turns a network into raw ONNX files, in its own way."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archbench.models.building import NormalizedNetwork
from archbench.onnx_files import OPSET, ExportError, finish

FREE = "model.onnx"


class WithLogits(nn.Module):
    """The part of a network that is exported: with its normalisation in front, or without."""

    def __init__(self, network: NormalizedNetwork, *, fold_normalization: bool) -> None:
        super().__init__()
        self.wrapped, self.fold = network, fold_normalization

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) of uint8 pixels where the normalisation is folded in, else of normalised images."""
        inputs = self.wrapped.normalize(images) if self.fold else images
        logits: torch.Tensor = self.wrapped.network(inputs)
        return logits


def _dynamo(network: nn.Module, sample: torch.Tensor, path: Path, *, optimize: bool = True, free: bool = True) -> None:
    """The dynamo exporter; with a batch of two as sample, since one of a single image is frozen at 1."""
    dynamic = ({0: torch.export.Dim("batch", min=1, max=4096)},) if free else None
    program = torch.onnx.export(
        network,
        (sample,),
        dynamo=True,
        dynamic_shapes=dynamic,
        opset_version=OPSET,
        optimize=optimize,
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(path, external_data=True)


def _dynamo_unoptimized(network: nn.Module, sample: torch.Tensor, path: Path) -> None:
    _dynamo(network, sample, path, optimize=False)


def _transformers(network: nn.Module, sample: torch.Tensor, path: Path) -> None:
    """The exporter of transformers, which patches what its own models do otherwise than ONNX can express."""
    import onnx_ir
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=4096)}}
    settings = OnnxConfig(opset_version=OPSET, dynamic_shapes=shapes)
    exporter: Any = OnnxExporter()  # type: ignore[no-untyped-call]
    program = exporter.export(network, {"images": sample}, config=settings).program
    program.graph.outputs[0].name = "logits"
    onnx_ir.save(program, path, external_data=f"{path.name}.data")


def _torchscript(network: nn.Module, sample: torch.Tensor, path: Path) -> None:
    torch.onnx.export(
        network,
        (sample,),
        str(path),
        dynamo=False,
        dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        input_names=["images"],
        output_names=["logits"],
    )


EXPORTERS: dict[str, Callable[[nn.Module, torch.Tensor, Path], None]] = {
    "dynamo": _dynamo,
    "transformers": _transformers,
    "dynamo_unoptimized": _dynamo_unoptimized,
    "torchscript": _torchscript,
}


@torch.no_grad()
def export_raw(
    network: NormalizedNetwork,
    rung: str,
    folder: Path,
    *,
    batch_sizes: Sequence[int],
    fold_normalization: bool = False,
) -> dict[int | None, Path]:
    """Write the raw ONNX files of one rung: input `images` (batch, C, S, S), output `logits` (batch, K).

    Of a network of volumes the slices stand in place of channels: Hounsfield units (batch, D, S, S).

    Args:
        rung: A key of `EXPORTERS`, or `static`: one file per batch size, by dynamo.
        batch_sizes: Of the rung `static`.
        fold_normalization: Take uint8 pixels and normalise inside; else float32 images, normalised. Of volumes it only
            chooses int16 or float32.
    Returns:
        The file by its fixed batch size; None: any.
    Raises:
        ExportError: If the exporter fails, with its reason.
    """
    wrapped = WithLogits(network.cpu(), fold_normalization=fold_normalization).eval()
    shape = network.input_shape
    dtype = network.input_dtype if fold_normalization else torch.float32
    files: dict[int | None, Path] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making; the gate decides
        try:
            if rung == "static":
                for batch in batch_sizes:
                    files[batch] = folder / f"raw-{batch}.onnx"
                    _dynamo(wrapped, torch.zeros(batch, *shape, dtype=dtype), files[batch], free=False)
            else:
                files[None] = folder / "raw.onnx"
                EXPORTERS[rung](wrapped, torch.zeros(2, *shape, dtype=dtype), files[None])
        except Exception as error:  # the exporters raise many kinds; each means that this rung fails
            reason = f"{type(error).__name__}: {error}"
            raise ExportError(f"{network.architecture} can't be exported: {reason}") from error
    return files


def export_onnx(network: NormalizedNetwork, path: Path, *, classes: Sequence[str]) -> None:
    """Write an ONNX file for any batch size by the first rung, in this process and without its gate.

    Raises:
        ExportError: If the exporter fails, with its reason.
    """
    with tempfile.TemporaryDirectory() as scratch:
        raw = export_raw(network, "dynamo", Path(scratch), batch_sizes=())[None]
        finish(raw, path.parent, path.name, classes=classes, batch=None)
