"""Compare mathematical results with Math-Verify, one line of JSON after the other; `math` starts it as a script."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys

MEMORY = 2 * 10**9
"""Address space in bytes."""


def reply_to(question: dict[str, str]) -> dict[str, object]:
    """Return whether the answer's result is the reference's, or without an answer whether the reference has one."""
    from math_verify import parse, verify

    try:
        gold = parse(question["gold"], parsing_timeout=None)
        if "answer" not in question:
            return {"same": bool(gold), "why": ""}
        answer = parse(question["answer"], parsing_timeout=None)
        if not answer:
            return {"same": False, "why": "no result in the answer"}
        if verify(gold, answer, timeout_seconds=None):
            return {"same": True, "why": ""}
        return {"same": False, "why": f"{str(answer[0])[:100]}, expected {str(gold[0])[:100] if gold else 'none'}"}
    except (Exception, RecursionError) as error:
        return {"same": False, "why": f"can't be compared ({type(error).__name__})"}


def main() -> None:
    """Reply to every line of standard input; an empty line at the start says that all is imported."""
    import math_verify  # noqa: F401

    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(reply_to(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
