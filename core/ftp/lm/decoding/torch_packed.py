"""Rows decoded without padding, on the model's own layers: continuous batching (Yu et al. 2022, Orca).

The tokens of all rows go through the model one after the other, and every row has a strip of its own in the cache. A
row that has ended leaves at once and another takes its place, what prompts begin with in common goes through once, a
prompt that is answered several times too, and logits are made for a row's last token alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ftp.lm.decoding.torch_adapters import Adapters
from ftp.lm.decoding.torch_cache import STEP, RowCache, Turn, attention_configs, row_attention
from ftp.lm.decoding.torch_choice import Row, chosen
from ftp.lm.decoding.torch_wide import ROWS, wide_forwards
from ftp.lm.sampling import Piece
from ftp.lm.torch_models import causal_model, head_of
from ftp.lm.torch_packing import why_not

PREFILL = 2048
"""Tokens of prompts that go through the model at once, so that memory is bounded."""
WORTH_SHARING = 32
"""Tokens that a common beginning has to save, to be worth a pass of its own."""
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
        self._configs = attention_configs(model)
        self._wide = wide_forwards(model) if most_rows >= ROWS else {}

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
        self._beginnings: dict[str | None, tuple[list[int], RowCache]] = {}

    def join(self, rows: Sequence[Row], upcoming: Sequence[Row] = ()) -> list[tuple[Row, Piece]]:
        """Read the prompts of new rows and return their first tokens.

        Args:
            upcoming: rows that are expected to join later; what their prompts begin with may be kept for them.
        """
        pieces: list[tuple[Row, Piece]] = []
        for adapter in dict.fromkeys(row.request.adapter for row in rows):
            group = sorted((row for row in rows if row.request.adapter == adapter), key=_prompt_length, reverse=True)
            firsts, twins = _firsts_and_twins(group)
            others = [row for row in upcoming if row.request.adapter == adapter]
            first = len(self.rows)
            self._reserve([*self.rows, *group])
            self.rows += [*firsts, *(row for row, _ in twins)]
            shared = self._share(group, others, first)
            states, at = list[torch.Tensor](), first
            for part in _parts(firsts, shared):
                states.append(self._read(part, at, shared))
                at += len(part)
            for place, (row, of) in enumerate(twins, at):
                self._cache.copy(self._cache, first + of, slice(place, place + 1), len(row.request.prompt))
            places = [*range(len(firsts)), *(of for _, of in twins)]
            pieces += self._chosen(self.rows[first:], torch.cat(states)[places])
        self._close_ranks()
        return pieces

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

    def _read(self, part: Sequence[Row], first: int, start: int) -> torch.Tensor:
        """Put prompts through the model from a position on, into the rows from `first` on; return their last states.

        A prompt by itself goes through in pieces.
        """
        adapters = [row.request.adapter for row in part]
        while len(part) == 1 and len(part[0].request.prompt) - start > PREFILL:
            piece = list(part[0].request.prompt[start : start + PREFILL])
            self._model.forward(self._cache, first, [piece], [start], adapters)
            start += PREFILL
        tokens = [list(row.request.prompt[start:]) for row in part]
        return self._model.forward(self._cache, first, tokens, [start] * len(part), adapters)

    def _share(self, group: Sequence[Row], upcoming: Sequence[Row], first: int) -> int:
        """Give new rows the keys and values of what their prompts begin with; return how many tokens that is."""
        adapter = group[0].request.adapter
        prompts = [list(row.request.prompt) for row in group]
        beginning, cache = self._beginnings.get(adapter, ([], RowCache(1, 0)))
        if not beginning or any(len(p) <= len(beginning) or p[: len(beginning)] != beginning for p in prompts):
            prompts += [list(row.request.prompt) for row in upcoming]
            beginning = _common(prompts)
            if (len(prompts) - 1) * len(beginning) < WORTH_SHARING:
                return 0
            cache = RowCache(1, len(beginning))
            for start in range(0, len(beginning), PREFILL):
                self._model.forward(cache, 0, [beginning[start : start + PREFILL]], [start], [adapter])
            self._beginnings[adapter] = (beginning, cache)
        self._cache.copy(cache, 0, slice(first, first + len(group)), len(beginning))
        return len(beginning)

    def _reserve(self, rows: Sequence[Row]) -> None:
        """Give the cache room for these rows' next tokens, and take it back when only few or short ones are left."""
        cache, count = self._cache, _even(len(rows))
        now = max(row.length for row in rows) + 1
        goal = min(max(len(row.request.prompt) + row.limit for row in rows), now + max(GROWTH, now // 2))
        goal = -(-goal // STEP) * STEP
        if count > cache.rows or 4 * count <= cache.rows or now > cache.capacity or 2 * goal < cache.capacity:
            cache.resize(count, max(goal, now), min(len(self.rows), count, cache.rows))


def _firsts_and_twins(rows: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, int]]]:
    """Return the first row of each prompt, and the others, each with the place of the first of its prompt."""
    firsts, twins, places = list[Row](), list[tuple[Row, int]](), dict[tuple[int, ...], int]()
    for row in rows:
        place = places.setdefault(tuple(row.request.prompt), len(firsts))
        if place == len(firsts):
            firsts.append(row)
        else:
            twins.append((row, place))
    return firsts, twins


def _parts(rows: Sequence[Row], start: int) -> Iterator[list[Row]]:
    """Divide rows into parts whose prompts go through the model at once, from a position on."""
    part: list[Row] = []
    tokens = 0
    for row in rows:
        size = len(row.request.prompt) - start
        if part and tokens + size > PREFILL:
            yield part
            part, tokens = [], 0
        part.append(row)
        tokens += size
    yield part


def _common(prompts: Sequence[list[int]]) -> list[int]:
    """Return what all prompts begin with, without the last token of any: a row needs one for its logits."""
    if len(prompts) < 2:
        return []
    least, most = min(prompts), max(prompts)  # what the first and the last in order share, all share
    count = next((at for at, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    return least[: min(count, min(map(len, prompts)) - 1)]


def _prompt_length(row: Row) -> int:
    return len(row.request.prompt)


def _even(rows: int) -> int:
    """Round a number of rows up, so that few shapes occur: kernels are compiled for each."""
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
