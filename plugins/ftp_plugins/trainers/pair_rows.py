"""Pairs of tokenised answers made to fit a trainer: what is too long is refused, dropped or cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ftp
from ftp.data.examples import Examples, JudgedAnswers
from ftp.lm.tokens import TokenRows, tokenise
from ftp_plugins.trainers.row_lengths import refuse_overlong

OverlongAnswer = Literal["error", "drop", "truncate"]


@dataclass(frozen=True)
class PairRows:
    """Two answers to each of some prompts, tokenised with them; only the answers are trained."""

    chosen: TokenRows
    rejected: TokenRows
    origins: Sequence[str]
    """The source of each pair."""

    def __len__(self) -> int:
        return len(self.chosen)

    def lengths(self) -> Any:
        """Count the tokens of each pair; return a numpy array, int64 [pairs]."""
        return self.chosen.lengths() + self.rejected.lengths()

    def answers(self) -> TokenRows:
        """Return chosen and rejected answer of each pair in turn."""
        return TokenRows.alternating(self.chosen, self.rejected)

    def take(self, indices: Sequence[int]) -> PairRows:
        """Return the pairs at these positions, in this order."""
        origins = [self.origins[at] for at in indices]
        return PairRows(self.chosen.take(indices), self.rejected.take(indices), origins)


def pairs_of(
    examples: Examples,
    tokenizer: ftp.LoadedTokenizer,
    max_length: int,
    overlong: OverlongAnswer,
    by: str,
    ledger: ftp.Ledger,
    progress: Callable[[int], None],
) -> PairRows:
    """Tokenise preference examples; drop or cut overlong pairs, and drop those that can teach nothing.

    A pair is overlong if one of its answers is, with the prompt before it. The ledger counts the tokens of both.

    Args:
        by: the trainer's name, for the ledger.

    Raises:
        DataError: pairs are longer than `max_length`, and `overlong` is `error`.
    """
    whole = [tokenise(tokenizer, JudgedAnswers(examples), progress=progress)]
    whole.append(tokenise(tokenizer, JudgedAnswers(examples, rejected=True)))
    longest = [max(pair) for pair in zip(*(rows.lengths().tolist() for rows in whole), strict=True)]
    ids = examples.column("id")
    if overlong == "error":
        refuse_overlong(ids, longest, max_length, "raise train.max_length, or set train.overlong: drop or truncate")
    chosen, rejected = (rows.cut(max_length) for rows in whole) if overlong == "truncate" else whole
    before = (whole[0].lengths() + whole[1].lengths()).tolist()
    after = (chosen.lengths() + rejected.lengths()).tolist()
    trained = [rows.trained_counts(skip=1).tolist() for rows in (chosen, rejected)]
    kept: list[int] = []
    for row, id in enumerate(ids):
        reason = ""
        if longest[row] > max_length and overlong != "truncate":
            reason = f"longer than {max_length} tokens"
        elif not (trained[0][row] and trained[1][row]):
            reason = "no trained token"
        elif after[row] < before[row] and chosen[row].input_ids == rejected[row].input_ids:
            reason = f"chosen and rejected are the same up to {max_length} tokens"
        if reason:
            ledger.drop(id, by=by, reason=reason)
            ledger.count_tokens(id, 0, 0, lost=before[row])
            continue
        if after[row] < before[row]:
            ledger.truncate(id, by=by, reason=f"cut to {max_length} tokens")
        ledger.count_tokens(id, after[row], trained[0][row] + trained[1][row], lost=before[row] - after[row])
        kept.append(row)
    origins = examples.column("origin")
    return PairRows(chosen.take(kept), rejected.take(kept), [origins[row] for row in kept])
