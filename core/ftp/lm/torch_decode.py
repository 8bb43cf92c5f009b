"""Answers to many requests at once, a token at a time: new requests join the batch and finished ones leave it.

Rows are padded on the left and share a cache of keys and values. A model with several adapters answers with all of
them in one batch (peft's `adapter_names`), each row with its own or with the base model. What can't share a batch is
decoded in batches of its own: adapters with weights that peft can't combine, one batch each; models whose cache has no
position to pad, such as those with linear attention, one batch for each row.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ftp.errors import ModelError
from ftp.lm.sampling import AnswerText, Choice, Finish, Piece, Request
from ftp.lm.torch_models import causal_model
from ftp.lm.torch_packing import padded

BASE = "__base__"
"""What peft calls the base model in `adapter_names`."""
PADDABLE = ("full_attention", "sliding_attention")
"""Types of layers whose keys and values can be padded on the left."""


class Row:
    """A request in the batch."""

    def __init__(self, request: Request, limit: int) -> None:
        self.request, self.limit = request, limit
        self.tokens = 0
        """Generated tokens, without the one that ends the answer."""
        self.finish: Finish = ""
        self.cancelled = False
        """Set it to have the row leave the batch at the next step, or at `Decoder.drop_cancelled`."""
        self.text = AnswerText(request.tokenizer, request.sampling.stop)
        self.last = 0
        self.random = torch.Generator()
        seed = request.sampling.seed
        if seed is None:
            self.random.seed()
        else:
            self.random.manual_seed(seed % 2**63)

    def take(self, id: int, choice: Choice | None) -> Piece:
        """Add a token to the answer."""
        self.last = id
        if id in self.request.stops:
            self.finish = "stop"
            return Piece(self.text.end(), None, choice, "stop")
        self.tokens += 1
        text = self.text.add(id)
        if self.text.stopped:
            self.finish = "stop"
        elif self.tokens >= self.limit:
            text += self.text.end()
            self.finish = "stop" if self.text.stopped else "length"
        return Piece(text, id, choice, self.finish)


class Decoder:
    """Decodes requests in batches.

    Args:
        model: a causal language model of transformers, or a `peft.PeftModel`; put into evaluation mode.
        most_rows: requests that are decoded at once; the others wait.
        most_prompt_tokens: tokens of prompts that join in one step, unless a single prompt has more: those that are
            answered already wait for it.
    """

    def __init__(self, model: Any, most_rows: int = 16, most_prompt_tokens: int = 4096) -> None:
        self.model, self.most_rows, self.most_prompt_tokens = model.eval(), most_rows, most_prompt_tokens
        self.waiting: deque[Row] = deque()
        causal = causal_model(model)
        self._config = causal.config.get_text_config()
        kinds = getattr(self._config, "layer_types", None) or ()
        self._pads = all(kind in PADDABLE for kind in kinds)
        self._accepts = inspect.signature(causal.forward).parameters
        self._adapters = Adapters(model)
        self._lanes: dict[Hashable, Lane] = {}

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer together; None where the model doesn't say."""
        most = getattr(self._config, "max_position_embeddings", None)
        return int(most) if most else None

    @property
    def running(self) -> int:
        """How many requests are in the batch."""
        return sum(len(lane.rows) for lane in self._lanes.values())

    def add(self, request: Request) -> Row:
        """Queue a request; it joins the batch at the next step if there is room.

        Raises:
            ModelError: prompt and answer are longer than the model's context.
        """
        longest, prompt = request.sampling.max_new_tokens, len(request.prompt)
        if not prompt:
            raise ModelError("the prompt has no tokens")
        room = None if self.context is None else self.context - prompt
        if room is not None and room < (longest or 1):
            raise ModelError(
                f"the model's context has {self.context:,} tokens; the prompt has {prompt:,} and the answer may have "
                f"{longest or 1:,}"
            )
        limit = longest or (room if room is not None else 2048)
        row = Row(request, limit)
        self.waiting.append(row)
        return row

    @torch.inference_mode()
    def drop_cancelled(self) -> None:
        """Have cancelled requests leave the queue and the batch at once, and free their memory."""
        self.waiting = deque(row for row in self.waiting if not row.cancelled)
        for lane in self._lanes.values():
            lane.keep([not row.cancelled for row in lane.rows])
        self._drop_empty()

    def _drop_empty(self) -> None:
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.rows}

    def clear(self) -> None:
        """Drop every request, after an error."""
        self.waiting.clear()
        self._lanes.clear()

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, Piece]]:
        """Decode one token of every request in the batch, after those that wait have joined it."""
        self.drop_cancelled()
        pieces: list[tuple[Row, Piece]] = []
        joined = set[int]()
        for key, rows in self._admitted().items():
            lane = self._lanes.setdefault(key, Lane(self))
            pieces += lane.join(rows)
            joined |= {id(row) for row in rows}
        for lane in self._lanes.values():
            if lane.rows:
                pieces += lane.step()
        self._drop_empty()
        return pieces

    def forward(self, rows: Sequence[Row], ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Run the model on the next tokens of some rows.

        Args:
            ids: int64 [rows, T].
            mask: int64 [rows, cached + T], 0 on padding.

        Returns:
            Logits behind the last token, float32 [rows, vocabulary].
        """
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "past_key_values": cache, "use_cache": True}
        if "position_ids" in self._accepts:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = 1
        out = self._adapters.forward([row.request.adapter for row in rows], inputs)
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def new_cache(self) -> Any:
        """Return an empty cache: one that keeps every position, or the model's own kind where none can be padded."""
        from transformers import DynamicCache

        return DynamicCache() if self._pads else DynamicCache(config=self._config)

    def _admitted(self) -> dict[Hashable, list[Row]]:
        """Take requests from the queue while there is room, by the batch that they are decoded in."""
        groups: dict[Hashable, list[Row]] = {}
        room, tokens = self.most_rows - self.running, 0
        while self.waiting and room > 0:
            tokens += len(self.waiting[0].request.prompt)
            if groups and tokens > self.most_prompt_tokens:
                break
            row = self.waiting.popleft()
            groups.setdefault(self._lane_of(row), []).append(row)
            room -= 1
        return groups

    def _lane_of(self, row: Row) -> Hashable:
        if not self._pads:
            return id(row)
        return "mixed" if self._adapters.mix else row.request.adapter


class Lane:
    """Rows that are decoded together, with one cache."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self.rows: list[Row] = []
        self._cache: Any = None
        self._mask = torch.empty(0, 0, dtype=torch.int64)

    def join(self, rows: list[Row]) -> list[tuple[Row, Piece]]:
        """Read the prompts of new rows and return their first tokens."""
        decoder = self._decoder
        pad = rows[0].request.tokenizer.pad_token_id
        ids, mask = padded([list(row.request.prompt) for row in rows], pad, side="left")
        ids, mask = ids.to(decoder.model.device), mask.to(decoder.model.device)
        cache = decoder.new_cache()
        logits = decoder.forward(rows, ids, mask, cache)
        new = Lane(decoder)
        new.rows, new._cache, new._mask = list(rows), cache, mask
        pieces = new._chosen(logits)
        self._merge(new)
        return pieces

    def step(self) -> list[tuple[Row, Piece]]:
        """Decode one more token of every row."""
        ids = torch.tensor([[row.last] for row in self.rows], device=self._mask.device)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        return self._chosen(self._decoder.forward(self.rows, ids, self._mask, self._cache))

    def keep(self, kept: Sequence[bool]) -> None:
        """Let rows leave the batch, and drop columns of the cache that are padding in all that stay."""
        if all(kept):
            return
        self.rows = [row for row, stays in zip(self.rows, kept, strict=True) if stays]
        if not self.rows:
            self._cache = None
            return
        index = torch.tensor([at for at, stays in enumerate(kept) if stays], device=self._mask.device)
        self._mask = self._mask.index_select(0, index)
        first = int(self._mask.argmax(-1).min())
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            layer.keys = layer.keys.index_select(0, index)[:, :, first:]
            layer.values = layer.values.index_select(0, index)[:, :, first:]

    def _chosen(self, logits: torch.Tensor) -> list[tuple[Row, Piece]]:
        found = list(zip(self.rows, chosen(self.rows, logits), strict=True))
        self.keep([not row.finish for row in self.rows])
        return found

    def _merge(self, new: Lane) -> None:
        """Add the rows of another batch to this one."""
        if not new.rows:
            return
        if not self.rows:
            self.rows, self._cache, self._mask = new.rows, new._cache, new._mask
            return
        size = max(self._mask.shape[1], new._mask.shape[1])
        pad = torch.nn.functional.pad
        for mine, theirs in zip(self._cache.layers, new._cache.layers, strict=True):
            both = [(layer.keys, layer.values) for layer in (mine, theirs)]
            mine.keys = torch.cat([pad(keys, (0, 0, size - keys.shape[2], 0)) for keys, _ in both])
            mine.values = torch.cat([pad(values, (0, 0, size - values.shape[2], 0)) for _, values in both])
        self._mask = torch.cat([pad(mask, (size - mask.shape[1], 0)) for mask in (self._mask, new._mask)])
        self.rows = self.rows + new.rows


class Adapters:
    """The adapters of a model, any of which may answer a row."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._configs: dict[str, Any] = getattr(model, "peft_config", {})
        self._active: str | None = None
        self._begun = False
        self._disabled = contextlib.ExitStack()

    @property
    def mix(self) -> bool:
        """Whether rows of different adapters can be in one batch."""
        unmixable = ("use_dora", "target_parameters", "trainable_token_indices", "modules_to_save")
        return not any(getattr(config, name, None) for config in self._configs.values() for name in unmixable)

    def forward(self, names: Sequence[str | None], inputs: dict[str, Any]) -> Any:
        """Run the model, each row with the adapter of its name or, for None, without one."""
        if not self._configs:
            return self._model(**inputs)
        if len(set(names)) == 1:
            self._select(names[0])
            return self._model(**inputs)
        if self._active is None:
            self._select(next(name for name in names if name is not None))
        return self._model(**inputs, adapter_names=[name or BASE for name in names])

    def _select(self, name: str | None) -> None:
        """Make one adapter active, or none."""
        if self._begun and name == self._active:
            return
        self._disabled.close()
        if name is None:
            self._disabled.enter_context(self._model.disable_adapter())
        else:
            self._model.set_adapter(name)
        self._active, self._begun = name, True


def chosen(rows: Sequence[Row], logits: torch.Tensor) -> list[Piece]:
    """Choose a token for each row by its own sampling, and return what it adds to the answer.

    Args:
        logits: float32 [rows, vocabulary].
    """
    greedy = logits.argmax(-1).tolist()
    pieces = []
    for at, row in enumerate(rows):
        sampling = row.request.sampling
        id = greedy[at] if sampling.temperature == 0 else _drawn(logits[at], row)
        choice = None
        if sampling.logprobs is not None:
            logprobs = logits[at].log_softmax(-1)
            likeliest = logprobs.topk(min(sampling.logprobs, logprobs.shape[0]))
            pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            choice = Choice(id, float(logprobs[id]), tuple(pairs))
        pieces.append(row.take(id, choice))
    return pieces


def _drawn(logits: torch.Tensor, row: Row) -> int:
    """Draw a token by temperature and top-p, on the CPU, so that a seed draws the same on every device."""
    sampling = row.request.sampling
    probabilities = (logits.cpu() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        # A token stays if those before it hold less than top_p; the first one always does.
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        ordered[0] = max(float(ordered[0]), 1e-9)
        return int(order[torch.multinomial(ordered, 1, generator=row.random)])
    return int(torch.multinomial(probabilities, 1, generator=row.random))
