"""Answers and losses of a model on an eval set, as a Parquet file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftp.data.tables import batches, open_parquet, reading
from ftp.files import new_file
from ftp.types import Answer, Example, TokenLoss


def write_answers(
    file: Path, examples: Sequence[Example], answers: Sequence[Answer], losses: Sequence[TokenLoss]
) -> None:
    """Write a model's answers to an eval set and its losses as Parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    nothing = [None] * len(examples)
    table = pa.table(
        {
            "id": [example.id for example in examples],
            "prompt": ["\n\n".join(m.content for m in example.prompt) for example in examples],
            "reference": [example.reference for example in examples],
            "answer": pa.array([a.text for a in answers] or nothing, pa.string()),
            "answer_tokens": pa.array([a.tokens for a in answers] or nothing, pa.int64()),
            "stopped": pa.array([a.stopped for a in answers] or nothing, pa.bool_()),
            "nll": [loss.nll for loss in losses],
            "nll_tokens": [loss.tokens for loss in losses],
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
        for rows in batches(open_parquet(file, COLUMNS), COLUMNS):
            spoken = zip(rows["answer"], rows["answer_tokens"], rows["stopped"], strict=True)
            for text, tokens, stopped in spoken:
                if text is not None and (tokens is None or stopped is None):
                    raise ValueError("an answer without its tokens")
                if text is not None:
                    answers.append(Answer(text, tokens, stopped))
            losses += map(TokenLoss, rows["nll"], rows["nll_tokens"])
        if answers and len(answers) != len(losses):
            raise ValueError(f"{len(answers)} answers to {len(losses)} examples")
    return answers, losses


COLUMNS = {
    "id": "string",
    "answer": "string?",
    "answer_tokens": "int64?",
    "stopped": "bool?",
    "nll": "double",
    "nll_tokens": "int64",
}
