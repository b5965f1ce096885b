"""Area under the precision-recall curve (average precision), over labels and pooled."""

from __future__ import annotations

from archbench.metrics.auroc import one_vs_rest
from archbench.metrics.metric import Metric
from archbench.registry import METRICS
from archbench.resampling import average_precision

METRICS.register(
    "auprc_macro",
    Metric(
        name="auprc_macro",
        kind="rank",
        greater_is_better=True,
        function=average_precision,
        undefined_reason="no label has enough positive and negative patients, or one has no positive in any fold",
        terms=one_vs_rest,
    ),
)
METRICS.register(
    "auprc_micro",
    Metric(
        name="auprc_micro",
        kind="rank",
        greater_is_better=True,
        function=average_precision,
        undefined_reason="there are no positive cells",
        terms=one_vs_rest,
        of="pooled",
    ),
)
