"""Models of the hub as plain values, which of them to show and which to recommend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MIB = 2**20
BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
# Files of one set of weights; the first kind that a repository has counts.
WEIGHTS = ((".safetensors",), (".bin", ".pth", ".pt", ".ckpt"), (".onnx",), (".h5", ".msgpack"))


def plain_model(info: Any) -> dict[str, Any]:
    """Return what a board shows of the client's ModelInfo.

    Raises:
        TypeError: If counts are no numbers or the name is no text.
    """
    if not isinstance(info.id, str):
        raise TypeError(f"a model's id is {info.id!r}")
    for name in ("downloads", "likes"):
        value = getattr(info, name)
        if value is not None and not isinstance(value, int):
            raise TypeError(f"{name} of {info.id} is {value!r}")
    tags = [str(tag) for tag in info.tags or []]
    return {
        "id": info.id,
        "author": info.author or info.id.partition("/")[0],
        "task": info.pipeline_tag,
        "library": info.library_name,
        "licence": _licence(info.card_data, tags),
        "downloads": info.downloads,
        "likes": info.likes,
        "parameters": None if info.safetensors is None else int(info.safetensors.total),
        "size_mib": _size_mib(info),
        "changed": None if info.last_modified is None else info.last_modified.isoformat(),
        "gated": bool(info.gated),
        "disabled": bool(info.disabled),
        "tags": [tag for tag in tags if ":" not in tag],
    }


def _licence(card: Any, tags: list[str]) -> str | None:
    stated = getattr(card, "license", None)
    if isinstance(stated, list):
        stated = stated[0] if stated else None
    from_tags = next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), None)
    return str(stated or from_tags or "").lower() or None


def _size_mib(info: Any) -> float | None:
    """Size of one set of weights: of its files where they are listed, else from the counts by type."""
    files = [(file.rfilename, file.size) for file in info.siblings or [] if file.size]
    for suffixes in WEIGHTS:
        sizes = [size for name, size in files if name.endswith(suffixes)]
        if sizes:
            return sum(sizes) / MIB
    counts = info.safetensors.parameters if info.safetensors is not None else {}
    if not counts or any(kind not in BITS for kind in counts):
        return None
    return float(sum(BITS[kind] * n for kind, n in counts.items()) / 8 / MIB)


@dataclass(frozen=True)
class Wanted:
    """Which models are shown; what a model doesn't state can't pass a limit on it."""

    licences: Sequence[str] = ()
    min_likes: int = 0
    max_size_mib: float | None = None
    changed_since: datetime | None = None

    def objection(self, model: dict[str, Any]) -> str | None:
        """Return why a model is left out, None if it stays."""
        licence, size, changed = model["licence"], model["size_mib"], model["changed"]
        if self.licences and licence not in [name.lower() for name in self.licences]:
            return "another licence" if licence else "no licence stated"
        if (model["likes"] or 0) < self.min_likes:
            return "too few likes"
        if self.max_size_mib is not None and (size is None or size > self.max_size_mib):
            return "size not stated" if size is None else "too large"
        if self.changed_since is not None:
            if changed is None:
                return "day of the last change not stated"
            if datetime.fromisoformat(changed).date() < self.changed_since.date():
                return "not changed since then"
        return None


def chosen(models: Iterable[dict[str, Any]], wanted: Wanted) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the models that are shown, each once, and how many were left out by reason."""
    shown: dict[str, dict[str, Any]] = {}
    left_out: dict[str, set[str]] = {}
    for model in models:
        objection = wanted.objection(model)
        if objection is None:
            shown.setdefault(model["id"], model)
        else:
            left_out.setdefault(objection, set()).add(model["id"])
    return list(shown.values()), {reason: len(names) for reason, names in sorted(left_out.items())}


def recommended(
    models: Sequence[dict[str, Any]], *, min_downloads: int, count: int
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the most downloaded models that may be used at once, and why other popular ones weren't taken.

    Args:
        models: Of one task.
        min_downloads: Downloads of the last 30 days that a model needs.
        count: Models at most.
    """
    popular = sorted(
        (model for model in models if (model["downloads"] or 0) >= min_downloads),
        key=lambda model: (-model["downloads"], -(model["likes"] or 0), model["id"]),
    )
    refused: dict[str, int] = {}
    usable = []
    for model in popular:
        reason = _obstacle(model)
        if reason:
            refused[reason] = refused.get(reason, 0) + 1
        else:
            usable.append(model)
    return usable[:count], refused


def _obstacle(model: dict[str, Any]) -> str | None:
    if model["disabled"]:
        return "disabled by the hub"
    if model["gated"]:
        return "gated: access must be asked for"
    return None if model["licence"] else "no licence stated"


def sort_models(models: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Return models by downloads, likes, last_modified (newest first) or size (smallest first), unstated ones last."""
    key = {"last_modified": "changed", "size": "size_mib"}.get(by, by)
    known = [model for model in models if model[key] is not None]
    known.sort(key=lambda model: model["id"])
    known.sort(key=lambda model: model[key], reverse=by != "size")
    return known + [model for model in models if model[key] is None]
