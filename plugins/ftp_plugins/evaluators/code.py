"""Code in an answer, tested."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from pydantic import Field

import ftp
from ftp_plugins.evaluators.code_sandbox import Limits, cuts_off_network, run_tests

BLOCK = re.compile(r"^```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)^```", re.DOTALL | re.MULTILINE | re.IGNORECASE)


class Code(ftp.Evaluator):
    """1 if the Python code in the answer passes the tests in the row's reference; else 0.

    The reference is Python code with `assert` statements. It runs behind the code of the answer: its last fenced block,
    or all of it where there is none. Each answer runs in a process of its own with limits on time, memory and the size
    of files; the documentation on rewards says what that does not protect from.
    """

    requires: ClassVar[tuple[str, ...]] = ("scipy",)

    timeout: float = Field(default=5.0, gt=0, le=600)
    """Seconds that an answer and its tests may take."""
    memory_mb: int = Field(default=512, ge=64)
    """Address space of the process, in 10^6 bytes."""
    partial: bool = False
    """Score the share of the `assert` statements that hold, rather than all or nothing."""
    workers: int = Field(default=2, ge=1, le=256)
    """Answers tested at once."""

    def problems(self) -> list[str]:
        return [] if os.name == "posix" else ["needs Linux or macOS: there are no such limits on this system"]

    def warnings(self, recipe: Any) -> list[str]:
        if cuts_off_network():
            return []
        return [
            "this machine can't cut the code of answers off from the network (no user namespaces), nor find each "
            "process that it leaves behind; run it in a container"
        ]

    def needs_consent(self) -> Sequence[str]:
        return ["run the code that a model writes, as you, with limits on time and memory"]

    def check(self, examples: Sequence[ftp.Example]) -> None:
        for example in examples:
            try:
                tests = ast.parse(example.reference)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                raise ftp.DataError(
                    [f"{example.id}: {self.used_as}: the reference is no Python code: {error}"]
                ) from None
            if not any(isinstance(node, ast.Assert) for node in ast.walk(tests)):
                raise ftp.DataError([f"{example.id}: {self.used_as}: the reference holds no `assert` to test with"])

    def scores(self, examples: Sequence[ftp.Example], answers: Sequence[str]) -> Sequence[ftp.Score]:
        limits = Limits(self.timeout, self.memory_mb)

        def tested(example: ftp.Example, answer: str) -> ftp.Score:
            held, of, reason = run_tests(code_of(answer), example.reference, limits)
            return ftp.Score(held / of if self.partial and of else float(held == of > 0), reason)

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(tested, examples, answers))


def code_of(answer: str) -> str:
    """Return the last fenced block of an answer, or all of it where there is none."""
    blocks = BLOCK.findall(answer)
    return str(blocks[-1]) if blocks else answer
