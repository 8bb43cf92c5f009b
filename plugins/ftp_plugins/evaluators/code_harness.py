"""Run the code of an answer and its tests, in a process of their own: `code_sandbox` starts it as a script.

It imports nothing of FTP, since it runs without the caller's paths.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import resource
import sys
from typing import Any


def limit(task: dict[str, Any]) -> None:
    """Lower the limits of this process for good."""
    for kind, most in (
        (resource.RLIMIT_CPU, task["seconds"]),
        (resource.RLIMIT_AS, task["memory"]),
        (resource.RLIMIT_FSIZE, task["file"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit on the address space
            resource.setrlimit(kind, (most, most))


def outcome(code: str, tests: str) -> dict[str, Any]:
    """Run the code and then the tests, one statement at a time; count the `assert` statements that hold.

    Tests whose `assert` statements all stand inside functions count as one.
    """
    body = ast.parse(tests, "tests").body
    of = sum(isinstance(node, ast.Assert) for node in body)
    names = {"__name__": "__main__"}
    try:
        exec(compile(code, "answer", "exec"), names)
    except BaseException as error:
        return {"held": 0, "of": of or 1, "reason": f"the code failed: {said(error)}"}
    held, reason = 0, ""
    for node in body:
        try:
            exec(compile(ast.Module([node], []), "tests", "exec"), names)
            held += isinstance(node, ast.Assert)
        except BaseException as error:
            reason = reason or f"line {node.lineno} of the tests: {said(error)}"
    if not of:
        return {"held": int(not reason), "of": 1, "reason": reason}
    return {"held": min(held, of - bool(reason)), "of": of, "reason": reason}


def said(error: BaseException) -> str:
    """Return an exception in a line."""
    try:
        text = str(error)
    except BaseException:
        text = "its message can't be shown"
    return f"{type(error).__name__}: {text}"[:300]


def main() -> None:
    """Read the task from standard input, and write the report into the working directory."""
    task = json.loads(sys.stdin.read())
    sys.stdin = open(os.devnull)  # noqa: PTH123, SIM115
    limit(task)
    report = outcome(task["code"], task["tests"]) | {"secret": task["secret"]}
    with open("report.part", "w") as stream:  # noqa: PTH123
        json.dump(report, stream)
    os.replace("report.part", "report.json")  # noqa: PTH105
    os._exit(0)  # whatever threads and exit handlers the code has left


if __name__ == "__main__":
    main()
