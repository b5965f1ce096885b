"""Sections `final`, `bundle`, `explain` and `inference`: what is made of the trained models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archbench.settings.base import Settings


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
