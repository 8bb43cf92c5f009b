"""Mathematical equality with the reference."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

import ftp

WORKER = Path(__file__).with_name("math_worker.py")
STARTUP = 60.0
"""Seconds in which the process that compares has to be ready: it imports SymPy."""


class Math(ftp.Evaluator):
    """1 if the answer's mathematical result equals the reference's, by Hugging Face's Math-Verify; else 0.

    The last result in each text is compared: LaTeX, in \\boxed{} or between dollars, or a plain expression such as 1/2.
    Expressions, sets, intervals, matrices and units of per cent are compared by SymPy, in a process of its own that is
    ended when it takes too long.
    """

    requires: ClassVar[tuple[str, ...]] = ("math_verify", "scipy")

    timeout: float = Field(default=5.0, gt=0, le=600)
    """Seconds that a comparison may take; longer ones score 0."""

    def check(self, examples: Sequence[ftp.Example]) -> None:
        for example in examples:
            found, why = self._ask({"gold": example.reference})
            if not found:
                what = why or "Math-Verify finds no result in the reference"
                raise ftp.DataError([f"{example.id}: {self.used_as}: {what}: {example.reference[:80]!r}"])

    def score(self, example: ftp.Example, answer: str) -> ftp.Score:
        same, why = self._ask({"gold": example.reference, "answer": answer})
        return ftp.Score(float(same), why)

    def _ask(self, question: dict[str, str]) -> tuple[bool, str]:
        reply = _worker().ask(question, self.timeout)
        if reply is None:
            return False, f"the comparison took more than {self.timeout:g} seconds, or too much memory"
        return bool(reply["same"]), str(reply["why"])


class _Worker:
    """A process that answers one line of JSON by another. It ends with this one, as its input then does."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def ask(self, question: dict[str, str], seconds: float) -> Any:
        """Return the reply; None where there is none in time, and then the process is ended."""
        with self._lock:
            process = self._started()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
            reply = _line(process, seconds)
            if reply is None:
                self.end()
            return reply

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._process = None

    def __del__(self) -> None:
        self.end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.end()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],  # -P: the modules beside it are called like those of the library
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if _line(self._process, STARTUP) is None:
            self.end()
            raise ftp.ModelError("math: the process that compares results with Math-Verify doesn't start")
        return self._process


@cache
def _worker() -> _Worker:
    """Return the process that compares, one for all evaluators of this process."""
    return _Worker()


def _line(process: subprocess.Popen[bytes], seconds: float) -> Any:
    """Return a line that a process writes within some seconds, parsed, or None."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return None
    line = process.stdout.readline()
    return json.loads(line) if line.endswith(b"\n") else None
