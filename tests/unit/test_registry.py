"""Registries: found by name, listed when unknown, never registered twice."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from archbench.registry import ARCHITECTURES, DATASETS, LOSSES, METRICS, Registry, UnknownName, suggest
from archbench.tasks import TASKS, get_task

COLOURS = '''
"""A family of two."""
from shop import COLOURS

COLOURS.register("red", 1)
COLOURS.register("green", 2)
'''


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[int]:
    """A registry over a package of its own; one module must not be looked into."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text(
        'from archbench.registry import Registry\nCOLOURS = Registry("colour", "shop", skip=("heavy",))\n'
    )
    (package / "colours.py").write_text(COLOURS)
    (package / "heavy.py").write_text("raise RuntimeError('this module must be left alone')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shop  # type: ignore[import-not-found]

    yield shop.COLOURS
    for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
        del sys.modules[name]


def test_components_are_discovered_on_first_use(shop: Registry[int]) -> None:
    assert "shop.colours" not in sys.modules
    assert shop.names() == ["green", "red"]
    assert shop.get("red") == 1
    assert shop.module("green") == "shop.colours"


def test_unknown_name_lists_the_known_and_the_nearest(shop: Registry[int]) -> None:
    with pytest.raises(UnknownName, match=r"unknown colour 'rad'; did you mean 'red'\? \(known: green, red\)"):
        shop.get("rad")
    with pytest.raises(UnknownName, match=r"unknown colour 'xyz' \(known"):
        shop.get("xyz")


def test_a_name_is_registered_once(shop: Registry[int]) -> None:
    shop.names()
    with pytest.raises(ValueError, match=r"colour 'red' is registered twice: shop\.colours and .*test_registry"):
        shop.register("red", 3)
    assert shop.get("red") == 1


@pytest.mark.parametrize("registry", [ARCHITECTURES, DATASETS, LOSSES, METRICS], ids=lambda registry: registry.kind)
def test_every_component_names_its_module(registry: Registry[object]) -> None:
    assert registry.names() == sorted(set(registry.names()))
    for name in registry.names():
        assert registry.module(name).startswith(registry.package + ".")


def test_tasks_name_losses_and_metrics_that_exist() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert task.default_loss in LOSSES.names()
        assert task.primary in task.metrics
        assert set(task.metrics) <= set(METRICS.names())


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'ordnal'; did you mean 'ordinal'\? \(known: ordinal, multi"):
        get_task("ordnal")


def test_suggestion_is_silent_without_a_near_name() -> None:
    assert suggest("zzz", ["alpha", "beta"]) == ""
