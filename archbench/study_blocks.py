"""Blocks of a study file: put together, checked one by one, and what is wrong with them in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError

from archbench.registry import ARCHITECTURES, suggest
from archbench.settings import StudyFile

Block = TypeVar("Block", bound=BaseModel)


def merge(base: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with the keys of another over its own, nested mappings too."""
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(dict(merged[key]), value) if both else value
    return merged


def plain(value: Any) -> Any:
    """Mappings as dicts; whole numbers stay usable where a float is wanted, `1e-4` becomes a number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def describe(item: Any, *, within: tuple[str, ...] = (), block: type[BaseModel] = StudyFile) -> str:
    """Return one problem with its place; `within` is where the checked block stands in the file."""
    place = ".".join(str(part) for part in (*within, *item["loc"]) if part != "[key]")
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        known = _known_keys(parents, block)
        return f"{place}: unknown key{suggest(str(key), known)} (known: {', '.join(known)})"
    if item["type"] == "missing":
        return f"{place}: this key is needed"
    got = item.get("input")
    hint = _number_hint(got) if isinstance(got, str) and _is_number(got) else ""
    return f"{place}: {item['msg']}, got {got!r}{hint}"


def _number_hint(text: str) -> str:
    return " (YAML reads 1e-4 as text: write 1.0e-4)" if "e" in text.lower() else " (write it without quotes)"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _known_keys(parents: list[Any], root: type[BaseModel]) -> list[str]:
    block: Any = root
    in_map = False  # then the next part is a name of the user's, which may be spelt like a key
    for part in parents:
        field = None if in_map else getattr(block, "model_fields", {}).get(part)
        in_map = field is not None and get_origin(field.annotation) is dict
        if field is not None:
            block = _block_of(field.annotation)
    return list(getattr(block, "model_fields", {}))


def _block_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _block_of(part)
        if found is not None:
            return found
    return None


def valid_block(block: Any, kind: type[Block]) -> Block | None:
    """Return a block of a study file, its defaults if it is not there, None if it is not valid by itself."""
    try:
        return kind.model_validate(plain(block or {}))
    except ValidationError:
        return None  # reported with the whole file


def valid_blocks(blocks: Any, kind: type[Block]) -> dict[str, Block]:
    """Return the blocks by name that are valid by themselves."""
    valid: dict[str, Block] = {}
    for name, block in blocks.items() if isinstance(blocks, Mapping) else ():
        found = valid_block(block, kind)
        if found is not None:
            valid[str(name)] = found
    return valid


def unknown_name(registry: Any, name: str) -> str:
    """Say that a registry has no such name, with the known ones."""
    known = registry.names()
    return f"unknown {registry.kind} '{name}'{suggest(name, known)} (known: {', '.join(known)})"


def architecture_of(name: Any) -> Any:
    """Return a registered architecture; None if there is none of that name."""
    try:
        return ARCHITECTURES.get(name) if isinstance(name, str) else None
    except ValueError:
        return None  # reported with the model
