"""Run inside an image, as its test: exactly the lock is installed, it fits together, and its libraries load."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
BROUGHT_BY_VENV = {"pip", "setuptools"}
IMPORTS = ("torch", "torchvision", "timm", "transformers", "onnx", "onnxscript", "onnxruntime", "sklearn", "scipy")
IMPORTS += ("pandas", "pyarrow", "cv2", "PIL", "tifffile", "matplotlib.pyplot", "pytorch_grad_cam", "imagehash")
IMPORTS += ("pydantic", "yaml", "jinja2", "snakemake", "snakemake_executor_plugin_slurm")


def main() -> None:
    """Check the image; the first problem ends it with a message."""
    check_hash()
    check_versions()
    subprocess.run([sys.executable, "-m", "pip", "check", "--disable-pip-version-check"], check=True)
    for name in IMPORTS:
        importlib.import_module(name)
    check_networks()
    check_no_code()
    print(f"image test passed: {len(locked())} packages as locked, Python {sys.version.split()[0]}")


def locked() -> dict[str, str]:
    """Versions that the lock asks for on this machine, by normalised name."""
    lines = (HERE / "requirements.lock").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    applying = [item for item in wanted if item.marker is None or item.marker.evaluate()]
    return {normalised(item.name): str(item.specifier).removeprefix("==") for item in applying}


def normalised(name: str) -> str:
    """Name of a package as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_hash() -> None:
    """The recorded hash, the environment variable and the file agree."""
    actual = hashlib.sha256((HERE / "requirements.lock").read_bytes()).hexdigest()
    recorded = {(HERE / "lock.sha256").read_text(encoding="utf-8").strip(), os.environ.get("IMAGE_LOCK_SHA256")}
    if recorded != {actual}:
        sys.exit(f"the image records lock {recorded}, its requirements.lock is {actual}")


def check_versions() -> None:
    """Nothing is missing, nothing has another version, nothing was added by hand."""
    installed = {normalised(d.metadata["Name"]): d.version for d in importlib.metadata.distributions()}
    wanted = locked()
    wrong = {name: (version, installed.get(name)) for name, version in wanted.items() if installed.get(name) != version}
    added = sorted(set(installed) - set(wanted) - BROUGHT_BY_VENV)
    if wrong or added:
        sys.exit(f"not as locked (wanted, installed): {wrong}; installed without the lock: {added}")


def check_networks() -> None:
    """A network runs in torch; ONNX Runtime's CUDA part finds its libraries, on a machine without a GPU too."""
    import onnxruntime
    import torch

    output = torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))
    if tuple(output.shape) != (1, 4, 6, 6):
        sys.exit(f"torch computes a convolution of shape {tuple(output.shape)}")
    if torch.version.cuda is None or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        sys.exit("torch or ONNX Runtime is a build without CUDA")
    # In a process of its own: here torch has already loaded what ONNX Runtime needs.
    provider = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    ctypes.CDLL(str(provider.with_name("libonnxruntime_providers_shared.so")))
    listing = subprocess.run(["ldd", str(provider)], capture_output=True, text=True, check=True).stdout
    missing = [line.split()[0] for line in listing.splitlines() if "not found" in line]
    if set(missing) - {"libcuda.so.1", "libonnxruntime_providers_shared.so"}:  # the first comes with the driver
        sys.exit(f"ONNX Runtime's CUDA part lacks {missing}")


def check_no_code() -> None:
    """The project's code comes from the checkout alone."""
    checkout = os.environ.get("PYTHONPATH", "")
    if not checkout and importlib.util.find_spec("archbench") is not None:
        sys.exit("the image holds a copy of the project's code")


if __name__ == "__main__":
    main()
