"""A gold set: human judgements to measure a judge against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ftp
from ftp.files import first_few

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class GoldScore:
    """An answer and the score that people gave it."""

    example: ftp.Example
    answer: str
    score: int


@dataclass(frozen=True, slots=True)
class GoldPair:
    """Two answers and the better one: `1`, `2` or `tie`."""

    example: ftp.Example
    answers: tuple[str, str]
    label: str


def read_scores(file: str, highest: int) -> list[GoldScore]:
    """Read rows with `prompt`, `answer`, `score` (1 to `highest`) and, optionally, `reference`.

    Raises:
        DataError: what is wrong, by file and line.
    """
    found, problems = [], []
    for where, row in _rows(file):
        score = row.get("score")
        if isinstance(score, bool) or not isinstance(score, int) or not 1 <= score <= highest:
            problems.append(f"{where}: 'score' has to be a whole number from 1 to {highest}, not {score!r}")
        elif missing := _not_text(row, "prompt", "answer"):
            problems.append(f"{where}: {missing}")
        else:
            found.append(GoldScore(_example(where, row), row["answer"], score))
    return _checked(file, found, problems)


def read_pairs(file: str) -> list[GoldPair]:
    """Read rows with `prompt`, `answer_1`, `answer_2`, `label` (1, 2 or "tie") and, optionally, `reference`.

    Raises:
        DataError: what is wrong, by file and line.
    """
    found, problems = [], []
    for where, row in _rows(file):
        label = str(row.get("label"))
        if label not in ("1", "2", "tie"):
            problems.append(f"{where}: 'label' has to be 1, 2 or \"tie\", not {row.get('label')!r}")
        elif missing := _not_text(row, "prompt", "answer_1", "answer_2"):
            problems.append(f"{where}: {missing}")
        else:
            found.append(GoldPair(_example(where, row), (row["answer_1"], row["answer_2"]), label))
    return _checked(file, found, problems)


def _rows(file: str) -> list[tuple[str, Mapping[str, Any]]]:
    try:
        lines = Path(file).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ftp.DataError([f"{file}: {getattr(error, 'strerror', None) or error}"]) from None
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ftp.DataError([f"{file}:{number}: not JSON: {error}"]) from None
        if not isinstance(row, dict):
            raise ftp.DataError([f"{file}:{number}: not a JSON object"])
        found.append((f"{Path(file).name}:{number}", row))
    return found


def _not_text(row: Mapping[str, Any], *columns: str) -> str:
    wrong = [name for name in columns if not isinstance(row.get(name), str)]
    return f"{', '.join(map(repr, wrong))} has to be text" if wrong else ""


def _example(where: str, row: Mapping[str, Any]) -> ftp.Example:
    reference = row.get("reference") or ""
    return ftp.Example((ftp.Message("user", row["prompt"]), ftp.Message("assistant", str(reference))), id=where)


def _checked(file: str, found: list[Row], problems: list[str]) -> list[Row]:
    if problems:
        raise ftp.DataError(first_few([f"calibrate: {problem}" for problem in problems], 20))
    if not found:
        raise ftp.DataError([f"calibrate: {file}: no rows in it"])
    return found
