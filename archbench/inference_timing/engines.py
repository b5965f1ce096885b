"""Runtimes behind one face: load a model, prepare a batch, run it. Used inside a contender's own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Batch = Callable[[np.ndarray], Any]  # pixels (B, S, S, C), uint8, or volumes (B, D, S, S), int16, to a runtime's input
Run = Callable[[Any], Any]


class Engine:
    """A loaded model.

    Attributes:
        prepare: Pixels, uint8, shape (B, S, S, C), to the runtime's input, on its device.
        run: One call on prepared input; returns when the result is there.
        answer: Pixels in the host's memory to logits (B, K) in the host's memory.
        facts: What really runs: provider, version, threads.
    """

    def __init__(self, *, prepare: Batch, run: Run, answer: Batch, facts: Mapping[str, Any]) -> None:
        self.prepare, self.run, self.answer, self.facts = prepare, run, answer, dict(facts)


def load_engine(spec: Mapping[str, Any]) -> Engine:
    """Load what a contender's specification names.

    Raises:
        RuntimeError: If the runtime would use another device than the one that was asked for.
    """
    return _load_onnx(spec) if spec["engine"] in ("onnxruntime", "tensorrt") else _load_torch(spec)


def normalizer(spec: Mapping[str, Any], kind: str) -> Batch:
    """Return the step from pixels, uint8 (B, S, S, C), to a file's input (B, C, S, S); volumes keep their shape.

    Args:
        kind: The type that the file takes, as ONNX Runtime names it. A file that normalises inside takes pixels.
    """
    from archbench.onnx_runner import channels_first

    mean = np.asarray(spec["mean"], np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(spec["std"], np.float32).reshape(1, -1, 1, 1)
    dtype = {
        "tensor(float)": np.float32,
        "tensor(float16)": np.float16,
        "tensor(uint8)": np.uint8,
        "tensor(int16)": np.int16,
    }[kind]

    def normalize(pixels: np.ndarray) -> np.ndarray:
        images = channels_first(pixels)
        if spec["normalized"]:
            images = (images.astype(np.float32) - mean) / std
        return np.ascontiguousarray(images.astype(dtype, copy=False))

    return normalize


class _Files:
    """The sessions of a variant: one for any batch size, or one for each of some, opened when first needed."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._files = {batch: Path(file) for batch, file in spec["onnx_files"]}
        self._threads = int(spec["threads"])
        self._device = "tensorrt" if spec["engine"] == "tensorrt" else spec["device"]
        self._sessions: dict[int | None, Any] = {}

    def session(self, batch_size: int) -> Any:
        from archbench.onnx_session import make_session

        batch = None if None in self._files else batch_size
        if batch not in self._sessions:
            self._sessions[batch] = make_session(self._files[batch], threads=self._threads, device=self._device)
        return self._sessions[batch]


def _load_onnx(spec: Mapping[str, Any]) -> Engine:
    if spec["device"] == "cuda":
        import onnxruntime

        onnxruntime.preload_dlls()  # CUDA's libraries come with torch's packages
    files = _Files(spec)
    smallest = min((batch or 1) for batch, _ in spec["onnx_files"])
    session = files.session(smallest)
    name, normalize = session.get_inputs()[0].name, normalizer(spec, session.get_inputs()[0].type)

    def prepare(pixels: np.ndarray) -> Any:
        return files.session(len(pixels)), {name: normalize(pixels)}

    def run(prepared: Any) -> Any:
        session, feed = prepared
        return session.run(None, feed)

    def answer(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(run(prepare(pixels))[0])

    facts = {"provider": session.get_providers()[0], "threads": spec["threads"]}
    if spec["device"] == "cpu":
        return Engine(prepare=prepare, run=run, answer=answer, facts=facts)
    return Engine(prepare=_binder(files, name, normalize), run=_run_bound, answer=answer, facts=facts)


def _binder(files: _Files, name: str, normalize: Batch) -> Batch:
    """Input and output stay on the GPU: what is timed is the model, not the bus."""

    def prepare(pixels: np.ndarray) -> Any:
        import onnxruntime as ort

        session = files.session(len(pixels))
        binding = session.io_binding()
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(normalize(pixels), "cuda", 0))
        binding.bind_output(session.get_outputs()[0].name, "cuda")
        return session, binding

    return prepare


def _run_bound(prepared: Any) -> None:
    session, binding = prepared
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def _load_torch(spec: Mapping[str, Any]) -> Engine:
    import torch

    from archbench.batches import to_batch
    from archbench.devices import prepare_torch
    from archbench.models.building import build_network
    from archbench.models.weights import load_checkpoint

    prepare_torch(threads=int(spec["threads"]))
    if spec["device"] == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device: check the driver (nvidia-smi), or take cuda out of devices")
    device = torch.device(spec["device"])
    network = build_network(**spec["network"], num_classes=int(spec["num_classes"]))
    network = load_checkpoint(network, Path(spec["checkpoint"]), torch.device("cpu")).to(device).eval()
    if hasattr(network.network, "prompt_with_whole_image"):
        network.network.prompt_with_whole_image()  # type: ignore[operator]
    bare: Any = torch.compile(network.network) if spec["engine"] == "torch_compile" else network.network

    def prepare(pixels: np.ndarray) -> torch.Tensor:
        return network.normalize(to_batch(pixels, np.arange(len(pixels)), device)).contiguous()

    @torch.inference_mode()
    def run(images: torch.Tensor) -> Any:
        logits = bare(images)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return logits

    def answer(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(run(prepare(pixels)).float().cpu())

    facts = {"provider": str(next(network.parameters()).device), "threads": torch.get_num_threads()}
    return Engine(prepare=prepare, run=run, answer=answer, facts=facts)
