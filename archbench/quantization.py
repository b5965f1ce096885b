"""Lower precisions of an exported network: int8 for CPUs, fp16 for GPUs. Neither needs torch.

Convolutional networks are quantised statically (QDQ, per channel, ranges from training images); vision transformers
dynamically, their matrix products alone, since one outlier token stretches the range of a whole activation.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.onnx_files import data_beside, external_files, save_beside
from archbench.onnx_runner import InputForm
from archbench.onnx_session import make_session

STATIC_OPS = ("Conv", "MatMul", "Gemm")
DYNAMIC_OPS = ("MatMul",)
CALIBRATION_BATCH = 8
SENSITIVITY_IMAGES = 16
LARGEST_GROUPS = 48


def calibration_rows(rows: np.ndarray, patients: np.ndarray, *, n: int, seed: int = 0) -> np.ndarray:
    """Return up to n rows of as many patients as possible: one of each before a second of any.

    Args:
        rows: Rows of the image cache, shape (N,), of the training part alone.
        patients: Patient of each row, shape (N,).
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    seen: dict[str, int] = {}
    turns = np.empty(len(rows), dtype=np.int64)
    for index in order:
        patient = str(patients[index])
        turns[index] = seen[patient] = seen.get(patient, -1) + 1
    chosen = order[np.argsort(turns[order], kind="stable")][:n]
    return np.sort(rows[chosen])


def activation_type() -> str:
    """Name of ONNX Runtime's type for activations of a static int8 network: unsigned on x86-64, signed elsewhere.

    The dot products of x86-64 (VNNI) take an unsigned and a signed factor; two signed ones cost a conversion: 15.1
    instead of 5.6 ms for a ResNet-18 at 224 px, more than fp32.
    """
    return "QUInt8" if platform.machine().lower() in ("x86_64", "amd64") else "QInt8"


def is_transformer(path: Path) -> bool:
    """Whether a network's products are matrix products: more of them than convolutions."""
    import onnx

    ops = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    return ops.count("MatMul") + ops.count("Gemm") > ops.count("Conv")


@dataclass(frozen=True)
class Quantized:
    """One attempt at int8.

    Attributes:
        path: The quantised file, raw.
        excluded: Nodes that were left in fp32.
        n_quantized: Nodes that were not.
    """

    path: Path
    excluded: tuple[str, ...]
    n_quantized: int


class Quantizer:
    """Quantises one exported file, with more and more of its sensitive nodes left out.

    Args:
        path: The fp32 file, for any batch size.
        images: The image cache.
        rows: Training rows that give the ranges of activations.
        scratch: Folder for what lies in between.
    """

    def __init__(
        self, path: Path, form: InputForm, images: np.ndarray, rows: np.ndarray, scratch: Path, *, threads: int
    ) -> None:
        import onnx
        from onnxruntime.quantization import quant_pre_process

        self.method = "dynamic" if is_transformer(path) else "static"
        self._form, self._images, self._rows, self._scratch = form, images, rows, scratch
        self._threads = threads
        self._prepared = scratch / "prepared.onnx"
        self._external = bool(external_files(path))  # too large for one file, and so is what is made of it
        beside = {"save_as_external_data": True, "all_tensors_to_one_file": True} if self._external else {}
        quant_pre_process(path, self._prepared, skip_symbolic_shape=True, **beside)
        model = onnx.load(self._prepared)
        graph = model.graph
        ops = STATIC_OPS if self.method == "static" else DYNAMIC_OPS
        weights = {tensor.name for tensor in graph.initializer}
        shapes = [value for value in graph.value_info if value.name not in weights]
        del graph.value_info[:]  # dynamo notes weights' shapes too, which the quantiser forgets when it turns one
        graph.value_info.extend(shapes)
        save_beside(model, self._prepared, external=self._external)
        self._nodes = [
            node
            for node in graph.node
            if node.op_type in ops and (self.method == "static" or not weights.isdisjoint(node.input))
        ]
        self._order: list[str] | None = None

    @property
    def node_names(self) -> list[str]:
        """Names of the nodes that can be quantised."""
        return [node.name for node in self._nodes]

    def attempts(self) -> Iterator[Quantized]:
        """Yield the network with all nodes quantised, then with the most sensitive 1, 2, 4 … up to half in fp32."""
        n = 0
        while n <= len(self._nodes) // 2:
            excluded = tuple(self.by_sensitivity()[:n]) if n else ()
            path = self._scratch / f"int8-{n}.onnx"
            kept = [name for name in self.node_names if name not in excluded]
            self._write(path, kept)
            yield Quantized(path, excluded, len(kept))
            n = 2 * n or 1

    def _write(self, path: Path, nodes: list[str]) -> None:
        """Write the network with these nodes quantised."""
        path.with_name(data_beside(path)).unlink(missing_ok=True)  # onnx appends
        if self.method == "static":
            self._quantize_static(path, nodes)
        else:
            self._quantize_dynamic(path, nodes)

    def _quantize_static(self, path: Path, nodes: list[str]) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        quantize_static(
            self._prepared,
            path,
            self._reader(self._rows),
            calibration_cache_path=self._scratch / "ranges.json",  # the ranges are the same in every attempt
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(STATIC_OPS),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType[activation_type()],
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            use_external_data_format=self._external,
        )

    def _quantize_dynamic(self, path: Path, nodes: list[str]) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            self._prepared,
            path,
            op_types_to_quantize=list(DYNAMIC_OPS),
            nodes_to_quantize=nodes,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=self._external,
        )

    def _reader(self, rows: np.ndarray) -> Any:
        from onnxruntime.quantization import CalibrationDataReader

        form, images = self._form, self._images

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.starts = iter(range(0, len(rows), CALIBRATION_BATCH))

            def get_next(self) -> dict[str, np.ndarray] | None:
                start = next(self.starts, None)
                return (
                    None if start is None else {"images": form.prepare(images, rows[start : start + CALIBRATION_BATCH])}
                )

        return Reader()

    def by_sensitivity(self) -> list[str]:
        """Return the nodes by what quantising them alone does to the logits of a few training images, the most first.

        Of a deep network neighbours are measured together, so that no more than 48 files are made for it.
        """
        if self._order is None:
            inputs = self._form.prepare(self._images, np.resize(self._rows, SENSITIVITY_IMAGES))
            expected = self._logits(self._prepared, inputs)
            groups = [list(part) for part in np.array_split(self.node_names, min(len(self._nodes), LARGEST_GROUPS))]
            costs = []
            for group in groups:
                alone = self._scratch / "alone.onnx"
                self._write(alone, [str(name) for name in group])
                costs.append(float(np.linalg.norm(self._logits(alone, inputs) - expected)))
            order = np.argsort(-np.array(costs), kind="stable")
            self._order = [str(name) for index in order for name in groups[index]]
        return self._order

    def _logits(self, path: Path, inputs: np.ndarray) -> np.ndarray:
        logits: np.ndarray = make_session(path, threads=self._threads).run(None, {"images": inputs})[0]
        return logits


def to_fp16(path: Path, target: Path) -> None:
    """Write a file with fp16 weights and arithmetic; input and output stay as they are."""
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)  # of values too small for fp16
    large = bool(external_files(path))  # shapes can't be inferred in one message then; the exporter noted them
    converted = convert_float_to_float16(onnx.load(path), keep_io_types=True, disable_shape_infer=large)
    model = onnx_ir.from_proto(converted)
    model.graph.sort()  # the converter puts the first cast behind its reader
    onnx_ir.save(model, target, external_data=data_beside(target))
