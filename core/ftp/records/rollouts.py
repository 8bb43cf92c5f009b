"""The rollouts of a run: every answer that a trainer has sampled, with its reward."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field
from typing_extensions import TypedDict

from ftp.errors import RunError
from ftp.records.schemas import checked

FILE = "rollouts.jsonl"
LONGEST_LINE = 2**24
"""Bytes of a line that is read."""


def _number(value: Any) -> Any:
    """JSON has no word for them, so strings were written."""
    return float(value) if value in ("nan", "inf", "-inf") else value


Reward = Annotated[float, BeforeValidator(_number)]


class Rollout(TypedDict):
    """A line of rollouts.jsonl."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    event: Literal["rollout"]
    step: Annotated[int, Field(ge=0)]
    prompt: str
    """Id of the example."""
    answer: str
    tokens: int
    stopped: bool
    """Whether the model ended the answer by itself."""
    reward: Reward
    rewards: Mapping[str, Reward]
    reasons: NotRequired[Mapping[str, str]]
    advantage: Reward


class Again(TypedDict):
    """A line that says that the steps after this one are repeated."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    event: Literal["resume"]
    step: Annotated[int, Field(ge=0)]


def read_rollouts(file: Path) -> list[Rollout]:
    """Return the rollouts that count: those of steps that were repeated later, and an unfinished line, are left out.

    Raises:
        RunError: a line is damaged; the message names it.
    """
    kept: list[Rollout] = []
    for number, line in _lines(file):
        try:
            found = checked(Rollout | Again, json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RunError(f"{file}:{number}: damaged ({str(error)[:200]})") from None
        if found["event"] == "resume":
            kept = [rollout for rollout in kept if rollout["step"] <= found["step"]]
        else:
            kept.append(found)
    return kept


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE):
            number += 1
            if line.endswith(b"\n"):  # else a process was killed while it wrote
                yield number, line.decode("utf-8", "replace")
