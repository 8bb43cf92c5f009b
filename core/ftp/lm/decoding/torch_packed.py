"""Rows decoded without padding, on the model's own layers: continuous batching (Yu et al. 2022, Orca).

The tokens of all rows go through the model one after the other, and every row has a strip of its own in the cache. A
row that has ended leaves at once and another takes its place. What a prompt begins with in common with another one, be
it new or already being answered, is copied from that one's strip; a prompt that is answered several times goes through
once. Logits are made for a row's last token alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ftp.lm.decoding.torch_adapters import Adapters
from ftp.lm.decoding.torch_cache import STEP, RowCache, Turn, attention_configs, row_attention
from ftp.lm.decoding.torch_choice import Row, chosen
from ftp.lm.decoding.torch_wide import wide_forwards
from ftp.lm.prefixes import Copy, copies_of
from ftp.lm.sampling import Piece
from ftp.lm.torch_models import causal_model, head_of
from ftp.lm.torch_packing import why_not

PREFILL = 2048
"""Tokens of prompts that go through the model at once, so that memory is bounded."""
WORTH_A_PASS = 64
"""Tokens that copying has to save where rows have to wait for others, to be worth a pass of its own."""
GROWTH = 256
"""Room for tokens that a row's strip gets at least when it grows."""


class PackedModel:
    """A model whose layers attend over a `RowCache`.

    Args:
        adapters: answer each row with its own where they can; otherwise peft's selection holds for all.
        most_rows: rows that are decoded at once.
    """

    def __init__(self, model: Any, adapters: Adapters, most_rows: int) -> None:
        self.model, self.adapters = model, adapters
        self.decoder, self.head, self.device = causal_model(model).get_decoder(), head_of(model), model.device
        self.shared_tokens = 0
        """Tokens of prompts that were copied from others so far."""
        self._configs = attention_configs(model)
        self._wide = wide_forwards(model, most_rows)

    @staticmethod
    def why_not(model: Any) -> str | None:
        """Return why a model can't be decoded here; None when it can."""
        causal = causal_model(model)
        if reason := why_not(model):
            return reason
        if getattr(causal, "_is_stateful", False) or not hasattr(causal, "get_decoder"):
            return f"{type(causal).__name__} is no plain decoder"
        return None

    def forward(
        self,
        cache: RowCache,
        first: int,
        tokens: Sequence[Sequence[int]],
        starts: Sequence[int],
        adapters: Sequence[str | None],
    ) -> torch.Tensor:
        """Put tokens of rows beside one another in the cache through the model.

        Args:
            first: the place of the first of these rows.
            starts: the position of each row's first token.
            adapters: one for each row; rows behind those are filling.

        Returns:
            Each row's last state, [rows, hidden].
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
        with self._own_layers([name for name, size in zip(adapters, lengths, strict=False) for _ in range(size)]):
            out = self.decoder(input_ids=ids[None], position_ids=positions[None], use_cache=False, turn=turn)
        states: torch.Tensor = out.last_hidden_state[0]
        return states[ends.to(self.device) - 1]

    def next_logits(self, prompt: Sequence[int], adapter: str | None) -> torch.Tensor:
        """Return the logits of the token after a prompt of two tokens or more, float32 [vocabulary].

        Its last token goes through a step of its own, so that packing and step are both tried.
        """
        cache = RowCache(1, len(prompt))
        self.forward(cache, 0, [prompt[:-1]], [0], [adapter])
        found: torch.Tensor = self.head(self.forward(cache, 0, [prompt[-1:]], [len(prompt) - 1], [adapter]))[0].float()
        return found

    @contextlib.contextmanager
    def _own_layers(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Have the model attend by rows inside the block, and answer each token with its adapter."""
        replaced = {**self._wide, **self.adapters.forwards}
        if self.adapters.forwards:
            self.adapters.route(adapters, self.device)
        replaced = {module: forward for module, forward in replaced.items() if "forward" not in vars(module)}
        for module, forward in replaced.items():
            vars(module)["forward"] = forward
        try:
            with row_attention(self._configs):
                yield
        finally:
            for module in replaced:
                del vars(module)["forward"]


class PackedBatch:
    """Rows that are decoded together; each is in the cache at its place in `rows`."""

    def __init__(self, model: PackedModel) -> None:
        self._model = model
        self.rows: list[Row] = []
        self._cache = RowCache(0, 0)

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, Piece]]:
        """Read the prompts of new rows and return their first tokens."""
        pieces: list[tuple[Row, Piece]] = []
        for adapter in dict.fromkeys(row.request.adapter for row in rows):
            pieces += self._join([row for row in rows if row.request.adapter == adapter], adapter)
        self._close_ranks()
        return pieces

    def _join(self, group: Sequence[Row], adapter: str | None) -> list[tuple[Row, Piece]]:
        """Read the prompts of new rows that have one adapter."""
        running = [row for row in self.rows if row.request.adapter == adapter]
        firsts, twins = _firsts_and_twins(group)
        sources = [*running, *firsts]
        found = copies_of([row.request.prompt for row in sources], len(running), least_of_turn=WORTH_A_PASS)
        copies = dict(zip(sources, found, strict=True))
        firsts.sort(key=lambda row: (copies[row].turn, copies[row].tokens - len(row.request.prompt)))
        self._reserve([*self.rows, *group])
        self.rows += [*firsts, *(row for row, _ in twins)]
        places = {row: place for place, row in enumerate(self.rows)}
        states = []
        for part in _parts(firsts, copies):
            for row in part:
                if copies[row].tokens:
                    self._copy(places[sources[copies[row].source]], places[row], copies[row].tokens)
            states.append(self._read(part, places[part[0]], [copies[row].tokens for row in part]))
        for row, first in twins:
            self._copy(places[first], places[row], len(row.request.prompt))
        at = [*range(len(firsts)), *(firsts.index(first) for _, first in twins)]
        return self._chosen(self.rows[-len(group) :], torch.cat(states)[at])

    def _copy(self, source: int, place: int, tokens: int) -> None:
        """Copy the first tokens of a row of the cache."""
        self._cache.copy(self._cache, source, slice(place, place + 1), tokens)
        self._model.shared_tokens += tokens

    def step(self) -> list[tuple[Row, Piece]]:
        """Decode one more token of every row."""
        self._reserve(self.rows)
        idle = _even(len(self.rows)) - len(self.rows)
        tokens = [[row.new[-1]] for row in self.rows] + [[0]] * idle
        positions = [row.length - 1 for row in self.rows] + [0] * idle
        adapters = [row.request.adapter for row in self.rows]
        states = self._model.forward(self._cache, 0, tokens, positions, adapters)
        pieces = self._chosen(self.rows, states)
        self._close_ranks()
        return pieces

    def keep(self, kept: Sequence[bool]) -> None:
        """Let rows leave the batch: the last ones take the places of those that go."""
        stays = list(kept)
        at = 0
        while at < len(stays):
            if stays[at]:
                at += 1
                continue
            last, last_stays = self.rows.pop(), stays.pop()
            if at < len(stays):
                self.rows[at], stays[at] = last, last_stays
                if last_stays:
                    self._cache.copy(self._cache, len(self.rows), slice(at, at + 1), last.length)

    def _close_ranks(self) -> None:
        self.keep([not row.finish for row in self.rows])

    def _chosen(self, rows: Sequence[Row], states: torch.Tensor) -> list[tuple[Row, Piece]]:
        logits = self._model.head(states[: len(rows)]).float()
        return list(zip(rows, chosen(rows, logits), strict=True))

    def _read(self, part: Sequence[Row], first: int, starts: Sequence[int]) -> torch.Tensor:
        """Put prompts through the model from positions on, into the rows from `first` on; return their last states.

        A prompt by itself goes through in pieces.
        """
        adapters = [row.request.adapter for row in part]
        start = starts[0]
        while len(part) == 1 and len(part[0].request.prompt) - start > PREFILL:
            piece = list(part[0].request.prompt[start : start + PREFILL])
            self._model.forward(self._cache, first, [piece], [start], adapters)
            start += PREFILL
        starts = [start, *starts[1:]]
        tokens = [list(row.request.prompt[start:]) for row, start in zip(part, starts, strict=True)]
        return self._model.forward(self._cache, first, tokens, starts, adapters)

    def _reserve(self, rows: Sequence[Row]) -> None:
        """Give the cache room for these rows' next tokens, and take it back when only few or short ones are left."""
        cache, count = self._cache, _even(len(rows))
        now = max(row.length for row in rows) + 1
        goal = min(max(len(row.request.prompt) + row.limit for row in rows), now + max(GROWTH, now // 2))
        goal = -(-goal // STEP) * STEP
        if count > cache.rows or 4 * count <= cache.rows or now > cache.capacity or 2 * goal < cache.capacity:
            cache.resize(count, max(goal, now), min(len(self.rows), count, cache.rows))


def _firsts_and_twins(rows: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, Row]]]:
    """Return the first row of each prompt, and the others, each with the first of its prompt."""
    firsts: dict[tuple[int, ...], Row] = {}
    twins = []
    for row in rows:
        first = firsts.setdefault(tuple(row.request.prompt), row)
        if first is not row:
            twins.append((row, first))
    return list(firsts.values()), twins


def _parts(rows: Sequence[Row], copies: Mapping[Row, Copy]) -> Iterator[list[Row]]:
    """Divide rows, sorted by turn, into parts whose prompts go through the model at once."""
    part: list[Row] = []
    tokens = 0
    for row in rows:
        size = len(row.request.prompt) - copies[row].tokens
        if part and (tokens + size > PREFILL or copies[row].turn != copies[part[0]].turn):
            yield part
            part, tokens = [], 0
        part.append(row)
        tokens += size
    yield part


def _even(rows: int) -> int:
    """Round a number of rows up, so that few shapes occur: kernels are compiled for each."""
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
