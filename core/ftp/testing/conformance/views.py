"""Eval sets with the answers of two models, made up for a check or a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftp.types import EvalView

SUMS = [
    ("What is 2 + 2?", "4", "It is 5.", "4"),
    ("What is 3 + 4?", "The answer is 7.", "", "The answer is 7."),
    ("Name the number after 9.", "Ten, or 10.", "It's ten.", "Ten, or 10: « dix », 十."),
    ("What is 10 - 3?", "7", "7", "I don't know."),
    ("Write 12 in words.", "Twelve", "twelve", "The number is written\nTwelve"),
]


def answers_view(rows: Sequence[tuple[str, str, str, str]], *, name: str = "heldout") -> EvalView:
    """Return a view of rows of prompt, reference, the base model's answer and the tuned model's."""
    from ftp.types import Answer, EvalView, Example, Message, TokenLoss

    examples, losses = [], []
    for number, (prompt, reference, _, _) in enumerate(rows, 1):
        messages = (Message("user", prompt), Message("assistant", reference))
        examples.append(Example(messages, id=f"{name}.jsonl:{number}", source=f"{name}.jsonl"))
        tokens = len(reference.split()) + 1
        losses.append(TokenLoss(tokens * (2.0 + 0.1 * (number % 5)), tokens))
    return EvalView(
        name,
        examples,
        [Answer(base, len(base.split()), stopped=True) for _, _, base, _ in rows],
        [Answer(tuned, len(tuned.split()), stopped=True) for _, _, _, tuned in rows],
        losses,
        [TokenLoss(loss.nll * 0.75, loss.tokens) for loss in losses],
    )
