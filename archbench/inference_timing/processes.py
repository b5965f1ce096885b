"""The processes of contenders, seen from the one that times them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from archbench.inference_timing import worker

PATIENCE_S = 900.0  # torch.compile may take minutes


class ContenderError(RuntimeError):
    """A contender's process has failed; the message says why."""


class ContenderProcess:
    """A contender in a process of its own; used as a context, it ends with it."""

    def __init__(self, spec: Mapping[str, Any], *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        threads = str(spec.get("threads", 1))
        root = str(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep, or they slow the neighbour down
            "ORT_DISABLE_TELEMETRY": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", worker.__name__],  # not from the folder that we happen to be in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self._replies: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self._send(dict(spec))

    def __enter__(self) -> ContenderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        """Pass replies on as they come: a pipe has no read with a time limit on every system."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._replies.put(line)
        self._replies.put("")

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise ContenderError(self._last_words()) from error

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            ContenderError: If the contender fails, ends, or does not answer in time.
        """
        self._send({"do": do, **details})
        try:
            line = self._replies.get(timeout=self._patience_s)
        except queue.Empty as error:
            self.process.kill()
            raise ContenderError(f"no answer to '{do}' within {self._patience_s:g} s") from error
        if not line:
            raise ContenderError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ContenderError(str(reply["error"]))
        return reply

    def _last_words(self) -> str:
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "its process closed the channel without ending"
        how = f"was killed by signal {-code}, out of memory perhaps" if code < 0 else f"ended with code {code}"
        return f"its process {how}; its last lines stand in the log of time_inference"

    def close(self) -> None:
        """End the process: it ends by itself when its input does."""
        if self.process.stdin is not None:
            try:
                self.process.stdin.close()
            except OSError:
                pass  # it has ended already
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(spec: Mapping[str, Any], *, patience_s: float = PATIENCE_S) -> tuple[ContenderProcess, dict[str, Any]]:
    """Start a contender cold and wait for its first answer.

    Returns:
        The process, and its account: start_ms from nothing to the first logits, with the parts of it.
    """
    begin = time.perf_counter()
    process = ContenderProcess(spec, patience_s=patience_s)
    try:
        account = process.ask("load")
    except BaseException:
        process.close()
        raise
    return process, {"start_ms": 1000 * (time.perf_counter() - begin), **account}
