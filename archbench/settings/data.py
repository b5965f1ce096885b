"""Section `datasets`: a folder of images with its table, its preprocessing, its volumes and masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archbench.settings.base import Name, Settings


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
        description="Structures by name with their values in the mask files; an empty list takes every value but 0.",
    )
    other_values: Literal["error", "background"] = Field(
        "error",
        description="Values that no structure names: an error that names the file, or background like 0 (the audit "
        "then lists them).",
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
