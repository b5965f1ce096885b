"""The interval of a metric as every file shows it: percentiles, or what stands in where they say too little."""

from __future__ import annotations

from functools import partial

from archbench.auroc_tests import has_delong, with_delong
from archbench.metrics.drawn import Drawn
from archbench.metrics.metric import Metric
from archbench.metrics.scoring import Scores, frozen_questions
from archbench.proportions import patients_behind, settled
from archbench.statistics import Estimate, estimate


def interval_of(drawn: Drawn, metric: Metric, scores: Scores, *, confidence: float) -> Estimate:
    """Return a metric of a table with its interval.

    An AUROC near 1 or of few patients takes the logit-DeLong interval, a proportion that no resample changes Wilson's.

    Args:
        drawn: The scored rows.
        metric: What was computed.
        scores: By `score_drawn` of these rows.
        confidence: Level.
    """
    found = estimate(scores, confidence=confidence, bounds=metric.bounds, centred=metric.centred)
    if has_delong(metric, drawn.predictions):
        questions = frozen_questions(drawn.predictions, metric)
        found = with_delong(found, drawn.predictions, metric, questions, confidence=confidence)
    behind = partial(patients_behind, drawn, metric)
    return settled(found, behind, confidence=confidence, from_share=metric.from_share)
