"""Files of Hugging Face repositories, from the place where they were put by hand, the client's cache, or the net.

No torch here: a study that names `hf:<id>` is checked with the repository's small JSON files alone.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from archbench.artifacts import read_json, write_json

# Relative to the working directory, as all results.
HUB_FOLDER = Path("results/cache/huggingface")
WEIGHTS_FOLDER = Path("results/cache/weights")
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
# Large models come in several files, and one that says which tensor lies in which.
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


class HubError(ValueError):
    """A file of a repository that can't be had; the message names it, its address and where to put it."""


def is_folder(repository: str) -> bool:
    """Return whether a repository is named by a folder of this machine (`/…`, `./…`, `../…`, `~/…`)."""
    return repository.startswith(("/", "./", "../", "~/"))


def folder_of(repository: str) -> Path:
    """Return where a repository's files lie, or are put."""
    return Path(repository).expanduser() if is_folder(repository) else HUB_FOLDER / repository.replace("/", "--")


def weights_path(architecture: str, source: str) -> Path:
    """Return where the fetched weights of an architecture are kept."""
    return WEIGHTS_FOLDER / f"{weights_stem(architecture)}-{source}.safetensors"


def weights_stem(architecture: str) -> str:
    """Return an architecture's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "-", architecture)


def is_offline() -> bool:
    """Return whether the Hugging Face client has been told to stay off the net."""
    values = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.strip().lower() in ("1", "true", "yes", "on") for value in values)


def local_file(repository: str, name: str) -> Path | None:
    """Return a repository's file that is on this machine; None without."""
    own = folder_of(repository) / name
    if own.is_file():
        return own
    if is_folder(repository):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name)
    return Path(cached) if isinstance(cached, str) else None


def fetch_file(repository: str, *names: str) -> Path:
    """Return the first of these files that the repository has, downloaded to its folder if need be.

    Raises:
        HubError: If none can be had here.
    """
    for name in names:
        found = local_file(repository, name)
        if found is not None:
            return found
    reason = "no such file in the folder" if is_folder(repository) else "HF_HUB_OFFLINE is set"
    if not is_folder(repository) and not is_offline():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        for name in names:
            try:
                return Path(hf_hub_download(repository, name, local_dir=folder_of(repository)))
            except Exception as error:  # the client raises many kinds; each means: not to be had
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                if not isinstance(error, RemoteEntryNotFoundError):
                    break  # no connection, no access: another file would only take as many tries again
    raise HubError(missing_file(repository, names[0], reason))


def is_index(path: Path) -> bool:
    """Return whether a file is the index of weights in several files."""
    return path.name.endswith(".index.json")


def shard_names(index: Path) -> list[str]:
    """Return the names of the files that an index lists, sorted; they lie beside it.

    Raises:
        HubError: If it is no such index, or names a file elsewhere.
    """
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names or any(not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) for name in names):
        raise HubError(f"{index} is no index of weights: it lists no plain file names under weight_map")
    return names


def fetch_weights_files(repository: str) -> Path:
    """Return a repository's weights: one file, or the index beside which all of its parts lie.

    Raises:
        HubError: If a file can't be had here.
    """
    found = fetch_file(repository, *WEIGHTS_FILES, *INDEX_FILES)
    for name in shard_names(found) if is_index(found) else ():
        fetch_file(repository, name)
    return found


def missing_weights(repository: str, *, sharded: bool) -> str | None:
    """Return the name of the weights file that this machine lacks; None if it has all.

    Args:
        sharded: Whether weights in several files would do.
    """
    if any(local_file(repository, name) for name in WEIGHTS_FILES):
        return None
    indices = [found for name in INDEX_FILES if sharded and (found := local_file(repository, name))]
    lost = [name for index in indices[:1] for name in shard_names(index) if local_file(repository, name) is None]
    return lost[0] if lost else None if indices else WEIGHTS_FILES[0]


def missing_file(repository: str, name: str, reason: str) -> str:
    """Return what to say of a file that can't be had: which, from where, and where to put it."""
    if is_folder(repository):
        return f"{folder_of(repository) / name} can't be read ({reason}); put the file there"
    return (
        f"{name} of {repository} can't be fetched ({reason}). Download https://huggingface.co/{repository}/resolve/"
        f"main/{name} on a machine with a network and put it at {folder_of(repository) / name}"
    )


def read_config(repository: str) -> dict[str, Any]:
    """Return a repository's config.json, fetched if need be."""
    return _read_kept(repository, "config.json")


def read_processor(repository: str) -> dict[str, Any]:
    """Return a repository's preprocessor_config.json; empty where it has none."""
    try:
        return _read_kept(repository, "preprocessor_config.json")
    except HubError:
        return {}


def _read_kept(repository: str, name: str) -> dict[str, Any]:
    """Read a small file; one of the client's cache is kept beside the results, where containers and nodes see it."""
    path, own = fetch_file(repository, name), folder_of(repository) / name
    content: dict[str, Any] = read_json(path)
    if path != own and not own.is_file():
        write_json(own, content)
    return content
