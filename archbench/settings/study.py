"""A whole study file, and the sections about the study as such: `audit`, `compute` and `leaderboard`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from archbench.settings.base import Name, Settings
from archbench.settings.data import Dataset
from archbench.settings.deployment import Bundle, Explain, FinalModel, Inference
from archbench.settings.evaluation import Ensemble, Evaluation, Protocol
from archbench.settings.training import Model, Training, Tuning

Severity = Literal["error", "warning", "off"]


class Audit(Settings):
    """How bad data may be."""

    duplicates: Severity = Field("error", description="The same file content under two patients.")
    near_duplicates: Severity = Field("warning", description="Nearly the same picture under two patients.")
    near_duplicate_distance: int = Field(
        4, ge=0, le=20, description="Bits of the 64-bit perceptual hash that may differ."
    )
    max_bad_fraction: float = Field(0.05, ge=0, le=1, description="Share of unusable rows that stops the study.")
    max_pixels: int = Field(200_000_000, ge=1, description="Pixels that a header may claim before it is refused.")


class Compute(Settings):
    """Where the work is done."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: CUDA, then Apple MPS, then CPU.")
    threads: int = Field(1, ge=1, description="CPU threads of one torch job (others run beside it).")
    mem_mb: int = Field(4000, ge=500, description="Memory of one torch job, first attempt, MB.")
    runtime_min: int = Field(240, ge=1, description="Run time of one torch job, first attempt, minutes.")
    log_dir: str = Field("logs", description="Folder of the job logs, relative to the working directory.")
    gpus: int = Field(0, ge=0, le=1, description="GPUs that a torch job asks the scheduler for.")
    data_roots: list[str] = Field(
        default_factory=list,
        description="More folders that a container may read, such as where links inside a dataset's `root` lead to; "
        "each `root` is bound by itself.",
    )


class HubBoard(Settings):
    """What the leaderboard of the Hugging Face hub asks for (scripts/leaderboard.py hub)."""

    tasks: list[str] = Field(
        default=["image-classification", "image-segmentation", "image-feature-extraction"],
        min_length=1,
        description="Tasks of the hub; each has its own table.",
    )
    tags: list[str] = Field(
        default=["medical", "medical-imaging", "radiology", "chest-x-ray", "pathology"],
        description="Tags, of which a model has at least one.",
    )
    searches: list[str] = Field(
        default_factory=list, description="Words in a model's name; what they find joins the tags' models."
    )
    licences: list[str] = Field(default_factory=list, description="Licences to keep, such as mit; empty: all.")
    min_downloads: int = Field(1000, ge=0, description="Downloads in 30 days from which a model is recommended.")
    recommendations: int = Field(5, ge=0, description="Recommendations per task at most.")
    limit: int = Field(50, ge=1, le=1000, description="Models asked for per question, most downloaded first.")
    cache_hours: float = Field(24.0, ge=0, description="Hours for which an answer of the hub is used again.")


class Leaderboard(Settings):
    """The memory of finished studies, and the board of the hub."""

    database: str | Literal[False] = Field(
        "results/archbench.sqlite",
        description="SQLite file that every finished study is added to, relative to the working directory; off: none.",
    )
    hub: HubBoard = Field(default_factory=HubBoard)


class StudySections(Settings):
    """Sections of a study file beside `study`, `datasets` and `models`."""

    protocol: Protocol = Field(default_factory=Protocol)
    training: Training = Field(default_factory=Training)
    tuning: Tuning | None = Field(None, description="Hyper-parameter search; none unless this section stands.")
    final: FinalModel = Field(default_factory=FinalModel)
    bundle: Bundle = Field(default_factory=Bundle)
    explain: Explain = Field(default_factory=Explain)
    inference: Inference = Field(default_factory=Inference)
    ensemble: Ensemble = Field(default_factory=Ensemble)
    evaluation: Evaluation = Field(default_factory=Evaluation)
    audit: Audit = Field(default_factory=Audit)
    compute: Compute = Field(default_factory=Compute)
    leaderboard: Leaderboard = Field(default_factory=Leaderboard)


class StudyFile(StudySections):
    """A whole study file."""

    study: Name = Field(description="Name; results go to results/<study>/.")
    datasets: dict[Name, Dataset] = Field(min_length=1, description="Datasets by name.")
    models: dict[Name, Model] = Field(min_length=1, description="Candidates by name.")
