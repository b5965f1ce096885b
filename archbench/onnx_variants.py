"""Export of one trained network in every precision asked for, each through the gate: the content of export.json."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.export_ladder import RUNGS, Climb, ExportJob, Reference, climb
from archbench.mask_parity import MaskTruth, compare_masks
from archbench.onnx_files import EXTERNAL_ABOVE_BYTES, VARIANTS, describe_files, finish
from archbench.onnx_runner import ExportedNetwork
from archbench.onnx_session import ProviderError, make_session
from archbench.parity import (
    Comparison,
    compare_logits,
    compare_quality,
    gate_batches,
    parity_problem,
    quality_problem,
)
from archbench.quantization import Quantizer, calibration_rows, to_fp16

MODEL = "model.onnx"
NO_FILE: dict[str, Any] = {"file": None, "batch": None, "bytes": 0, "sha256": None, "files": []}


@dataclass(frozen=True)
class ExportCases:
    """The cases that an export is checked and quantised with.

    Attributes:
        images: The image cache.
        rows: Validation rows of the cache, shape (N,), those of `validation`.
        validation: Their truth; its logits are replaced by torch's.
        training_rows, training_patients: Of the fold's training part, for calibration.
        masks: True masks of `rows`, where masks are predicted.
    """

    images: np.ndarray
    rows: np.ndarray
    validation: Predictions
    training_rows: np.ndarray
    training_patients: np.ndarray
    masks: MaskTruth | None = None


@dataclass(frozen=True)
class Checked:
    """A variant that has been through the gate; `problem` says why it does not pass."""

    account: dict[str, Any]
    problem: str | None


class Export:
    """One model's export into a folder.

    Args:
        folder: Where model.onnx is to lie.
        classes: Names of the logits.
        calibration_images: Training images that give int8 its ranges, at most.
        timeout_s: Seconds for one rung.
        external_above: Bytes of weights above which they lie beside their file.
    """

    def __init__(
        self,
        job: ExportJob,
        cases: ExportCases,
        comparison: Comparison,
        *,
        folder: Path,
        classes: Sequence[str],
        calibration_images: int,
        timeout_s: float,
        external_above: int = EXTERNAL_ABOVE_BYTES,
    ) -> None:
        self.job, self.cases, self.comparison = job, cases, comparison
        self.folder, self.classes = folder, classes
        self.calibration_images, self.timeout_s = calibration_images, timeout_s
        self.external_above = external_above
        self._reference: Reference | None = None

    def run(self, precisions: Sequence[str], rungs: Sequence[str]) -> dict[str, Any]:
        """Export in fp32, then in every other precision; return what export.json says of it.

        Where no rung serves, model.onnx is an empty file and the account says why.
        """
        (self.folder / VARIANTS).mkdir(parents=True, exist_ok=True)
        (self.folder / MODEL).unlink(missing_ok=True)
        found = climb(self.job, self._gate, timeout_s=self.timeout_s, rungs=rungs)
        variants = [self._fp32_account(found)]
        for precision in dict.fromkeys(precisions):
            if precision != "fp32":
                variants.append(self._variant(precision, found))
        if found.rung is None:
            (self.folder / MODEL).touch()
        first, facts = variants[0], self._reference
        return {
            "exporter": None if found.rung is None else RUNGS[found.rung],
            "onnx_bytes": first["bytes"] or None,
            "parameters": None if facts is None else facts.parameters,
            "parity": [] if first["parity"] is None else first["parity"]["batches"],
            "passed": first["status"] == "passed",
            "variants": variants,
            "ladder": [{key: attempt[key] for key in ("rung", "status", "reason")} for attempt in found.attempts],
        }

    def refuse(self, precisions: Sequence[str], reason: str) -> dict[str, Any]:
        """Write an empty model.onnx and return the account of a network that isn't exported at all."""
        (self.folder / VARIANTS).mkdir(parents=True, exist_ok=True)
        (self.folder / MODEL).write_bytes(b"")
        variants = [
            self._account(precision, None, "unsupported", reason, None)
            for precision in dict.fromkeys(["fp32", *precisions])
        ]
        nothing: dict[str, Any] = {
            "exporter": None,
            "onnx_bytes": None,
            "parameters": None,
            "parity": [],
            "passed": False,
        }
        return {**nothing, "variants": variants, "ladder": []}

    def _gate(self, raw: Mapping[int | None, Path], reference: Reference) -> tuple[dict[str, Any], str | None]:
        """Finish the raw fp32 files, check them, and put them in place if they pass."""
        self._reference = reference
        names = {batch: MODEL if k == 0 else f"{VARIANTS}/model-batch{batch}.onnx" for k, batch in enumerate(raw)}
        checked = self._check(raw, names, exact=True)
        return checked.account, checked.problem

    def _check(
        self, raw: Mapping[int | None, Path], names: Mapping[int | None, str], *, exact: bool, device: str = "cpu"
    ) -> Checked:
        assert self._reference is not None
        with self._candidate() as made:
            files = {
                b: finish(raw[b], made, names[b], classes=self.classes, batch=b, external_above=self.external_above)
                for b in raw
            }
            network = ExportedNetwork(files, self._reference.form, threads=self.job.threads, device=device)
            account, problem = self._judge(network, self._reference, exact=exact)
            account |= describe_files(made, names) | {"device": device}
            if problem is None:
                del network  # its files may be memory-mapped
                _move(made, self.folder)
            else:
                account |= {**NO_FILE, "bytes": account["bytes"]}
        return Checked(account, problem)

    @contextmanager
    def _candidate(self) -> Iterator[Path]:
        """Give a folder beside the results, so that a file that passes is renamed into place."""
        with tempfile.TemporaryDirectory(prefix=".candidate-", dir=self.folder) as name:
            yield Path(name)

    def _judge(
        self, network: ExportedNetwork, reference: Reference, *, exact: bool
    ) -> tuple[dict[str, Any], str | None]:
        """Compare logits, then quality; of wrong fp32 logits the quality doesn't matter any more."""
        cases, sizes = self.cases, gate_batches(network, self.job.batch_sizes)
        sizes = sizes if exact else [sizes[0], sizes[-1]]  # its logits differ anyhow
        parity = compare_logits(network, cases.images, cases.rows, reference.logits, batch_sizes=sizes, exact=exact)
        problem = parity_problem(parity)
        if problem is not None:
            return {"parity": parity, "quality": None}, problem
        logits = network.logits(cases.images, cases.rows, batch_size=max(sizes))
        if cases.masks is not None:
            quality = compare_masks(cases.masks, reference.logits, logits, self.comparison)
        else:
            quality = compare_quality(replace(cases.validation, logits=reference.logits), logits, self.comparison)
        undefined = quality["non_inferior"] is None
        problem = None if exact and undefined else quality_problem(quality)  # equal logits are equal in any metric
        return {"parity": parity, "quality": quality}, problem

    def _fp32_account(self, found: Climb) -> dict[str, Any]:
        if found.rung is not None:
            return self._account("fp32", found.rung, "passed", None, found.accepted)
        judged = [attempt for attempt in found.attempts if attempt["account"] is not None]
        last = judged[-1] if judged else found.attempts[-1]
        reasons = "; ".join(f"{RUNGS[attempt['rung']]}: {attempt['reason']}" for attempt in found.attempts)
        return self._account("fp32", last["rung"], "failed" if judged else "unsupported", reasons, last["account"])

    def _account(
        self, precision: str, rung: str | None, status: str, reason: str | None, account: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        network = self.job.network
        volume, side = network.get("volume"), network["image_size"]
        inputs: dict[str, Any] = {"shape": [volume["slices"] if volume else network["in_channels"], side, side]}
        normalized = not self.job.fold_normalization
        folded = "int16" if volume else "uint8"
        inputs |= {"normalized": normalized, "dtype": "float32" if normalized else folded}
        if self._reference is not None:
            inputs |= {"mean": list(self._reference.form.mean), "std": list(self._reference.form.std)}
        base = {"precision": precision, "rung": rung, "status": status, "reason": reason, "inputs": inputs}
        return {**base, **NO_FILE, "parity": None, "quality": None, **(account or {})}

    def _variant(self, precision: str, found: Climb) -> dict[str, Any]:
        """Make and check a lower precision of the fp32 file."""
        if found.rung is None:
            return self._account(precision, None, "unsupported", "there is no fp32 file to start from", None)
        if found.accepted["batch"] != "dynamic":
            reason = "made of files for any batch size alone, and this network has one file per batch size"
            return self._account(precision, found.rung, "unsupported", reason, None)
        with tempfile.TemporaryDirectory(prefix="archbench-precision-") as scratch:
            try:
                checked = self._int8(Path(scratch)) if precision == "int8" else self._fp16(Path(scratch))
            except Exception as error:  # the converters raise many kinds; each means that this precision isn't there
                reason = f"{type(error).__name__}: {error}".strip()[:500]
                print(f"{precision}: {reason}", file=sys.stderr, flush=True)
                return self._account(precision, found.rung, "unsupported", reason, None)
        status = "passed" if checked.problem is None else "failed"
        print(f"{precision}: {status}{f', {checked.problem}' if checked.problem else ''}", file=sys.stderr, flush=True)
        return self._account(precision, found.rung, status, checked.problem, checked.account)

    def _int8(self, scratch: Path) -> Checked:
        """Quantise, leaving out more and more sensitive nodes until the gate passes."""
        cases, reference = self.cases, self._reference
        assert reference is not None
        rows = calibration_rows(cases.training_rows, cases.training_patients, n=self.calibration_images)
        quantizer = Quantizer(
            self.folder / MODEL, reference.form, cases.images, rows, scratch, threads=self.job.threads
        )
        if not quantizer.node_names:
            raise ValueError("the network has no node that could be quantised")
        steps: list[dict[str, Any]] = []
        checked: Checked | None = None
        for attempt in quantizer.attempts():
            checked = self._check({None: attempt.path}, {None: f"{VARIANTS}/model-int8.onnx"}, exact=False)
            quality = checked.account["quality"]
            step = {"n_excluded": len(attempt.excluded), "n_quantized": attempt.n_quantized}
            steps.append(step | {key: quality[key] for key in ("value", "difference", "low", "non_inferior", "flips")})
            method = {"method": quantizer.method, "n_calibration_images": len(rows), "excluded": list(attempt.excluded)}
            checked.account["quantization"] = {**method, "steps": steps}
            if checked.problem is None or quality["non_inferior"] is None:  # what is undefined stays so
                break
        assert checked is not None
        return checked

    def _fp16(self, scratch: Path) -> Checked:
        """Convert to fp16; checked on a GPU where there is one, else on the CPU, and the account says where."""
        to_fp16(self.folder / MODEL, scratch / "fp16.onnx")
        names: dict[int | None, str] = {None: f"{VARIANTS}/model-fp16.onnx"}
        return self._check({None: scratch / "fp16.onnx"}, names, exact=False, device=self._device())

    def _device(self) -> str:
        try:
            make_session(self.folder / MODEL, threads=1, device="cuda")
        except ProviderError:
            return "cpu"
        return "cuda"


def _move(source: Path, target: Path) -> None:
    """Rename every file of a folder into another one of the same disk."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target / path.relative_to(source))
