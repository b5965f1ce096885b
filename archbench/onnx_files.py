"""ONNX files in their final form: checked by path, class names inside, large weights beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archbench.checksums import file_sha256

OPSET = 18
EXTERNAL_ABOVE_BYTES = 1_900_000_000  # protobuf ends at 2 GiB
VARIANTS = "onnx"  # folder beside model.onnx: other precisions, other batch sizes, external weights


class ExportError(RuntimeError):
    """The network can't be exported, or the exported file is not what it should be."""


def finish(
    raw: Path,
    folder: Path,
    name: str,
    *,
    classes: Sequence[str],
    batch: int | None,
    external_above: int = EXTERNAL_ABOVE_BYTES,
) -> Path:
    """Write an exporter's file as `folder/name`, with the class names inside, and check it by its path.

    Args:
        raw: What the exporter wrote, with external data or without.
        name: Relative to `folder`, in it or in its folder `onnx`.
        batch: The fixed batch size; None for a free one.
        external_above: Bytes of weights above which they go into `onnx/<name>.data`.
    Returns:
        The file.
    Raises:
        ExportError: If the batch dimension is not what it should be.
    """
    import onnx

    model = onnx.load(raw)
    found = model.graph.input[0].type.tensor_type.shape.dim[0]
    if batch is None and not found.dim_param:
        raise ExportError(f"the batch dimension came out fixed at {found.dim_value}")
    if batch is not None and found.dim_value != batch:
        raise ExportError(f"the batch dimension came out as {found.dim_param or found.dim_value}, not {batch}")
    onnx.helper.set_model_props(model, {"classes": "\n".join(classes)})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if _weight_bytes(model) > external_above:
        data = folder / data_name(name)
        data.parent.mkdir(exist_ok=True)
        save_beside(model, path, external=True, data=data)
    else:
        save_beside(model, path, external=False)
    onnx.checker.check_model(str(path))
    return path


def save_beside(model: Any, path: Path, *, external: bool, data: Path | None = None) -> None:
    """Save a model, its large tensors in one file beside it where they don't fit into one message.

    Args:
        data: That file, in the model's folder or below it; default: `data_beside` of the model.
    """
    import onnx

    if not external:
        onnx.save_model(model, path)
        return
    data = data or path.with_name(data_beside(path))
    data.unlink(missing_ok=True)  # onnx appends
    location = data.relative_to(path.parent).as_posix()
    onnx.save_model(model, path, save_as_external_data=True, location=location)


def data_beside(path: Path) -> str:
    """Return what the libraries call the external weights of a file in its folder."""
    return f"{path.name}.data"


def external_files(path: Path) -> list[str]:
    """Return where the weights outside an ONNX file lie, relative to its folder."""
    import onnx
    from onnx.external_data_helper import uses_external_data

    tensors = onnx.load(path, load_external_data=False).graph.initializer
    entries = [entry for tensor in tensors if uses_external_data(tensor) for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


def data_name(name: str) -> str:
    """Return where the external weights of a file lie, if it has any, relative to the folder of `model.onnx`."""
    return f"{VARIANTS}/{Path(name).name}.data"


def _weight_bytes(model: Any) -> int:
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def describe_files(folder: Path, names: Mapping[int | None, str]) -> dict[str, Any]:
    """Return name, bytes and hash of an export's files.

    Args:
        names: File by fixed batch size, or by None for a free one; the first is the one to name.
    """
    files = []
    for batch, name in names.items():
        files.append({"file": name, "batch": "dynamic" if batch is None else batch, **_facts(folder / name)})
        if (folder / data_name(name)).is_file():
            files.append({"file": data_name(name), "batch": None, **_facts(folder / data_name(name))})
    return {
        "file": files[0]["file"],
        "batch": "dynamic" if None in names else sorted(batch for batch in names if batch is not None),
        "bytes": sum(file["bytes"] for file in files),
        "sha256": files[0]["sha256"],
        "files": files,
    }


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
