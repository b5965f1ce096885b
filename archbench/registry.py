"""Named components, found by name and listed when the name is unknown.

A component registers itself with one top-level statement in its own module:

    METRICS.register("qwk", Metric(...))

The first argument is a string constant, because `archbench.fingerprint` cuts a module into what
one component needs by these statements: adding a component changes no other component's hash.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownName(ValueError):
    """A name that no component carries; the message lists those that exist."""


def suggest(name: str, known: list[str]) -> str:
    """Return "; did you mean 'x'?" for a near miss, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


class Registry(Generic[T]):
    """Components of one kind, discovered in the modules of one package on first use."""

    def __init__(self, kind: str, package: str, *, skip: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.package = package
        self.skip = skip  # modules that register nothing and may import torch
        self._items: dict[str, T] = {}
        self._modules: dict[str, str] = {}
        self._open: dict[str, Callable[[str], T]] = {}
        self._made: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str, item: T) -> T:
        """Add a component under a name that is still free."""
        module = getattr(item, "__module__", None)
        caller = _registering_module()
        if name in self._items:
            raise ValueError(f"{self.kind} '{name}' is registered twice: {self._modules[name]} and {caller}")
        self._items[name] = item
        self._modules[name] = caller or str(module)
        return item

    def register_open(self, prefix: str, make: Callable[[str], T]) -> None:
        """Offer every name with this prefix; `make` returns its component, or raises UnknownName with the reason."""
        self._open[prefix] = make
        self._modules[prefix] = _registering_module()

    def get(self, name: str) -> T:
        """Return the component; an unknown name raises UnknownName with the known names."""
        self._discover()
        prefix = self.entry(name)
        if name not in self._items and prefix in self._open:
            self._made[name] = self._made.get(name) or self._open[prefix](name)
            return self._made[name]
        if name not in self._items:
            known, open_names = self.names(), [f"{prefix}<name>" for prefix in self.prefixes()]
            listed = ", ".join([*known, *open_names])
            raise UnknownName(f"unknown {self.kind} '{name}'{suggest(name, known)} (known: {listed})")
        return self._items[name]

    def entry(self, name: str) -> str:
        """Return what a name is registered under: itself, or the prefix of an open family of names."""
        self._discover()
        return next((prefix for prefix in self._open if name.startswith(prefix) and name not in self._items), name)

    def prefixes(self) -> list[str]:
        """Return the prefixes of open families of names, sorted."""
        self._discover()
        return sorted(self._open)

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._discover()
        return sorted(self._items)

    def module(self, name: str) -> str:
        """Return the dotted name of the module that registered a component."""
        self.get(name)
        return self._modules[self.entry(name)]

    def _discover(self) -> None:
        if self._discovered:
            return
        package = importlib.import_module(self.package)
        for info in pkgutil.iter_modules(package.__path__):
            if info.name not in self.skip:
                importlib.import_module(f"{self.package}.{info.name}")
        self._discovered = True


def _registering_module() -> str:
    import sys

    return str(sys._getframe(2).f_globals.get("__name__", ""))


ARCHITECTURES: Registry[Any] = Registry(
    "architecture",
    "archbench.models",
    skip=(
        "building",
        "heads",
        "volumes",
        "weights",
        "fitting",
        "transformers_network",
        "segmentation_network",
        "sam_network",
        "hub_encoder",
    ),
)
DATASETS: Registry[Any] = Registry("dataset format", "archbench.datasets")
LOSSES: Registry[Any] = Registry("loss", "archbench.losses")
METRICS: Registry[Any] = Registry("metric", "archbench.metrics")
