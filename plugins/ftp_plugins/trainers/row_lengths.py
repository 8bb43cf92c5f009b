"""Tokenised rows made to fit a trainer: what is too long is refused, dropped, cut or split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import ftp
from ftp.data.examples import Examples
from ftp.files import first_few
from ftp.lm.tokens import TokenRows, parts_of

Overlong = Literal["error", "drop", "truncate", "split"]


def fit_rows(
    tokens: TokenRows,
    examples: Examples,
    max_length: int,
    overlong: Overlong,
    by: str,
    ledger: ftp.Ledger,
    columns: Sequence[str] = ("origin",),
) -> TokenRows:
    """Drop, cut or split overlong rows and drop rows without a trained token; the ledger records it.

    Args:
        tokens: the rows of `examples`, tokenised.
        overlong: `split` cuts running text into several rows; conversations can't be split.
        by: the trainer's name, for the ledger.
        columns: fields of the examples that the rows keep.

    Returns:
        The rows that remain, with these columns; `origin` is the source of each.

    Raises:
        DataError: rows are longer than `max_length`, and `overlong` is `error`, or `split` and they are conversations.
    """
    lengths: list[int] = tokens.lengths().tolist()
    running = [not messages for table in examples.batches(["messages"]) for messages in table.column(0).to_pylist()]
    parts = [
        parts_of(length, max_length) if overlong == "split" and text else 1
        for length, text in zip(lengths, running, strict=True)
    ]
    if overlong in ("error", "split"):
        advice = "raise train.max_length, or set train.overlong: drop or truncate"
        advice = (
            f"only running text is split. R{advice[1:]}"
            if overlong == "split"
            else f"{advice}, or split for running text"
        )
        whole = [length if of == 1 else 0 for length, of in zip(lengths, parts, strict=True)]
        refuse_overlong(examples.column("id"), whole, max_length, advice)
    cut = tokens.cut(max_length) if overlong == "truncate" else tokens
    kept = _record(examples.column("id"), lengths, cut, parts, max_length, by, ledger)
    rows = cut if len(kept) == len(cut) else cut.take(kept)
    fields = {name: examples.column(name) for name in columns}
    named = {name: [field[at] for at in kept for _ in range(parts[at])] for name, field in fields.items()}
    if any(parts[index] > 1 for index in kept):
        rows = rows.split(max_length, [parts[index] for index in kept])
    table = rows.table
    for name, values in named.items():
        table = table.append_column(name, [values])
    return TokenRows(table)


def refuse_overlong(ids: Sequence[str], lengths: Sequence[int], max_length: int, advice: str) -> None:
    """Raise a DataError that names the rows which are longer than `max_length`; `advice` says what to do."""
    long = [at for at, length in enumerate(lengths) if length > max_length]
    if long:
        named = [f"{ids[at]}: {lengths[at]} tokens, max_length is {max_length}" for at in long]
        listed = first_few(named, 10, f"more rows; the longest has {max(lengths[at] for at in long)} tokens")
        raise ftp.DataError([*listed, f"{advice[0].upper()}{advice[1:]}."])


def _record(
    ids: Sequence[str],
    lengths: Sequence[int],
    cut: TokenRows,
    parts: Sequence[int],
    max_length: int,
    by: str,
    ledger: ftp.Ledger,
) -> list[int]:
    """Record in the ledger what becomes of every row, and return the positions of those that are trained on."""
    # A loss is taken on predicting a token from those before it, so the first one never counts.
    learns = cut.trained_counts(skip=1) > 0
    rows = zip(ids, lengths, cut.lengths().tolist(), cut.trained_counts().tolist(), learns, parts, strict=True)
    kept: list[int] = []
    for index, (id, whole, length, trained, learnt, into) in enumerate(rows):
        if length > max_length and into == 1:
            ledger.drop(id, by=by, reason=f"longer than {max_length} tokens")
            ledger.count_tokens(id, 0, 0, lost=whole)
        elif not learnt:
            ledger.drop(id, by=by, reason="no trained token")
            ledger.count_tokens(id, 0, 0, lost=whole)
        else:
            if length < whole:
                ledger.truncate(id, by=by, reason=f"cut to {max_length} tokens")
            elif into > 1:
                ledger.split_up(id, by=by, reason=f"split into rows of at most {max_length} tokens")
            ledger.count_tokens(id, length, trained, lost=whole - length)
            kept.append(index)
    return kept
