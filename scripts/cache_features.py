"""Compute the features of a frozen backbone once, for the heads of every fold and seed.

python scripts/cache_features.py --study study.yaml --dataset eyes --model resnet18 --cache-dir results/cache/features …
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from archbench.artifacts import read_json, write_json
from archbench.cases import read_cases
from archbench.command_line import label_progress, run, stage_parser
from archbench.config import Study, load_study


def main(argv: list[str] | None = None) -> int:
    """Parse, compute what is not there yet, write the pointer file."""
    arguments = _parse(argv)
    label_progress(f"cache_features {arguments.dataset}/{arguments.model}")
    path = _cache(load_study(arguments.study), arguments)
    write_json(arguments.output, {"path": str(path)})
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = stage_parser(__doc__, model=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--folds", required=True)
    parser.add_argument("--cache", required=True, help="pointer file of the image cache")
    parser.add_argument("--weights", required=True, help="safetensors file of the frozen backbone")
    parser.add_argument("--cache-dir", required=True, help="folder of the feature caches")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", required=True, help="pointer file to write")
    return parser.parse_args(argv)


def _cache(study: Study, arguments: argparse.Namespace) -> Path:
    from archbench.devices import prepare_torch, resolve_device
    from archbench.features import build_features, features_key
    from archbench.starting import Job, start_network

    cases = read_cases(arguments.manifest, arguments.folds, arguments.cache)
    model, dataset = study.models[arguments.model], study.datasets[arguments.dataset]
    recipe = study.training_of(arguments.model, arguments.dataset)
    job = Job(
        model=model,
        dataset=dataset,
        recipe=recipe,
        network=study.network_of(arguments.model, arguments.dataset),
        seed=0,
        weights=arguments.weights,
        device=study.compute.device,
        threads=arguments.threads,
    )
    content = {
        "images": Path(read_json(arguments.cache)["path"]).name,
        "weights": hashlib.sha256(Path(arguments.weights).read_bytes()).hexdigest(),
        "network": _read_by(job.network),
        "code": arguments.code,
    }
    path = Path(arguments.cache_dir) / f"{features_key(content)}.npy"
    prepare_torch(threads=arguments.threads)
    device = resolve_device(study.compute.device)
    network, _ = start_network(job, cases)
    build_features(path, network, cases.cache.images, batch_size=recipe.eval_batch_size, device=device)
    return path


def _read_by(network: dict[str, Any]) -> dict[str, Any]:
    """What of a network decides its features: how they are pooled over slices is no part of it."""
    if "volume" not in network:
        return network
    return network | {"volume": {key: value for key, value in network["volume"].items() if key != "pooling"}}


if __name__ == "__main__":
    run(main)
