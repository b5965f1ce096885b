"""The keys of a study file: types, defaults, bounds and descriptions, nothing else.

`archbench.config` reads and checks study files against these classes; `config/README.md` and
`workflow/schemas/study.schema.json` are generated from them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=60)]
Severity = Literal["error", "warning", "off"]


class Settings(BaseModel):
    """A frozen block of settings that refuses unknown keys and silent type changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Columns(Settings):
    """Columns of a `table` CSV."""

    image: str = Field("image", description="Column with the image path, relative to `root`.")
    patient: str | None = Field(
        None, description="Column with the patient. Without it each image counts as a patient of its own (warned)."
    )
    label: str | list[str] = Field(
        "label",
        description="Column with the class (its index, or its name in `classes`) or the number (regression); a list: "
        "one column per label (multilabel: 0 or 1) or zone (zones: the grade).",
    )
    split: str | None = Field(None, description="Column with train, val or test (`protocol.kind: given`, `holdout`).")
    fold: str | None = Field(None, description="Column with the fold number (`protocol.kind: given`).")


class Preprocessing(Settings):
    """Done once per image, before training, and kept in the image cache."""

    crop_border: bool = Field(False, description="Cut the dark border off (threshold 10, 5 % pad).")
    center_crop: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Keep the central square of this share of the shorter side: .875 is resize 256, centre crop 224. "
        "Unset: the whole picture, squeezed to a square.",
    )
    mask_focus: Literal["none", "crop", "blank"] = Field(
        "none",
        description="What a mask does (dataset.masks): crop to its box with 5 % pad, blank all outside it, or nothing.",
    )
    clahe: float | None = Field(
        None, gt=0, description="Clip limit of contrast equalisation (training only, p = training.clahe_probability)."
    )
    normalization: Literal["auto", "imagenet", "half"] = Field(
        "auto", description="Mean and std: the architecture's own (auto), ImageNet's, or .5 and .5 (half)."
    )
    channels: Literal["rgb", "gray"] = Field(
        "rgb",
        description="gray keeps one channel (a third of the cache); the first convolution of pretrained weights is "
        "averaged over its three.",
    )
    intensity: Literal["full_range", "min_max"] = Field(
        "full_range", description="16-bit images: scale the type's full range, or each image's own minimum to maximum."
    )


class SliceChoice(Settings):
    """Which slices of a volume are used."""

    strategy: Literal["multi", "anatomical", "all", "best"] = Field(
        "multi",
        description="multi: `count` slices, 20 % of them in the lowest third, 60 % in the middle one, 20 % in the "
        "highest; anatomical: six at .1 .25 .4 .55 .7 .85 of the height; all: the whole volume in `count` slabs "
        "side by side, so the z of `spacing` has no effect; best: the one with most lung.",
    )
    count: int = Field(12, ge=1, le=1024, description="Number of slices (multi, all).")

    @property
    def depth(self) -> int:
        """Number of slices that the strategy gives."""
        return {"anatomical": 6, "best": 1}.get(self.strategy, self.count)


class Volumes(Settings):
    """How slices are made of CT volumes (formats `ct_rate`, `phantom_ct`, `phantom_ct_hybrid`)."""

    hu_window: list[float] = Field(
        default=[-1000.0, 1000.0],
        min_length=2,
        max_length=2,
        description="Hounsfield units that networks see as black and as white. The cache is not clipped to it.",
    )
    spacing: list[float] | None = Field(
        None,
        min_length=3,
        max_length=3,
        description="Voxel size to resample to: z, y, x in mm, such as [1.5, .75, .75]. The field of view is then "
        "image_size × spacing around the centre: the rest is cut off, what lacks is air. Unset: the file's own slices, "
        "each squeezed whole into the square.",
    )
    rescale: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Slope and intercept of the metadata table: applied unless the voxels are Hounsfield units "
        "already, always, or never. Those of a file's own header always are.",
    )
    slices: SliceChoice = Field(default_factory=SliceChoice)


class Phantom(Settings):
    """Drawn data with known truth (formats `phantom`, `phantom_chest`, `phantom_zones`, `phantom_ct`, `…_hybrid`)."""

    patients: int = Field(
        300, ge=20, description="Patients, two images each (two eyes, two visits); phantom_ct: one to four volumes."
    )
    image_size: int = Field(160, ge=64, description="Side of the drawn images, pixels; of volumes, of their slices.")
    seed: int = Field(42, ge=0, description="Seed of the drawing.")
    confounder: float = Field(
        0.0,
        ge=0,
        le=1,
        description="phantom_chest: how strongly a marker in the corner goes with the first label; 0: it says "
        "nothing, 1: it is there exactly where the label is.",
    )
    label_noise: float = Field(
        0.0, ge=0, lt=0.5, description="phantom_chest: share of the recorded labels that are wrong, drawn at random."
    )


UncertainPolicy = Literal["ignore", "zeros", "ones", "smooth"]
BlankPolicy = Literal["ignore", "zeros", "ones"]


class Labels(Settings):
    """What the values of a label column mean where they are neither 0 nor 1 (`chexpert`)."""

    uncertain: dict[str, UncertainPolicy] = Field(
        default_factory=dict,
        description="Policy for -1 by label; `default` for all others (ignore): ignore (unknown, neither trained nor "
        "scored), zeros, ones, smooth (trained towards smooth_target, never scored).",
    )
    blank: dict[str, BlankPolicy] = Field(
        default_factory=dict,
        description="Policy for a blank (not mentioned) by label; `default` for all others (zeros): ignore, zeros, "
        "ones.",
    )
    smooth_target: float = Field(0.7, gt=0, lt=1, description="Training target of an uncertain label (smooth).")


class Segmentation(Settings):
    """What the values of masks mean, and how volumes become slices (task segmentation)."""

    structures: dict[Name, list[Annotated[int, Field(ge=1)]]] = Field(
        default_factory=dict,
        description="Structures by name with their values in the mask files; an empty list takes every value but 0. "
        "Values that none names are background.",
    )
    tolerance_mm: float = Field(2.0, ge=0, description="Surfaces closer than this agree (surface Dice).")
    spacing_mm: float | None = Field(None, gt=0, description="Pixel spacing of PNG, JPEG and TIFF; unset: in pixels.")
    window: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="Values of NIfTI images that become black and white, such as [-1000, 400] HU; unset: the 1st and "
        "99th percentile of each image.",
    )
    slice_step: int = Field(1, ge=1, description="Of volumes every how many-th axial slice is a case.")
    blocks: int = Field(
        0,
        ge=0,
        description="Parts that each volume is cut into, each counted as a patient, where there is one volume alone: "
        "a check of the machinery, no evidence for other patients. 0: a volume is a patient.",
    )
    block_gap: int = Field(0, ge=0, description="Slices left out between two parts, so that none has its like there.")
    max_cases: int = Field(0, ge=0, description="Images or volumes to use, first by name; 0 takes all.")


class Dataset(Settings):
    """One folder of images with its table."""

    format: str = Field(
        description="Reader: table, dr_folds, aptos, eyepacs, chexpert, csi_zones, ct_rate, image_masks, phantom, "
        "phantom_chest, phantom_zones, phantom_ct, phantom_ct_hybrid, phantom_masks."
    )
    csv: str | None = Field(None, description="The table, relative to `root`.")
    root: str | None = Field(
        None,
        description="Folder of the data, relative to the working directory, or package:<name>/<folder> inside an "
        "installed package; read-only.",
    )
    images: str | None = Field(
        None,
        description="Folder of the images inside `root` (aptos, eyepacs, csi_zones, ct_rate); image_masks: the folder "
        "of <case>_0000.nii.gz, <case>.nii.gz or pictures, or one file.",
    )
    metadata: str | None = Field(
        None,
        description="Table of slopes, intercepts and spacings inside `root` (ct_rate): VolumeName, RescaleSlope, "
        "RescaleIntercept, XYSpacing, ZSpacing.",
    )
    columns: Columns | None = Field(None, description="Column names (`table` only).")
    delimiter: Literal[",", ";", "\t", "|"] | None = Field(None, description="Separator of the CSV; found if unset.")
    encoding: str | None = Field(None, description="Encoding of the CSV; found if unset.")
    task: str = Field("ordinal", description="ordinal, multiclass, multilabel, zones, regression or segmentation.")
    classes: list[str] = Field(
        default_factory=list,
        description="Class names in order of their index (ordinal, multiclass, zones); labels have none.",
    )
    labels: list[str] = Field(
        default_factory=list,
        description="Label columns to use, in this order (chexpert, ct_rate; default: all 14, all 18).",
    )
    missing_label: Literal["drop", "error", "mask"] = Field(
        "drop",
        description="Rows without a label are dropped or stop the study. With several labels, mask keeps a row of "
        "which any is known and leaves the unknown ones out of training and scoring.",
    )
    label_values: Labels = Field(default_factory=Labels)
    view: Literal["all", "frontal", "lateral"] = Field("all", description="Views to use (chexpert).")
    masks: str | None = Field(
        None,
        description="Folder of masks inside `root`, named like the images (csi_zones; see preprocessing.mask_focus); "
        "image_masks: the folder of <case>.nii.gz or pictures, or one file.",
    )
    segmentation: Segmentation | None = Field(None, description="Structures and slices (task segmentation).")
    exclude: dict[Literal["patient", "image"], list[str]] = Field(
        default_factory=dict, description="Patients or images to leave out; each one is listed in the audit."
    )
    preprocessing: Preprocessing = Field(default_factory=Preprocessing)
    volumes: Volumes | None = Field(None, description="Slices of CT volumes; their formats take the defaults if unset.")
    phantom: Phantom | None = Field(None, description="Drawing (phantom formats only).")


class Protocol(Settings):
    """Who is trained on, validated on and tested on."""

    kind: Literal["cross_validation", "holdout", "given"] = Field(
        "cross_validation", description="Folds by patient, one split by patient, or the source's own folds."
    )
    folds: int = Field(5, ge=2, le=50, description="Folds (cross_validation, or a given fold column).")
    validation_fraction: float = Field(
        0.15, gt=0, lt=0.5, description="Share of the patients outside the test part that stops training."
    )
    test_fraction: float = Field(0.2, gt=0, lt=0.5, description="Share of the patients that is tested (holdout).")
    seeds: list[int] = Field(
        default=[42], min_length=1, description="Training seeds; each fold is trained once per seed."
    )
    split_seed: int = Field(42, ge=0, description="Seed of the split, shared by all training seeds.")


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


class Model(Settings):
    """One candidate: an architecture with its recipe."""

    architecture: str = Field(
        description="Name (docs/architectures.md), timm:<name> for any other of timm, hf:<repository or folder> for a "
        "vision backbone of Hugging Face."
    )
    weights: str = Field(
        "none",
        description="Start: none, imagenet (timm's), hub (the architecture's own repository), package, "
        "package:<name>, or file:<path> (safetensors, the index of several, or a checkpoint of tensors alone).",
    )
    image_size: int | None = Field(None, ge=16, le=2048, description="Side of the input; default: the architecture's.")
    checkpoint: str | None = Field(None, description="Weights to evaluate without training (safetensors or .pth).")
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
        default_factory=default_space, description="Training keys (asl.clip for nested ones) and their values."
    )
    timeout_min: float | None = Field(None, gt=0, description="Minutes after which a worker starts no new training.")
    workers: int = Field(1, ge=1, le=64, description="Jobs that share the trainings of one model and fold.")
    seed: int = Field(0, ge=0, description="Seed of the choices.")
    apply: bool = Field(True, description="Train with the values found; false only searches (snakemake tune).")


class FinalModel(Settings):
    """Training on all data once a model is chosen (snakemake final_model)."""

    models: list[str] | None = Field(None, description="Models to train on all data; default: all.")


class Bundle(Settings):
    """What is put into bundles to deploy (snakemake bundle, make bundle)."""

    models: list[str] | None = Field(None, description="Models, or ensemble; default: all, the ensemble included.")
    datasets: list[str] | None = Field(None, description="Datasets; default: all.")
    precision: Literal["fp32", "fp16", "int8"] = Field(
        "fp32", description="Exported variant; one that didn't pass its export's gate is refused."
    )


class Explain(Settings):
    """Grad-CAM pictures."""

    cases: int = Field(20, ge=1, description="Random test cases per model.")
    seed: int = Field(42, ge=0, description="Seed of the choice, the same for all models.")


class Inference(Settings):
    """Export of the models to ONNX, and their timing."""

    precisions: list[Literal["fp32", "fp16", "int8"]] = Field(
        default=["fp32"],
        min_length=1,
        description="Exported precisions; fp32 always is. int8 is for CPUs, fp16 for GPUs. Each must pass the gate.",
    )
    fold_normalization: bool = Field(
        False, description="The exported graph takes uint8 pixels and normalises them itself; else normalised float32."
    )
    non_inferiority_margin: float | None = Field(
        None,
        gt=0,
        description="Loss of the primary metric up to which an export passes the gate (lower end of the 90 % interval "
        "of the paired difference to torch); default: evaluation.delta.",
    )
    calibration_images: int = Field(300, ge=1, description="Training images that give int8 its ranges, at most.")
    export_timeout_min: float = Field(10.0, gt=0, description="Minutes for one way of exporting; then the next.")
    batch_sizes: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default=[1, 8, 32], min_length=1, description="Images per call on prepared input; the latency is that of 1."
    )
    runtimes: list[Literal["onnxruntime", "tensorrt", "torch", "torch_compile"]] = Field(
        default=["onnxruntime", "torch"],
        min_length=1,
        description="What runs the models, each in a process of its own; one that fails is shown with its reason. "
        "`onnxruntime` must be among them: the others are compared with it. `tensorrt` runs on cuda alone.",
    )
    devices: list[Literal["cpu", "cuda"]] = Field(
        default=["cpu"], min_length=1, description="Where they run; the first one's latency stands for a model."
    )
    regimes: list[Literal["prepared", "host_to_host", "end_to_end"]] = Field(
        default=["prepared", "host_to_host", "end_to_end"],
        description="Beside prepared input (which must be among them), single images from pixels to logits, and from "
        "the file through decoding and preprocessing to logits.",
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of each contender; by default what CPU affinity and container quota allow."
    )
    rounds: int = Field(9, ge=7, description="Interleaved rounds; each gives one paired ratio.")
    repeats: int = Field(3, ge=0, description="Rounds that may be added for those in which others used the machine.")
    calls: int = Field(
        10,
        ge=3,
        description="Timed calls per round and contender at batch 1, fewer at larger ones. Over all rounds, p95 needs "
        "72 of them and p99 368.",
    )
    cold_starts: int = Field(1, ge=1, le=20, description="Fresh processes of each contender whose start is timed.")
    budget_ms: float = Field(
        50.0, gt=0, description="Milliseconds that an image may take: the report says which model to use then."
    )


class StackingNetwork(Settings):
    """Training of the candidate mlp; one group of patients chooses the epoch."""

    hidden: list[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default=[256, 128], min_length=1, max_length=4, description="Units of each hidden layer."
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of hidden units left out in training.")
    epochs: int = Field(20, ge=1, description="Epochs at most.")
    lr: float = Field(1e-4, gt=0, description="Learning rate of Adam.")
    plateau: int = Field(3, ge=1, description="Epochs without a better validation loss after which lr is halved.")
    patience: int = Field(7, ge=1, description="Epochs without one after which training ends.")
    batch_size: int = Field(32, ge=1, description="Cases per step.")


class Ensemble(Settings):
    """What is tried on the models' out-of-fold predictions."""

    candidates: list[Literal["mean", "calibrated_mean", "weighted", "greedy", "logistic", "attention", "mlp"]] = Field(
        default=["mean", "logistic"],
        description="Tried from simple to complex, in any order here; an empty list switches the ensemble off.",
    )
    members: list[str] | None = Field(None, description="Models of this study to combine; default: all.")
    external: dict[Name, str] = Field(
        default_factory=dict,
        description="Members from other studies by name: a prediction table (predictions.parquet), the folder of a "
        "model, or a study's folder, where the model of this name is taken. Same cases and folds by patient.",
    )
    mlp: StackingNetwork = Field(default_factory=StackingNetwork)


class Thresholds(Settings):
    """How the thresholds of labels are chosen, always on other patients."""

    rule: Literal["f1", "youden", "sensitivity", "specificity", "cost"] = Field(
        "f1",
        description="Highest F1; highest sensitivity + specificity; the best specificity at a sensitivity of `value`, "
        "or the other way round; least cost, a missed positive as dear as `value` false alarms.",
    )
    value: float | None = Field(None, gt=0, description="Sensitivity or specificity to hold, or cost of a miss.")
    few_positive_patients: int = Field(
        25, ge=1, description="Positive patients below which a label takes the threshold of all labels."
    )


class Evaluation(Settings):
    """Intervals, comparisons, and what is fitted on other patients: calibration, thresholds, sets."""

    resamples: int = Field(2000, ge=200, description="Patient bootstrap draws for intervals.")
    comparison_resamples: int = Field(10000, ge=200, description="Draws for tests and ranks.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals.")
    delta: float | None = Field(
        None, gt=0, description="Margin of equivalence; default .01 (AUROC, Dice), .02 (QWK, others)."
    )
    clinical_cut: int = Field(2, ge=1, description="Class index from which a case counts as referable (ordinal).")
    thresholds: Thresholds = Field(default_factory=Thresholds)
    isotonic: bool = Field(
        False, description="Labels with enough patients are calibrated by isotonic steps instead of Platt's line."
    )
    isotonic_patients: int = Field(
        100, ge=10, description="Positive and negative patients that a label needs for isotonic steps."
    )
    conformal_coverage: float | None = Field(
        0.9, gt=0, lt=1, description="Chance with which prediction sets are to hold the truth; null makes none."
    )
    seed: int = Field(0, ge=0, description="Seed of the draws.")


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
