"""Sections `training`, `models` and `tuning`: a recipe, a candidate, and the search for its numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from archbench.settings.base import Settings


class EarlyStopping(Settings):
    """When training ends before its last epoch; the best epoch is the one that is kept."""

    metric: str | None = Field(None, description="Validation metric, or loss; default: the task's primary metric.")
    mode: Literal["max", "min"] | None = Field(None, description="Direction; must agree with the metric.")
    patience: int = Field(10, ge=1, description="Epochs without a new best before training ends.")
    min_delta: float = Field(0.0, ge=0, description="Smallest gain that counts as a new best.")


class AsymmetricLoss(Settings):
    """Numbers of the loss `asl`."""

    gamma_negative: float = Field(4.0, ge=0, description="Focusing exponent of negatives.")
    gamma_positive: float = Field(1.0, ge=0, description="Focusing exponent of positives.")
    clip: float = Field(0.05, ge=0, lt=1, description="Probability up to which a negative costs nothing.")


class Training(Settings):
    """Recipe of one model. A model entry may override every key."""

    preset: bool = Field(
        False,
        description="Take lr, batch_size, optimizer, epochs and patience that the study doesn't name from the "
        "architecture's preset (docs/architectures.md): default < preset < `training` < `models.<name>.training`.",
    )
    loss: str | None = Field(None, description="Loss; default: the task's.")
    focal_gamma: float = Field(2.0, ge=0, description="Focusing exponent of the focal loss.")
    focal_alpha: float | None = Field(
        None, gt=0, lt=1, description="Weight of the positive side in the focal loss of labels; unset: no balance."
    )
    asl: AsymmetricLoss = Field(default_factory=AsymmetricLoss)
    tversky_alpha: float = Field(
        0.3, ge=0, le=1, description="Weight of false positives in the loss tversky; that of misses is 1 - alpha."
    )
    huber_delta: float = Field(1.0, gt=0, description="Error from which the loss huber grows linearly.")
    ungradable_weight: float = Field(
        0.3, ge=0, le=1, description="Weight of ungradable zones (the last class of a zones task); 0 masks them."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Smoothing of the targets; labels: t (1 - a) + a / 2.")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="SGD runs with `momentum`.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum (sgd).")
    lr: float = Field(1e-4, gt=0, description="Peak learning rate.")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the rate from each stage to the one before it; 1: one rate for all."
    )
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay, not applied to biases and norms.")
    schedule: Literal["cosine", "step", "plateau", "one_cycle", "constant"] = Field(
        "cosine", description="Of the learning rate; one_cycle rises for a tenth of the epochs, then falls to nothing."
    )
    min_lr_ratio: float = Field(0.01, ge=0, le=1, description="Floor of cosine and plateau, as a share of lr.")
    step_epochs: int = Field(10, ge=1, description="Epochs between two steps (step), or without gain (plateau).")
    step_factor: float = Field(0.1, gt=0, lt=1, description="Factor of one step (step, plateau).")
    warmup_epochs: int = Field(0, ge=0, description="Epochs with a linearly rising rate, before any schedule.")
    epochs: int = Field(30, ge=1, description="Epochs at most.")
    batch_size: int = Field(
        8, ge=1, description="Images per pass; halved, with more passes per update, where memory runs out."
    )
    accumulation_steps: int = Field(
        1, ge=1, description="Passes per update: the gradient is that of batch_size x accumulation_steps images."
    )
    eval_batch_size: int = Field(32, ge=1, description="Images per step of validation and prediction.")
    grad_clip: float | None = Field(1.0, gt=0, description="Largest gradient norm; null leaves it alone.")
    average_epochs: float = Field(
        1.0, ge=0, description="Horizon, in epochs, of the running average of the weights that is validated; 0: none."
    )
    freeze: Literal["none", "backbone"] = Field(
        "none", description="backbone: only the head is ever trained, normalisation statistics at rest."
    )
    cache_features: bool = Field(
        True, description="freeze: backbone with augmentation: none and pretrained weights: one pass, cached for all."
    )
    freeze_epochs: int = Field(0, ge=0, description="Epochs in which only the head is trained, the backbone at rest.")
    unfreeze: Literal["all", "progressive"] = Field(
        "all", description="After freeze_epochs: the whole backbone at once, or stage by stage from the head."
    )
    unfreeze_every: int = Field(1, ge=1, description="Epochs between two stages (unfreeze: progressive).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the last layer (see head: mlp for two).")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Probability of a dropped residual branch in the deepest block (stochastic depth)."
    )
    sampler: Literal["uniform", "balanced"] = Field(
        "uniform", description="balanced: rare classes or labels are drawn as often as frequent ones."
    )
    augmentation: Literal["none", "light", "strong"] = Field(
        "light", description="Drawn anew for each image and epoch."
    )
    flips: Literal["auto", "none", "horizontal", "both"] = Field(
        "auto", description="Mirroring within augmentation; auto: both, but none for tasks where left and right matter."
    )
    mixup: float = Field(0.0, ge=0, description="Blend pairs of images, share from Beta(a, a); 0: off.")
    cutmix: float = Field(
        0.0,
        ge=0,
        description="Paste a rectangle of another image, area from Beta(a, a); 0: off. Beside mixup: by turns.",
    )
    clahe_probability: float = Field(0.7, ge=0, le=1, description="Share of CLAHE images (preprocessing.clahe).")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 or fp16 on CUDA, fp32 elsewhere."
    )
    gradient_checkpointing: bool = Field(False, description="Recompute activations to save memory; costs time.")
    channels_last: bool = Field(False, description="Channels-last memory layout of images and weights.")
    compile: bool = Field(False, description="torch.compile the training pass; needs a C++ compiler on a CPU.")
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)


class Prompt(Settings):
    """Where a prompted network (`sam:`) is told to draw: one box or point for each structure of an image."""

    kind: Literal["box", "point"] = Field("box", description="A box, or one point in the structure.")
    csv: str | None = Field(
        None,
        description="Table of given prompts: case, structure and x0, y0, x1, y1 (box) or x, y (point), in pixels of "
        "the source picture (of a volume, of its slices as they are shown); what has no row is predicted empty. Unset: "
        "the box of the true mask, or its deepest pixel, which the report declares as an upper bound.",
    )
    jitter: float = Field(
        0.1,
        ge=0,
        le=0.5,
        description="In training, prompts come of the true masks, each edge or the point moved by up to this share of "
        "the structure's width and height.",
    )


class Model(Settings):
    """One candidate: an architecture with its recipe."""

    architecture: str = Field(
        description="Name (docs/architectures.md), timm:<name> for any other of timm, hf:<repository or folder> for a "
        "vision backbone of Hugging Face; for masks also decoder:<name of timm>, decoder:hf:<repository or folder>, "
        "and sam:<repository or folder>."
    )
    weights: str = Field(
        "none",
        description="Start: none, imagenet (timm's), hub (the architecture's own repository), package, "
        "package:<name>, or file:<path> (safetensors, the index of several, or a checkpoint of tensors alone).",
    )
    image_size: int | None = Field(None, ge=16, le=2048, description="Side of the input; default: the architecture's.")
    checkpoint: str | None = Field(
        None,
        description="Weights to evaluate without training (safetensors or .pth); hub: those that a prompted network's "
        "repository publishes, head included.",
    )
    prompt: Prompt | None = Field(None, description="Prompts of a prompted network (`sam:`); default: true boxes.")
    head: Literal["linear", "mlp"] = Field(
        "linear", description="Last layer, or dropout → `head_hidden` units → ReLU → half the dropout → last layer."
    )
    head_hidden: int = Field(512, ge=1, description="Units of the hidden layer (head: mlp).")
    attention: Literal["none", "se", "cbam"] = Field(
        "none", description="Attention block on the feature map before pooling, reduction 16."
    )
    volume_pooling: Literal["mean", "max", "attention"] = Field(
        "attention",
        description="Volumes: how the features of the slices become those of the volume; attention is gated and "
        "learned. Three-dimensional architectures pool none.",
    )
    slice_input: Literal["single", "triplet"] = Field(
        "triplet",
        description="Volumes: what the backbone sees of a slice: it alone, or with its neighbours among the chosen "
        "slices as the other two channels (2.5D).",
    )
    training: dict[str, object] = Field(default_factory=dict, description="Overrides of `training`.")


class SearchRange(Settings):
    """Values that the search may try for one training key."""

    low: int | float | None = Field(None, description="Smallest value; whole numbers at both ends try whole numbers.")
    high: int | float | None = Field(None, description="Largest value.")
    log: bool = Field(False, description="Try powers evenly, not values.")
    choices: list[str | int | float | bool] | None = Field(None, description="The values to choose from, instead.")


def default_space() -> dict[str, SearchRange]:
    """Return what is searched when a study says nothing: rate and weight decay."""
    return {"lr": SearchRange(low=1e-5, high=1e-2, log=True), "weight_decay": SearchRange(low=1e-6, high=0.1, log=True)}


class Tuning(Settings):
    """Hyper-parameter search, one per model and fold, on that fold's validation part alone."""

    trials: int = Field(50, ge=1, description="Trainings per model and fold, the same for every model.")
    sampler: Literal["tpe", "random", "cmaes"] = Field("tpe", description="How the next values are chosen.")
    pruner: Literal["median", "successive_halving", "none"] = Field(
        "median", description="When a training that lags behind is broken off."
    )
    space: dict[str, SearchRange] = Field(
        default_factory=default_space,
        description="What is searched, by training key (asl.clip for nested ones); default: lr from 1e-5 to 1e-2 and "
        "weight_decay from 1e-6 to 0.1, both on a log scale.",
    )
    timeout_min: float | None = Field(None, gt=0, description="Minutes after which a worker starts no new training.")
    workers: int = Field(1, ge=1, le=64, description="Jobs that share the trainings of one model and fold.")
    seed: int = Field(0, ge=0, description="Seed of the choices.")
    apply: bool = Field(True, description="Train with the values found; false only searches (snakemake tune).")
