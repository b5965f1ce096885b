"""Grad-CAM pictures of random test cases of one model.

python scripts/explain.py --study study.yaml --dataset phantom --model resnet18 --output gradcam …
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_predictions, write_json
from archbench.cases import Cases, read_cases
from archbench.checkpoints import parse_checkpoints
from archbench.command_line import checkpoint_parser, label_progress, run
from archbench.config import Study, load_study

if TYPE_CHECKING:
    import argparse


def main(argv: list[str] | None = None) -> int:
    """Parse, explain, write the pictures and their list."""
    arguments = _parse(argv)
    label_progress(f"explain {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    cases = read_cases(arguments.manifest, arguments.folds, arguments.cache)
    write_json(Path(arguments.output) / "gradcam.json", _explain(study, cases, arguments))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = checkpoint_parser(__doc__)
    parser.add_argument("--predictions", required=True)
    parser.add_argument("--output", required=True, help="folder of the pictures to write")
    return parser.parse_args(argv)


def _explain(study: Study, cases: Cases, arguments: argparse.Namespace) -> dict[str, Any]:
    from archbench import devices, explain
    from archbench.models.building import build_network, cam_layer_name

    devices.prepare_torch(threads=arguments.threads)
    device = devices.resolve_device(study.compute.device)
    network = build_network(**study.network_of(arguments.model, arguments.dataset), num_classes=len(cases.classes))
    paths = {(entry.fold, entry.seed): entry.path for entry in parse_checkpoints(arguments.checkpoint)}
    predictions = read_predictions(arguments.predictions, cases.classes)
    chosen, questions = explain.choose(predictions, study.explain.cases, seed=study.explain.seed)
    items = explain.explain(network, paths, chosen, cases, device=device, questions=questions)
    files = explain.write_pictures(items, Path(arguments.output))
    return {
        "provenance": provenance(
            study=study.study,
            dataset=arguments.dataset,
            model=arguments.model,
            config_hash=study.hash,
            code=arguments.code,
            device=devices.device_name(device),
        ),
        "target_layer": cam_layer_name(network),
        "cases": [_case(item, names) for item, names in zip(items, files, strict=True)],
        "lesion_hit": explain.lesion_hit_record(items, confidence=study.evaluation.confidence),
        "slice_hit": explain.slice_hit_record(items, confidence=study.evaluation.confidence),
    }


def _case(item: Any, names: dict[str, str]) -> dict[str, Any]:
    question = item.question
    several = {"label": question.label, "outcome": question.outcome} if question.label else {}
    return {
        "case_id": item.case_id,
        "fold": item.fold,
        "true": question.true,
        "predicted": question.predicted,
        **several,
        "probability": item.probability,
        "cam_max_in_lesion": item.cam_max_in_lesion,
        **_slices(item.volume),
        **names,
    }


def _slices(volume: Any) -> dict[str, Any]:
    """Which slice stands for a volume, and how much each counted; nothing of an image."""
    if volume is None:
        return {}
    weights = None if volume.weights is None else [round(float(weight), 6) for weight in volume.weights]
    return {"slice": volume.key_slice + 1, "n_slices": len(volume.pixels), "slice_weights": weights}


if __name__ == "__main__":
    run(main)
