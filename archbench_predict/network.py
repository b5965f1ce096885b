"""One ONNX file as a function from preprocessed images or volumes to logits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from archbench_predict.bundle import BundleError, Member
from archbench_predict.images import preprocess
from archbench_predict.volume_description import VolumePreparation
from archbench_predict.volumes import Volume, prepare_volume

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Network:
    """A member's session and what turns an image file into its input."""

    def __init__(self, member: Member, *, threads: int) -> None:
        self.member = member
        self._session = _session(member, threads=threads)
        given = self._session.get_inputs()[0]
        self._input, self._batch = given.name, given.shape[0]
        types = {"tensor(uint8)": np.uint8, "tensor(int16)": np.int16, "tensor(float16)": np.float16}
        self._type = types.get(given.type, np.float32)

    def prepare(self, image: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the input of one decoded picture (H, W, 3), shape (C, S, S).

        Args:
            mask: Boolean, shape (H, W), for bundles with a mask focus.
        """
        return self.prepare_with_box(image, mask)[0]

    def prepare_with_box(
        self, image: np.ndarray, mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, tuple[int, int, int, int]]:
        """Return the input of one picture as `prepare` does, and the box x0, y0, x1, y1 that it was cut from."""
        assert not isinstance(self.member.preprocessing, VolumePreparation)
        square, equalized, box = preprocess(image, self.member.preprocessing, mask)
        pixels = square if equalized is None else equalized
        if self.member.normalized:
            return self.member.normalization.apply(pixels).astype(self._type, copy=False), box
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(self._type, copy=False), box

    def prepare_volume(self, volume: Volume) -> np.ndarray:
        """Return the input of one volume: Hounsfield units, shape (D, S, S); the network windows them."""
        preparation = self.member.preprocessing
        assert isinstance(preparation, VolumePreparation)
        slices = prepare_volume(volume, preparation.settings, size=preparation.size)
        return slices.astype(self._type, copy=False)

    def logits(self, inputs: np.ndarray) -> np.ndarray:
        """Return the logits of inputs (B, C, S, S), of volumes (B, D, S, S), float32, shape (B, K) or (B, K, S, S).

        A graph with a fixed batch is fed in such portions, the last one filled up with zeros.
        """
        if not isinstance(self._batch, int):
            return self._run(inputs)
        parts = []
        for start in range(0, len(inputs), self._batch):
            part = inputs[start : start + self._batch]
            filled = np.zeros((self._batch, *part.shape[1:]), part.dtype)
            filled[: len(part)] = part
            parts.append(self._run(filled)[: len(part)])
        return np.concatenate(parts)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        found: Any = self._session.run(None, {self._input: inputs})[0]
        return np.asarray(found, dtype=np.float32)


def _session(member: Member, *, threads: int) -> InferenceSession:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # or it reports model and machine to its maker, from 1.29 on
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # a waiting thread leaves its core to decoders
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(member.path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises kinds of its own
        raise BundleError(
            f"{member.path.name} can't be loaded by ONNX Runtime {ort.__version__} ({str(error)[:200]}): "
            "install a newer onnxruntime"
        ) from error


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, less where a control group sets a quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return max(1, min(cores, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no control groups of version 2, or no limit ("max")
        return cores
