"""The texts of rows that are to be kept out of training: eval rows, and rows of any file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import ftp
from ftp.data.files import rows_of
from ftp.data.words import words

KINDS = ("prompt", "reference", "text", "document")
"""What a field is: a question or a whole prompt, an answer, a text of which no more is known, and what a question is
about."""
DOCUMENT_WORDS = 50
"""A prompt has a document when so many words are beside its question, and more than the question has."""
QUESTION_WORDS = 3
"""A paragraph of fewer words is a label ("Answer:") and no question."""

_ASKING = ("?", "\uff1f", "\u061f", "\u037e")


class Entry(NamedTuple):
    """A row to keep out of training."""

    id: str
    """`name:line`."""
    fields: Sequence[tuple[str, str]]
    """Kind (one of KINDS) and text; each is compared by itself, by its n-grams."""
    questions: Sequence[str] = ()
    """Texts that a training row must not have as its prompt."""
    wholes: Sequence[tuple[str, str]] = ()
    """Prompt and answer that a training row must not have both."""
    answer: str = ""
    """An answer that is noted when a training row has it, too."""


def entries_of(examples: Iterable[ftp.Example]) -> Iterator[Entry]:
    """Yield eval examples: the question, the document it is about where there is one, and the reference."""
    for example in examples:
        asked = "\n".join(message.content for message in example.prompt if message.role == "user")
        question, document = question_and_document(example)
        yield Entry(
            example.id,
            (
                ("prompt", question),
                ("document", document),
                ("reference" if example.messages else "text", example.reference),
            ),
            tuple(dict.fromkeys((asked, question if document else asked))),
            ((asked, example.reference),),
            example.reference if example.messages else "",
        )


def question_and_document(example: ftp.Example) -> tuple[str, str]:
    """Return a prompt's question and what the question is about; the whole prompt and "" where this isn't seen.

    Formatters and people put a question before or after its document and an empty line, or at least a line break,
    between them. The question is the first or the last paragraph of the user's turns: the one that ends with a
    question mark, else the shorter one. System turns belong to the document.
    """
    system = [message.content for message in example.prompt if message.role == "system"]
    user = [message.content for message in example.prompt if message.role == "user"]
    whole = "\n".join(message.content for message in example.prompt if message.role in ("user", "system"))
    blocks = [block for turn in user for block in _blocks(turn) if len(words(block)) >= QUESTION_WORDS]
    if not blocks:
        return whole, ""
    at = min((0, len(blocks) - 1), key=lambda at: (not blocks[at].rstrip().endswith(_ASKING), len(blocks[at])))
    question, document = blocks[at], "\n\n".join([*system, *blocks[:at], *blocks[at + 1 :]])
    if len(words(document)) < max(DOCUMENT_WORDS, len(words(question)) + 1):
        return whole, ""
    return question, document


def _blocks(text: str) -> list[str]:
    """Return the paragraphs of a text; its lines when it is one paragraph."""
    blocks = re.split(r"\n\s*\n", text.strip())
    return blocks if len(blocks) > 1 else text.strip().split("\n")


def entries_of_file(file: Path, name: str) -> Iterator[Entry]:
    """Yield the rows of a data file of any format: every text in a row is a field.

    Raises:
        DataError: the file or a row of it can't be read.
    """
    for row in rows_of(file):
        if row.values is None:
            raise ftp.DataError([f"{file}:{row.line}: {row.problem}"])
        texts = list(_texts(row.values))
        yield Entry(f"{name}:{row.line}", [("text", text) for text in texts], texts, [("", text) for text in texts])


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
