"""What goes into a bundle: networks that passed their gate, and the proof that the runner repeats the study.

Before anything is written, the runner itself predicts images of the study from their source files: its pixels must be
those of the study's image cache, its probabilities those of the study's prediction table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from archbench.artifacts import Predictions
from archbench.bundle_files import Images
from archbench.bundle_network import PARITY, BundleFailure, NetworkSource, allowed_difference, compare_pixels
from archbench.image_cache import unit_of

CHECKED_IMAGES = 16


@dataclass(frozen=True)
class MemberSource(NetworkSource):
    """One network with the study's predictions of it.

    Attributes:
        predictions: The model's own prediction table.
    """

    predictions: Predictions


def check_runner(folder: Path, members: Sequence[MemberSource], images: Images) -> list[dict[str, Any]]:
    """Let the runner predict test images of each member's fold from their files, and compare it with the study.

    Returns:
        Per member: how many images, and the largest difference of pixels, logits and probabilities.
    Raises:
        BundleFailure: If pixels differ at all, or probabilities by more than 1e-4 (fp32).
    """
    from archbench_predict.bundle import read_bundle
    from archbench_predict.predictor import Predictor

    bundle = read_bundle(folder)
    predictor = Predictor(bundle, threads=1)
    found = []
    for k, member in enumerate(members):
        cases, expected = checked_rows(member)
        prepared = [
            predictor.prepare(str(images.path(case)), _text(images.mask(case)), images.declared.get(case))
            for case in cases
        ]
        entry = bundle.content["members"][k]
        compare_pixels(member, cases, [inputs[k] for inputs in prepared], normalized=entry["input"]["normalized"])
        logits = predictor.member_logits(prepared)[:, k]
        said, meant = predictor.task.probabilities(logits), predictor.task.probabilities(expected)
        difference = float((np.abs(said - meant) / np.maximum(1.0, np.abs(meant))).max())
        if entry["precision"] == "fp32" and not difference <= allowed_difference(
            member.predictions.metadata.get("provenance", {})
        ):
            raise BundleFailure(
                f"{member.name}: the runner's probabilities differ from the study's by up to {difference:.1e} "
                f"on {len(cases)} {unit_of(member.cache.images)} of fold {member.account['fold']}: the exported file "
                "is another network than the predictions come from; run the export and predictions again"
            )
        found.append(
            {
                "member": member.name,
                "n_images": len(cases),
                "max_logit_difference": float(np.abs(logits - expected).max()),
                "max_probability_difference": difference,
            }
        )
    return found


def check_combination(study: Mapping[str, Any] | None) -> None:
    """Refuse an ensemble that the runner would combine otherwise than the study did.

    Args:
        study: `study_difference` of the deployed fits; None of a single model.
    Raises:
        BundleFailure: If a probability differs by more than 1e-4.
    """
    difference = None if study is None else study["max_probability_difference"]
    if difference is not None and not difference <= PARITY:
        raise BundleFailure(
            f"combined by the runner, the members' predictions differ from the study's ensemble by up to "
            f"{difference:.1e}: its decision.json or predictions are older than its members; run snakemake again"
        )


def checked_rows(member: MemberSource) -> tuple[list[str], np.ndarray]:
    """Return cases that the exported network predicted in the study, spread over its table, and their logits."""
    table = member.predictions
    own = table.select((table.fold == member.account["fold"]) & (table.seed == member.seed))
    own = own.test if len(own.test) else own
    picked = np.unique(np.linspace(0, len(own) - 1, min(CHECKED_IMAGES, len(own))).astype(int))
    return own.case_id[picked].tolist(), own.logits[picked]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
