"""A row in progress, and the choice of its next token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from ftp.lm.sampling import AnswerText, Choice, Finish, Piece, Request


class Row:
    """A request in progress.

    Args:
        limit: the longest answer, in tokens.
        processors: change the logits before a token is chosen; a `transformers.LogitsProcessorList`, which may be
            empty.
    """

    def __init__(self, request: Request, limit: int, processors: Any = ()) -> None:
        self.request, self.limit, self.processors = request, limit, processors
        self.new: list[int] = []
        """The generated tokens, without the one that ends the answer."""
        self.end: int | None = None
        """The token that ended the answer; None where another end came first."""
        self.finish: Finish = ""
        self.cancelled = False
        """Set it to have the row leave the batch at the next step, or at `Decoder.drop_cancelled`."""
        self.text = AnswerText(request.tokenizer, request.sampling.stop) if request.tokenizer is not None else None
        self.draws = random.Random(request.sampling.seed)

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return len(self.request.prompt) + len(self.new)

    def take(self, id: int, choice: Choice | None) -> Piece:
        """Add a token to the answer."""
        if id in self.request.stops:
            self.finish, self.end = "stop", id
            return Piece(self.text.end() if self.text else "", None, choice, "stop")
        self.new.append(id)
        text, full = self.text.add(id) if self.text else "", len(self.new) >= self.limit
        if self.text and full and not self.text.stopped:
            text += self.text.end()
        if self.text and self.text.stopped:
            self.finish = "stop"
        elif full:
            self.finish = "length"
        return Piece(text, id, choice, self.finish)


def processors(config: Any, stops: Sequence[int]) -> Any:
    """Return what a generation config changes in the logits before a token is chosen, greedy or not.

    Args:
        config: a `transformers.GenerationConfig`.
        stops: the tokens that end an answer.
    """
    from transformers import generation

    found = generation.LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        found.append(generation.RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if config.no_repeat_ngram_size:
        found.append(generation.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.bad_words_ids:
        found.append(generation.NoBadWordsLogitsProcessor(config.bad_words_ids, list(stops)))
    if config.min_length and stops:
        found.append(generation.MinLengthLogitsProcessor(config.min_length, list(stops)))
    if config.suppress_tokens:
        found.append(generation.SuppressTokensLogitsProcessor(config.suppress_tokens))
    return found


def chosen(rows: Sequence[Row], logits: torch.Tensor) -> list[Piece]:
    """Choose a token for each row by its own sampling, and return what it adds to the answer.

    Args:
        logits: float32 [rows, vocabulary].
    """
    scores = logits
    if changed := [at for at, row in enumerate(rows) if row.processors]:
        scores = logits.clone()
        for at in changed:
            read = torch.tensor([[*rows[at].request.prompt, *rows[at].new]], device=logits.device)
            scores[at : at + 1] = rows[at].processors(read, scores[at : at + 1])
    ids: list[int] = scores.argmax(-1).tolist()
    drawing = [at for at, row in enumerate(rows) if row.request.sampling.temperature > 0]
    if drawing:
        of = [rows[at].request.sampling for at in drawing]
        numbers = torch.tensor(
            [[s.temperature, s.top_p, rows[at].draws.random()] for at, s in zip(drawing, of, strict=True)]
        )
        temperature, top_p, uniform = numbers.to(scores).unbind(1)
        for at, id in zip(drawing, drawn(scores[drawing] / temperature[:, None], top_p, uniform), strict=True):
            ids[at] = id
    return [row.take(id, _choice(row, id, logits[at])) for at, (row, id) in enumerate(zip(rows, ids, strict=True))]


def _choice(row: Row, id: int, logits: torch.Tensor) -> Choice | None:
    wanted = row.request.sampling.logprobs
    if wanted is None:
        return None
    logprobs = logits.log_softmax(-1)
    likeliest = logprobs.topk(min(wanted, logprobs.shape[0]))
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    return Choice(id, float(logprobs[id]), tuple(pairs))


def drawn(logits: torch.Tensor, top_p: torch.Tensor | float, uniform: torch.Tensor) -> list[int]:
    """Draw a token for each row by inverting the cumulative distribution.

    Args:
        logits: float32 [rows, vocabulary].
        top_p: only the most likely tokens that have this probability together are drawn (Holtzman et al. 2020,
            arXiv:1904.09751); one number, or float [rows].
        uniform: float [rows], each from 0 up to but not including 1.
    """
    odds, tokens = torch.softmax(logits, -1).sort(descending=True, stable=True)
    before = odds.cumsum(-1) - odds
    share = torch.as_tensor(top_p, dtype=odds.dtype, device=odds.device).reshape(-1, 1)
    # A share of 1 cuts nothing: the sum of those before may round to 1 or more.
    odds = odds.masked_fill((before >= share) & (share < 1), 0)
    until = odds.cumsum(-1)
    place = torch.searchsorted(until, uniform.to(until)[:, None] * until[:, -1:], right=True)
    last = (odds > 0).sum(-1, keepdim=True) - 1  # rounding may put the place behind the last that counts
    found: list[int] = tokens.gather(-1, torch.minimum(place, last))[:, 0].tolist()
    return found
