"""Put a model or the ensemble of a study into a folder and a zip that run without torch (archbench-predict).

    python scripts/bundle.py --study study.json --dataset eyes --model resnet18 --precision fp32 \\
        --member resnet18:resnet18/export.json:images-96.json:resnet18/predictions.parquet --manifest … \\
        --output resnet18/bundle-fp32 --zip resnet18/bundle-fp32.zip
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archbench.artifacts import provenance, read_json, read_predictions, read_table
from archbench.command_line import bundle_parser, label_progress, run
from archbench.config import Study, load_study
from archbench.image_cache import open_cache
from archbench.tasks import get_task
from archbench.thresholds import rule_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from archbench.bundle import MemberSource
    from archbench.bundle_files import Images
    from archbench.card_sections import Facts
    from archbench.deployed_ensemble import Recipe


def main(argv: list[str] | None = None) -> int:
    """Collect, let the runner check, write."""
    from archbench import model_card
    from archbench.bundle import check_runner
    from archbench.bundle_files import read_images, write_expected
    from archbench.bundle_writer import Kind, write_bundle

    arguments = _parse(argv)
    label_progress(f"bundle {arguments.dataset}/{arguments.model}")
    study = load_study(arguments.study)
    members = [_member(study, arguments.dataset, *entry.split(":", 3)) for entry in arguments.member]
    recipe = _recipe(study, arguments.decision)
    if recipe is not None:
        members = _chosen(members, recipe.members)
    manifest, metadata = read_table(arguments.manifest)
    images = read_images(manifest, metadata["root"])
    kind = Kind(
        fill=lambda folder: _fill(
            study, arguments, members, recipe, folder, images=images, phantom=bool(metadata.get("phantom"))
        ),
        check=lambda folder: check_runner(folder, members, images),
        answer=write_expected,
        card=model_card.model_card,
    )
    write_bundle(Path(arguments.output), Path(arguments.zip), kind, _known(study, arguments, members))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = bundle_parser(__doc__)
    parser.add_argument(
        "--member", nargs="+", required=True, help="name:export.json:image cache pointer:prediction table"
    )
    parser.add_argument("--predictions", required=True, help="prediction table of the model or ensemble")
    parser.add_argument("--decision", help="decision.json of the ensemble")
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--calibration", required=True)
    return parser.parse_args(argv)


def _member(study: Study, dataset: str, name: str, account: str, pointer: str, table: str) -> MemberSource:
    from archbench import bundle_network
    from archbench.bundle import MemberSource

    network = study.network_of(name, dataset)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if study.datasets[dataset].volumes is not None:
        steps, mean, std = _volume_steps(study, dataset, name), (0.0,), (1.0,)
    else:
        mean, std = bundle_network.pixel_normalization(
            network["architecture"], network["normalization"], in_channels=network["in_channels"]
        )
        steps = bundle_network.image_steps(
            study.datasets[dataset].preprocessing.model_dump(),
            size=study.image_size(name),
            max_pixels=study.audit.max_pixels,
        )
    return MemberSource(
        name=name,
        architecture=network["architecture"],
        account=read_json(account),
        folder=Path(account).parent,
        cache=open_cache(pointer),
        preprocessing=steps,
        mean=mean,
        std=std,
        predictions=read_predictions(table, classes=study.logit_names(dataset) or None),
    )


def _volume_steps(study: Study, dataset: str, name: str) -> dict[str, Any]:
    from archbench_predict.volume_description import VolumePreparation, describe_volume_steps
    from archbench_predict.volumes import VolumeSettings

    settings = study.datasets[dataset].volumes
    assert settings is not None
    z, y, x = settings.spacing or (None, None, None)
    spacing = None if z is None or y is None or x is None else (z, y, x)
    slices = VolumeSettings(settings.slices.strategy, settings.slices.count, spacing)
    preparation = VolumePreparation(slices, study.image_size(name), settings.rescale)
    return describe_volume_steps(preparation, max_voxels=study.audit.max_pixels)


def _known(study: Study, arguments: argparse.Namespace, members: list[MemberSource]) -> Facts:
    from archbench.bundle_writer import licences
    from archbench.card_sections import Facts

    return Facts(
        metrics=read_json(arguments.metrics),
        calibration=read_json(arguments.calibration),
        audit=read_json(arguments.audit),
        configuration=study.model_dump(mode="json"),
        licences=licences(study.models, [member.name for member in members]),
    )


def _recipe(study: Study, decision: str | None) -> Recipe | None:
    """The ensemble's choice; None of a single model."""
    from archbench.deployed_ensemble import recipe_of
    from archbench.neural_stacking import NetworkSettings

    if decision is None:
        return None
    network = study.ensemble.mlp
    settings = NetworkSettings(**{**network.model_dump(), "hidden": tuple(network.hidden)})
    return recipe_of(read_json(decision), settings)


def _chosen(members: list[MemberSource], names: Sequence[str]) -> list[MemberSource]:
    by_name = {member.name: member for member in members}
    strangers = [name for name in names if name not in by_name]
    if strangers:
        raise ValueError(f"the ensemble's member '{strangers[0]}' is no model of this study, so it can't be bundled")
    return [by_name[name] for name in names]


def _fill(
    study: Study,
    arguments: argparse.Namespace,
    members: list[MemberSource],
    recipe: Recipe | None,
    folder: Path,
    *,
    images: Images,
    phantom: bool,
) -> dict[str, Any]:
    """Put networks and example into the folder and return the content of bundle.json."""
    from archbench import bundle, bundle_files

    content, dataset = _content(study, arguments, members, recipe, folder), study.datasets[arguments.dataset]
    content["example"] = bundle_files.add_example(
        folder,
        bundle.checked_rows(members[0])[0][0] if phantom else None,
        images,
        size=max(study.image_size(member.name) for member in members),
        masked=dataset.preprocessing.mask_focus != "none",
        volume=dataset.volumes is not None,
    )
    return content


def _content(
    study: Study,
    arguments: argparse.Namespace,
    members: list[MemberSource],
    recipe: Recipe | None,
    folder: Path,
) -> dict[str, Any]:
    """Copy the networks and return what bundle.json says but for the example."""
    from archbench import bundle, bundle_network, deployment_fits
    from archbench_predict.outputs import Task

    dataset, task = arguments.dataset, get_task(study.datasets[arguments.dataset].task)
    entries = []
    for member in members:
        variant = bundle_network.passed_variant(member.account, arguments.precision)
        file = "model.onnx" if len(members) == 1 else f"members/{member.name}/model.onnx"
        bundle_network.copy_network(member, variant, folder, file)
        entries.append(bundle_network.member_content(member, variant, file))
    own = members[0].predictions
    meaning = Task(
        outputs=own.outputs,
        classes=() if own.outputs in ("labels", "value") else study.class_names(dataset),
        labels=own.labels,
        decision=task.decision,
    )
    rated = study.evaluation
    fits = deployment_fits.deployed_fits(
        {member.name: member.predictions for member in members},
        recipe=recipe,
        seed=members[0].seed,
        task=meaning,
        rule=rule_of(rated.thresholds.rule, rated.thresholds.value),
        few=rated.thresholds.few_positive_patients,
        isotonic_patients=rated.isotonic_patients if rated.isotonic else None,
        delivered=None if recipe is None else read_predictions(arguments.predictions),
    )
    bundle.check_combination(fits.get("study"))
    return {
        "name": f"{study.study}-{dataset}-{arguments.model}-{arguments.precision}",
        "task": task.name,
        "logits": list(own.classes),
        **asdict(meaning),
        "members": entries,
        **fits,
        "provenance": provenance(
            study=study.study, dataset=dataset, model=arguments.model, config_hash=study.hash, code=arguments.code
        ),
    }


if __name__ == "__main__":
    run(main)
