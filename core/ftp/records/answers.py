"""Answers and losses of a model on an eval set, as a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ftp.data.tables import batches, open_parquet, reading
from ftp.files import new_file
from ftp.types import Answer, Example, TokenLoss

Item = TypeVar("Item")


def write_answers(
    file: Path, examples: Sequence[Example], answers: Sequence[Answer], losses: Sequence[TokenLoss]
) -> None:
    """Write a model's answers to an eval set and its losses as Parquet, whole or not at all.

    Where a prompt has several answers, each of them is a row, those to one prompt beside one another, and the loss is
    repeated.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples = max(1, len(answers) // max(1, len(examples)))
    examples, losses = repeated(examples, samples), repeated(losses, samples)
    nothing = [None] * len(examples)
    table = pa.table(
        {
            "id": [example.id for example in examples],
            "prompt": ["\n\n".join(m.content for m in example.prompt) for example in examples],
            "reference": [example.reference for example in examples],
            "answer": pa.array([a.text for a in answers] or nothing, pa.string()),
            "answer_tokens": pa.array([a.tokens for a in answers] or nothing, pa.int64()),
            "stopped": pa.array([a.stopped for a in answers] or nothing, pa.bool_()),
            "seconds": pa.array([a.seconds for a in answers] or nothing, pa.float64()),
            "cost": pa.array([a.cost for a in answers] or nothing, pa.float64()),
            "nll": pa.array([loss.nll for loss in losses] or nothing, pa.float64()),
            "nll_tokens": pa.array([loss.tokens for loss in losses] or nothing, pa.int64()),
        }
    )
    with new_file(file) as aside:
        pq.write_table(table, aside)


def read_answers(file: Path) -> tuple[list[Answer], list[TokenLoss]]:
    """Read a file written by `write_answers`.

    Raises:
        DataError: it is missing or damaged.
    """
    answers: list[Answer] = []
    losses: list[TokenLoss] = []
    with reading(file):
        parquet = open_parquet(file, COLUMNS)
        columns = {**COLUMNS, **{name: of for name, of in LATER.items() if name in parquet.schema_arrow.names}}
        for rows in batches(open_parquet(file, columns), columns):
            nothing = [None] * len(rows["id"])
            usage = (rows.get(name, nothing) for name in LATER)
            spoken = zip(rows["answer"], rows["answer_tokens"], rows["stopped"], *usage, strict=True)
            for text, tokens, stopped, seconds, cost in spoken:
                if text is not None and (tokens is None or stopped is None):
                    raise ValueError("an answer without its tokens")
                if text is not None:
                    answers.append(Answer(text, tokens, stopped, seconds, cost))
            for nll, tokens in zip(rows["nll"], rows["nll_tokens"], strict=True):
                if (nll is None) != (tokens is None):
                    raise ValueError("a loss without its tokens")
                if nll is not None:
                    losses.append(TokenLoss(nll, tokens))
        if answers and losses and len(answers) != len(losses):
            raise ValueError(f"{len(answers)} answers to {len(losses)} examples")
    return answers, losses


def repeated(values: Sequence[Item], times: int) -> list[Item]:
    """Return a list with every value so many times in a row."""
    return [value for value in values for _ in range(times)]


COLUMNS = {
    "id": "string",
    "answer": "string?",
    "answer_tokens": "int64?",
    "stopped": "bool?",
    "nll": "double?",
    "nll_tokens": "int64?",
}
LATER = {"seconds": "double?", "cost": "double?"}
"""Columns that a run of an older release lacks."""
