"""Given masks scored case by case, one at a time in each process: the content of per_case.csv."""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from archbench.mask_files import MaskError, differing_space, read_mask
from archbench.mask_pairs import MaskCase
from archbench.metrics.metric import Array
from archbench.metrics.segmentation import MASK_METRICS, MaskScores, score_mask


@dataclass(frozen=True)
class CaseResult:
    """Scores of one case and seed, by tool and structure; `axes` is 2 for pictures and 3 for volumes."""

    case: str
    patient: str
    axes: int
    scores: Mapping[str, Mapping[str, MaskScores]]
    seed: int = 0


@dataclass(frozen=True)
class _Job:
    case: MaskCase
    scored: Mapping[str, int | None]
    spacing_mm: tuple[float, ...] | None
    tolerance_mm: float


def measure(
    cases: Sequence[MaskCase],
    *,
    scored: Mapping[str, int | None],
    spacing_mm: tuple[float, ...] | None,
    tolerance_mm: float,
    workers: int,
    progress: Callable[[int, str], None],
    spacings_mm: Mapping[str, tuple[float, ...]] | None = None,
) -> list[CaseResult]:
    """Score all cases, one at a time in each process, in the order of `cases`.

    Args:
        scored: Name of each structure and its label; None is every value but 0.
        spacing_mm: Of files that don't say their own.
        spacings_mm: The same by case, where they differ.
        progress: Called with the number of finished cases and the last one's name.
    """
    of_case = spacings_mm or {}
    jobs = [_Job(case, scored, of_case.get(case.name, spacing_mm), tolerance_mm) for case in cases]
    found: dict[tuple[str, int], CaseResult] = {}
    for result in _results(jobs, min(workers, len(jobs))):
        found[result.case, result.seed] = result
        progress(len(found), result.case)
    return [found[case.name, case.seed] for case in cases]


def _results(jobs: Sequence[_Job], workers: int) -> Iterator[CaseResult]:
    if workers <= 1:
        yield from map(_measure_case, jobs)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__, "monai.metrics"])  # imported once for all processes
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        running: list[Future[CaseResult]] = [pool.submit(_measure_case, job) for job in jobs]
        try:
            for future in as_completed(running):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _measure_case(job: _Job) -> CaseResult:
    truth = read_mask(job.case.truth, spacing_mm=job.spacing_mm)
    scores = {}
    for tool, path in job.case.predictions.items():
        mask = read_mask(path, spacing_mm=job.spacing_mm)
        if words := differing_space(truth, mask):  # changed since it was checked
            raise MaskError(f"{path}: {words} (truth {job.case.truth})")
        scores[tool] = {
            name: score_mask(
                _structure(truth.labels, label),
                _structure(mask.labels, label),
                spacing_mm=truth.spacing_mm,
                tolerance_mm=job.tolerance_mm,
            )
            for name, label in job.scored.items()
        }
    return CaseResult(job.case.name, job.case.patient, truth.labels.ndim, scores, job.case.seed)


def _structure(labels: Array, label: int | None) -> Array:
    return labels != 0 if label is None else labels == label


def tools(results: Sequence[CaseResult]) -> list[str]:
    """Names of the tools, in the order given."""
    return list(results[0].scores)


def case_table(
    results: Sequence[CaseResult], more: Mapping[tuple[str, str, int], Mapping[str, object]] | None = None
) -> str:
    """Return one row per tool, case and structure as CSV; an undefined value is empty and has its reason.

    Args:
        more: Further columns by tool, case and seed, the same for all.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    unit = size_unit(results)
    head = ["model", "case", "patient", "label", *MASK_METRICS, f"truth_{unit}", f"predicted_{unit}", "undefined"]
    head += list(next(iter(more.values()))) if more else []
    writer.writerow(head)
    for tool in tools(results):
        for result in results:
            for name, found in result.scores[tool].items():
                values = ["" if np.isnan(v) else f"{v:.6g}" for v in (found.values[m] for m in MASK_METRICS)]
                sizes = [f"{found.truth_size:.6g}", f"{found.predicted_size:.6g}"]
                reasons: dict[str, list[str]] = {}
                for metric, reason in found.reasons.items():
                    reasons.setdefault(reason, []).append(metric)
                words = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
                rest = list(more[tool, result.case, result.seed].values()) if more else []
                writer.writerow([tool, result.case, result.patient, name, *values, *sizes, words, *rest])
    return buffer.getvalue()


def size_unit(results: Sequence[CaseResult]) -> str:
    """Unit of the sizes: mm2 for pictures, mm3 for volumes."""
    return "mm2" if results[0].axes == 2 else "mm3"
