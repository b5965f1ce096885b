"""Hash of the code that a stage depends on: Snakemake reruns a job when it changes.

The hash covers the syntax trees, without docstrings and comments, of a script and of everything that it
imports inside the package and the runner's. Registered components (architectures, losses, metrics, readers) are not
imported by name; a job names those it uses, and of their modules only the statements count that the
component needs. So an edited loss retrains what uses it, and a new architecture retrains nothing.
The configuration modules are left out: a job's settings stand in its `params` beside this hash.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from archbench.artifacts import read_json, write_json
from archbench.registry import ARCHITECTURES, DATASETS, LOSSES, METRICS

PACKAGE = "archbench"
RUNNER = "archbench_predict"  # its image code makes the caches
ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
REGISTRIES = {
    "architecture": ARCHITECTURES,
    "dataset": DATASETS,
    "loss": LOSSES,
    "metric": METRICS,
}
CONFIGURATION = (
    "settings",
    "study_blocks",
    "dataset_checks",
    "model_checks",
    "recipe_checks",
    "section_checks",
    "config",
)
EXCLUDED = frozenset(f"{PACKAGE}.{name}" for name in (*CONFIGURATION, "fingerprint"))


def fingerprint(script: str, components: Iterable[tuple[str, str]] = ()) -> str:
    """Return the hash of the code behind a job.

    Args:
        script: Name of a script in scripts/, without suffix.
        components: Pairs (kind, name) of registered components that the job uses.
    """
    return _fingerprint(script, tuple(components))


@cache  # thousands of jobs share a few; a process looks at the code once
def _fingerprint(script: str, components: tuple[tuple[str, str], ...]) -> str:
    return fingerprint_files(
        SCRIPTS / f"{script}.py",
        [(_module_path(REGISTRIES[kind].module(name)), REGISTRIES[kind].entry(name)) for kind, name in components],
    )


class KeptFingerprints:
    """`fingerprint` that keeps its answers in a file for as long as no source file changes.

    Every start of the workflow asks for the same dozen, and so does each job of a cluster; parsing the package for
    them takes longer than all else that a start needs.

    Args:
        path: JSON file of the answers; written when there is a new one.
        root: Folder of the checkout.
    """

    def __init__(self, path: str | Path, root: Path = ROOT) -> None:
        self.path, self.root = Path(path), root
        self.source = source_hash(root)
        self.found = self._kept()

    def __call__(self, script: str, components: Iterable[tuple[str, str]] = ()) -> str:
        """Return `fingerprint(script, components)`."""
        components = tuple(components)
        key = " ".join([script, *(f"{kind}:{name}" for kind, name in components)])
        if key not in self.found:
            self.found[key] = fingerprint(script, components)
            if source_hash(self.root) == self.source:  # not edited since the start
                # Another process may have added some; one that is lost is found again.
                write_json(self.path, {"source": self.source, "fingerprints": self._kept() | self.found})
        return self.found[key]

    def _kept(self) -> dict[str, str]:
        try:
            content = read_json(self.path)
            return dict(content["fingerprints"]) if content["source"] == self.source else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def source_hash(root: Path = ROOT) -> str:
    """Return the hash of all source text that a fingerprint can depend on, and of the Python that parses it."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in (PACKAGE, RUNNER, SCRIPTS.name):
        for path in sorted(root.joinpath(folder).rglob("*.py")):
            digest.update(f"\n{path.relative_to(root).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def fingerprint_files(script: Path, components: Iterable[tuple[Path, str]] = (), *, root: Path = ROOT) -> str:
    """Return the hash of a script, of what it imports from the packages below `root`, and of component slices."""
    trees: dict[str, ast.Module] = {"": _parse(script)}
    for path, name in components:
        trees[f"{path.stem}:{name}"] = slice_component(_parse(path), name)
    queue = list(trees.values())
    while queue:
        for module in sorted(_imports(queue.pop(), root)):
            if module not in trees and not _is_configuration(module):
                trees[module] = _parse(_module_path(module, root))
                queue.append(trees[module])
    digest = hashlib.sha256()
    for name in sorted(trees):
        digest.update(f"{name}\n{_dump(trees[name])}\n".encode())
    return digest.hexdigest()[:16]


@cache
def slice_component(tree: ast.Module, name: str) -> ast.Module:
    """Return the statements of a module that one registered component needs, in their order."""
    entries = [node for node in tree.body if _registered_name(node) == name]
    if not entries:
        raise ValueError(f"no top-level statement registers '{name}'")
    bindings: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for bound in _bound_names(node):
            bindings.setdefault(bound, []).append(node)
    needed, queue = set(map(id, entries)), list(entries)
    while queue:
        for used in _used_names(queue.pop()):
            for node in bindings.get(used, []):
                if id(node) not in needed:
                    needed.add(id(node))
                    queue.append(node)
    return ast.Module(body=[node for node in tree.body if id(node) in needed], type_ignores=[])


def _registered_name(node: ast.stmt) -> str | None:
    call = node.value if isinstance(node, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
        return None
    first = call.args[0]
    if call.func.attr not in ("register", "register_open") or not isinstance(first, ast.Constant):
        return None
    return first.value if isinstance(first.value, str) else None


def _bound_names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name).partition(".")[0]
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for child in ast.walk(node):
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                yield child.id


def _used_names(node: ast.stmt) -> set[str]:
    return {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}


@cache  # trees are hashed by identity, and _parse_text gives one tree for one text
def _imports(tree: ast.Module, root: Path) -> frozenset[str]:
    """Return the packages' modules that a tree imports anywhere, type-checking blocks left out."""
    found: set[str] = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.partition(".")[0] in (PACKAGE, RUNNER) and _module_path(name, root).is_file():
                found.add(name)
    return frozenset(found)


def _is_configuration(module: str) -> bool:
    return ".".join(module.split(".")[:2]) in EXCLUDED


def _module_path(module: str, root: Path = ROOT) -> Path:
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _parse(path: Path) -> ast.Module:
    return _parse_text(path.read_text(encoding="utf-8"))


@cache
def _parse_text(text: str) -> ast.Module:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    tree.body = [node for node in tree.body if not _is_type_checking(node)]
    return tree


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@cache
def _dump(tree: ast.Module) -> str:
    return ast.dump(tree, annotate_fields=False, include_attributes=False)


def components_of(**names: str | Iterable[str]) -> list[tuple[str, str]]:
    """Return (kind, name) pairs from keywords such as architecture="resnet18", metric=("qwk", "mcc")."""
    given: Mapping[str, str | Iterable[str]] = names
    pairs: list[tuple[str, str]] = []
    for kind, value in given.items():
        pairs += [(kind, value)] if isinstance(value, str) else [(kind, name) for name in value]
    return pairs
