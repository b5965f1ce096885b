"""A bundle from its parts to folder and zip: one order for all kinds, and nothing is left of one that failed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from archbench.artifacts import read_json, write_text
from archbench.bundle_files import write_content, write_sums, write_zip
from archbench.bundle_network import licence_of
from archbench.card_sections import Facts
from archbench.settings import Model


@dataclass(frozen=True)
class Kind:
    """What bundles of predictions and of masks do differently.

    Attributes:
        fill: Puts networks and example into the folder and returns the content of bundle.json.
        check: Lets the runner repeat the study from the folder; returns its findings of each network, or raises.
        answer: Writes what the runner says of the example.
        card: Returns the model card.
    """

    fill: Callable[[Path], Mapping[str, Any]]
    check: Callable[[Path], Sequence[Mapping[str, Any]]]
    answer: Callable[[Path], None]
    card: Callable[[Facts], str]


def write_bundle(folder: Path, archive: Path, kind: Kind, known: Facts) -> None:
    """Write a bundle as a folder and as a zip; if anything fails, there is no folder.

    Args:
        known: The facts of the study; those of the bundle itself are added here.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        name = _write_folder(folder, kind, known)
        write_zip(folder, archive, name=name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"{folder} and {archive} ({archive.stat().st_size / 2**20:.1f} MiB)", file=sys.stderr)


def _write_folder(folder: Path, kind: Kind, known: Facts) -> str:
    """Write all but the zip; return the bundle's name."""
    write_content(folder, kind.fill(folder))
    write_sums(folder)
    checked = kind.check(folder)
    kind.answer(folder)
    content = read_json(folder / "bundle.json")
    facts = replace(known, content=content, checked=checked, sums=write_sums(folder))
    write_text(folder / "MODEL_CARD.md", kind.card(facts))
    write_sums(folder)
    return str(content["name"])


def licences(models: Mapping[str, Model], names: Iterable[str]) -> dict[str, str]:
    """Return where the start weights of some of a study's models come from, and their licence."""
    chosen = {name: models[name] for name in names}
    return {
        name: licence_of(model.architecture, weights=model.weights, checkpoint=model.checkpoint)
        for name, model in chosen.items()
    }
