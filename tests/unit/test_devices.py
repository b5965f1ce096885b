"""Devices: what was asked for, or an error with the remedy; never something else in silence."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from archbench.devices import (
    DeviceError,
    device_name,
    peak_memory_mib,
    prepare_torch,
    resolve_device,
    resolve_precision,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Pretend to have these devices."""

    def pretend(*, cuda: bool = False, mps: bool = False, bf16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation
        )
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


def test_a_missing_device_is_an_error_with_the_remedy(machine) -> None:  # type: ignore[no-untyped-def]
    machine()
    with pytest.raises(DeviceError, match=r"compute\.device is cuda, but .*nvidia-smi.*--nv.*auto or cpu"):
        resolve_device("cuda")
    with pytest.raises(DeviceError, match=r"compute\.device is mps, but .*auto or cpu"):
        resolve_device("mps")


def test_auto_takes_the_best_there_is(machine) -> None:  # type: ignore[no-untyped-def]
    for present, expected in (({"cuda": True, "mps": True}, "cuda"), ({"mps": True}, "mps"), ({}, "cpu")):
        machine(**present)
        assert resolve_device("auto").type == expected
    machine(cuda=True)
    assert resolve_device("cpu").type == "cpu"


def test_precision(machine) -> None:  # type: ignore[no-untyped-def]
    machine(cuda=True, bf16=True)
    assert resolve_precision("auto", CUDA) == torch.bfloat16
    machine(cuda=True, bf16=False)
    assert resolve_precision("auto", CUDA) == torch.float16
    assert resolve_precision("auto", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("fp32", CUDA) == torch.float32
    with pytest.raises(DeviceError, match="fp16 needs CUDA, this job runs on cpu: use auto or bf16"):
        resolve_precision("fp16", CPU)


def test_threads_are_those_of_the_job() -> None:
    before = torch.get_num_threads()
    try:
        prepare_torch(threads=1)
        assert torch.get_num_threads() == 1
        assert float(torch.tensor(1e-40) * 1) == 0, "denormals slow random networks down 15 times"
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has the switch")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    """Pages that the system maps anew while the same tensors come and go, after the first few times."""

    def faults(first: str) -> int:
        code = (
            f"import resource, torch; from archbench.memory import keep_freed_memory; {first}\n"
            "def step(): return [torch.ones(n << 18) for n in (1, 20, 3, 45)]  # MiB\n"
            "def count(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            "for _ in range(8): step()  # until the heap's holes are large enough\n"
            "before = count()\n"
            "for _ in range(3): step()\n"
            "print(count() - before)"
        )
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    # where a process' random layout leaves the heap no room to grow, glibc maps pages after all
    assert any(faults("assert keep_freed_memory()") < 1000 for _ in range(6))
    assert faults("pass") > 1000


def test_device_name() -> None:
    assert device_name(CPU) == "cpu"


def test_peak_memory_grows_with_what_was_used() -> None:
    before = peak_memory_mib(CPU)
    assert before is not None and before > 50  # torch alone takes more
    size = int(before) + 64
    torch.ones(size, 2**18)  # as many MiB, all of them touched
    after = peak_memory_mib(CPU)
    assert after is not None and size <= after < 10 * size
