"""The keys of a study file: types, defaults, bounds and descriptions, nothing else.

One module per group of sections; the names are imported from here. `archbench.config` reads and checks study files
against these classes; `config/README.md` and `workflow/schemas/study.schema.json` are generated from them.
"""

from archbench.settings.base import Name, Settings
from archbench.settings.data import (
    BlankPolicy,
    Columns,
    Dataset,
    Labels,
    Phantom,
    Preprocessing,
    Segmentation,
    SliceChoice,
    UncertainPolicy,
    Volumes,
)
from archbench.settings.deployment import Bundle, Explain, FinalModel, Inference
from archbench.settings.evaluation import Ensemble, Evaluation, Protocol, StackingNetwork, Thresholds
from archbench.settings.study import Audit, Compute, HubBoard, Leaderboard, Severity, StudyFile, StudySections
from archbench.settings.training import AsymmetricLoss, EarlyStopping, Model, Prompt, SearchRange, Training, Tuning

__all__ = [
    "AsymmetricLoss",
    "Audit",
    "BlankPolicy",
    "Bundle",
    "Columns",
    "Compute",
    "Dataset",
    "EarlyStopping",
    "Ensemble",
    "Evaluation",
    "Explain",
    "FinalModel",
    "HubBoard",
    "Inference",
    "Labels",
    "Leaderboard",
    "Model",
    "Name",
    "Phantom",
    "Preprocessing",
    "Prompt",
    "Protocol",
    "SearchRange",
    "Segmentation",
    "Settings",
    "Severity",
    "SliceChoice",
    "StackingNetwork",
    "StudyFile",
    "StudySections",
    "Thresholds",
    "Training",
    "Tuning",
    "UncertainPolicy",
    "Volumes",
]
