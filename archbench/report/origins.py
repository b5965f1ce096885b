"""Which versions and which code and settings made the artifacts of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archbench.report.collect import StudyResult


def versions_of(study: StudyResult) -> dict[str, str]:
    """Package versions as the artifacts name them; where artifacts differ, all versions."""
    found: dict[str, list[str]] = {}
    for provenance in _provenances(study).values():
        items = {"python": provenance.get("python"), **(provenance.get("packages") or {})}
        for name, version in items.items():
            if version and str(version) not in found.setdefault(name, []):
                found[name].append(str(version))
    return {name: ", ".join(versions) for name, versions in sorted(found.items()) if versions}


def hashes_of(study: StudyResult) -> list[tuple[str, str, str, str]]:
    """(artifact, configuration hash, code fingerprint, device) of every artifact that was read."""
    return [
        (name, str(p.get("config_hash", "")), str(p.get("code", "")), str(p.get("device", "")))
        for name, p in _provenances(study).items()
    ]


def _provenances(study: StudyResult) -> dict[str, Mapping[str, Any]]:
    found: dict[str, Mapping[str, Any]] = {}
    for dataset in study.datasets:
        for kind in ("audit", "comparison", "timing"):
            _note(found, f"{dataset.name}/{kind}", getattr(dataset, kind))
        for model in dataset.models:
            for kind in ("metrics", "calibration", "export", "gradcam", "decision"):
                _note(found, f"{dataset.name}/{model.name}/{kind}", getattr(model, kind))
            first = next((run.settings for run in model.runs if run.settings), None)
            _note(found, f"{dataset.name}/{model.name}/settings", first)
    return found


def _note(found: dict[str, Mapping[str, Any]], name: str, artifact: Mapping[str, Any] | None) -> None:
    if artifact and artifact.get("provenance"):
        found[name] = artifact["provenance"]
