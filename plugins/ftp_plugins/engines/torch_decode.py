"""Fast decoding on the model's own layers: continuous batching (Yu et al. 2022, Orca) over a cache by rows.

Prompts go through the model packed, without padding; what all of them begin with goes through once, and so does a
prompt that is answered several times. A row that has
ended leaves at once and a waiting prompt takes its place, and logits are made for a row's last token alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ftp.lm.torch_models import causal_model, head_of
from ftp.lm.torch_packing import same_positions_up_to, why_not
from ftp.options import AnswerOptions
from ftp_plugins.engines.torch_cache import STEP, RowCache, Turn, row_attention
from ftp_plugins.engines.torch_lora import AnsweringLoRA
from ftp_plugins.engines.torch_sampling import Chooser
from ftp_plugins.engines.torch_wide import wide_products
from ftp_plugins.speed.torch_copies import WeightCopies
from ftp_plugins.speed.torch_layers import fast_layers

PREFILL = 2048
"""Tokens of prompts that go through the model at once, so that memory is bounded."""
REFILL = 4
"""Waiting prompts enter when this part of the rows is free: few prompts at a time would make small products."""
PROCESSORS = ("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "bad_words_ids", "min_length")
"""What a generation config may ask for that changes greedy tokens, and that `generate` applies."""


class Unsupported(Exception):  # noqa: N818 (a reason to take the slow way, not an error)
    """This model can't be decoded here; the message says why."""


@dataclass(slots=True)
class Row:
    """A prompt that is being answered."""

    number: int
    """Which of the prompts it is."""
    prompt: list[int]
    new: list[int] = field(default_factory=list)
    ended: bool = False


def decode(
    model: Any,
    prompts: Sequence[list[int]],
    stops: Sequence[int],
    options: AnswerOptions,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[list[int]]:
    """Return the new tokens of each prompt, with the stop token that ended them if there is one.

    Raises:
        Unsupported: the model is no decoder of the plain kind, or its tokens would not be its own.
    """
    longest = max(map(len, prompts), default=0) + options.max_new_tokens
    with _decoder(model, longest, stops, options) as decoder:
        return decoder.answers(prompts, progress)


def next_logits(model: Any, prompt: Sequence[int]) -> torch.Tensor:
    """Return the logits of the token after a prompt of at least two tokens, float32 [vocabulary].

    Raises:
        Unsupported: as `decode` does.
    """
    with _decoder(model, len(prompt), (), AnswerOptions(batch_size=1)) as decoder:
        return decoder.logits(prompt)


@contextlib.contextmanager
def _decoder(model: Any, longest: int, stops: Sequence[int], options: AnswerOptions) -> Iterator[Decoder]:
    """Yield a decoder of the model, which is in evaluation mode and has the fast layers meanwhile."""
    if reason := unsupported(model, longest):
        raise Unsupported(reason)
    was_training = model.training
    model.eval()
    try:
        fast = fast_layers(model, WeightCopies(model.dtype), AnsweringLoRA)
        with torch.inference_mode(), fast, wide_products(model), row_attention(model):
            yield Decoder(model, stops, options)
    except (NotImplementedError, TypeError, AttributeError, KeyError) as error:
        what = (str(error).splitlines() or [""])[0]
        raise Unsupported(f"it failed on this model ({type(error).__name__}: {what})") from error
    finally:
        model.train(was_training)


def unsupported(model: Any, longest: int) -> str | None:
    """Return why a model can't be decoded here; None when it can.

    Args:
        longest: tokens of the longest prompt and its answer.
    """
    causal = causal_model(model)
    if reason := why_not(model):
        return reason
    limit = same_positions_up_to(model)
    if limit is not None and longest > limit:
        return f"its rotary embedding is another one from {limit + 1} tokens on, for all rows of a batch"
    config = model.generation_config
    asked = [name for name in PROCESSORS if getattr(config, name, None) not in (None, 0, 1.0, [])]
    if asked:
        return f"its generation config sets {', '.join(asked)}"
    if getattr(causal, "_is_stateful", False) or not hasattr(causal, "get_decoder"):
        return f"{type(causal).__name__} is no plain decoder"
    return None


class Decoder:
    """Answers prompts with at most `options.batch_size` rows in flight."""

    def __init__(self, model: Any, stops: Sequence[int], options: AnswerOptions) -> None:
        self.decoder, self.head, self.device = causal_model(model).get_decoder(), head_of(model), model.device
        self.stops, self.options = frozenset(stops), options
        self.choose = Chooser(options)

    def answers(self, prompts: Sequence[list[int]], progress: Callable[[int], None]) -> list[list[int]]:
        """Return the new tokens of each prompt; longest prompts first, so that too large a batch fails early."""
        found: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        waiting = [Row(index, prompts[index]) for index in order]
        size = min(self.options.batch_size, len(prompts))
        shared = self._shared(prompts)
        cache, active = RowCache(size, 0), list[Row]()
        while waiting or active:
            if waiting and (size - len(active)) * REFILL >= size:
                new = _firsts_first([waiting.pop() for _ in range(min(size - len(active), len(waiting)))])
                self._fit(cache, active, new)
                self._enter(cache, shared, new, len(active))
                active += new
            else:
                self._step(cache, active)
            done = [row for row in active if row.ended]
            for row in done:
                found[row.number] = row.new
            if done:
                active = self._close_ranks(cache, active)
                progress(len(done))
        return found

    def logits(self, prompt: Sequence[int]) -> torch.Tensor:
        """Return the logits of the token after a prompt, whose last token goes through a step of its own."""
        cache = RowCache(1, len(prompt))
        self._forward(cache, 0, [prompt[:-1]], [0])
        found: torch.Tensor = self.head(self._forward(cache, 0, [prompt[-1:]], [len(prompt) - 1]))[0].float()
        return found

    def _shared(self, prompts: Sequence[list[int]]) -> tuple[RowCache, int]:
        """Return the cache of what all prompts begin with, and how many tokens that is."""
        if len(prompts) < 2:
            return RowCache(1, 0), 0
        least, most = min(prompts), max(prompts)  # what the first and the last in order share, all share
        count = next((at for at, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
        count = min(count, min(map(len, prompts)) - 1)  # a row's last token is needed for its logits
        cache = RowCache(1, max(count, 0))
        if count > 0:
            self._forward(cache, 0, [least[:count]], [0])
        return cache, max(count, 0)

    def _fit(self, cache: RowCache, active: Sequence[Row], new: Sequence[Row]) -> None:
        """Give the cache room for the rows in flight, and take it back when only short ones are left."""
        longest = max(len(row.prompt) for row in (*active, *new)) + self.options.max_new_tokens
        needed = -(-longest // STEP) * STEP
        if needed > cache.capacity or 2 * needed < cache.capacity:
            cache.resize(needed, len(active))

    def _enter(self, cache: RowCache, shared: tuple[RowCache, int], rows: Sequence[Row], first: int) -> None:
        """Put prompts through the model, into the rows from `first` on, and choose their first tokens.

        Args:
            rows: with those of equal prompts behind one of each.
        """
        common, count = shared
        place_of = {tuple(row.prompt): place for place, row in reversed(list(enumerate(rows)))}
        once = rows[: len(place_of)]
        if count:
            cache.copy(common, 0, slice(first, first + len(once)), count)
        start, states = 0, list[torch.Tensor]()
        while start < len(once):
            stop, tokens = start, 0
            while stop < len(once) and (stop == start or tokens + len(once[stop].prompt) - count <= PREFILL):
                tokens += len(once[stop].prompt) - count
                stop += 1
            part = once[start:stop]
            states.append(
                self._forward(cache, first + start, [row.prompt[count:] for row in part], [count] * len(part))
            )
            start = stop
        twins = [place_of[tuple(row.prompt)] for row in rows]
        for place in range(len(once), len(rows)):
            cache.copy(cache, first + twins[place], slice(first + place, first + place + 1), len(rows[place].prompt))
        self._append(rows, torch.cat(states)[twins])

    def _step(self, cache: RowCache, active: Sequence[Row]) -> None:
        """Put the last token of every row through the model, and choose its next."""
        idle = min(_even(len(active)), cache.rows) - len(active)
        tokens = [[row.new[-1]] for row in active] + [[0]] * idle
        positions = [len(row.prompt) + len(row.new) - 1 for row in active] + [0] * idle
        states = self._forward(cache, 0, tokens, positions)
        self._append(active, states)

    def _forward(
        self, cache: RowCache, first: int, tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> torch.Tensor:
        """Put tokens of rows beside one another through the model; return each row's last state, [rows, hidden].

        Args:
            starts: the position of each row's first token.
        """
        lengths = [len(row) for row in tokens]
        ids = torch.tensor([token for row in tokens for token in row])
        row = torch.repeat_interleave(torch.arange(len(tokens)), torch.tensor(lengths))
        ends = torch.tensor(lengths).cumsum(0)
        place = torch.arange(len(ids)) - (ends - torch.tensor(lengths))[row]
        positions = place + torch.tensor(starts)[row]
        keys = min(-(-(int(positions.max()) + 1) // STEP) * STEP, cache.capacity)
        ids, row, place, positions = (of.to(self.device) for of in (ids, row, place, positions))
        turn = Turn(cache, first, len(tokens), row, place, positions, max(lengths), keys, {})
        out = self.decoder(input_ids=ids[None], position_ids=positions[None], use_cache=False, turn=turn)
        states: torch.Tensor = out.last_hidden_state[0]
        return states[ends.to(self.device) - 1]

    def _append(self, rows: Sequence[Row], states: torch.Tensor) -> None:
        """Choose the next token of each row by its last state."""
        chosen = self.choose(self.head(states[: len(rows)]).float(), rows)
        for row, token in zip(rows, chosen, strict=True):
            row.new.append(token)
            row.ended = token in self.stops or len(row.new) >= self.options.max_new_tokens

    def _close_ranks(self, cache: RowCache, active: Sequence[Row]) -> list[Row]:
        """Return the rows that go on, each in the cache where it is in the list: the last fill the gaps."""
        rows = list(active)
        at = 0
        while at < len(rows):
            if not rows[at].ended:
                at += 1
                continue
            last = rows.pop()
            if at < len(rows):
                rows[at] = last
                if not last.ended:
                    cache.copy(cache, len(rows), slice(at, at + 1), len(last.prompt) + len(last.new))
        return rows


def _firsts_first(rows: Sequence[Row]) -> list[Row]:
    """Return one row of each prompt, in order, and behind them those whose prompt is there already."""
    firsts: dict[tuple[int, ...], Row] = {}
    for row in rows:
        firsts.setdefault(tuple(row.prompt), row)
    chosen = {row.number for row in firsts.values()}
    return [*firsts.values(), *(row for row in rows if row.number not in chosen)]


def _even(rows: int) -> int:
    """Round a number of rows up, so that few shapes occur: kernels are compiled for each."""
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
