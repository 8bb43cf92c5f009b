"""Answers to many requests at once, a token at a time: new requests join the batch and finished ones leave it.

Each row has its own length, sampling, seed, stop strings, log-probabilities and adapter. Where the model allows it rows
are decoded without padding, on its own layers (`decoding.torch_packed`); else by its own forward pass, padded on the
left (`decoding.torch_padded`). What can't share a batch is decoded in batches of its own: adapters other than plain
LoRA, one batch each; models whose cache has no position to pad, such as those with linear attention, one batch a row.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from ftp.errors import ModelError
from ftp.files import first_line
from ftp.lm.decoding.torch_adapters import Adapters, active_adapter
from ftp.lm.decoding.torch_choice import Row, chosen, processors
from ftp.lm.decoding.torch_packed import PackedBatch, PackedModel
from ftp.lm.decoding.torch_padded import PaddedBatch, PaddedModel
from ftp.lm.prefixes import reading_order
from ftp.lm.sampling import Piece, Request, Sampling
from ftp.lm.torch_models import causal_model
from ftp.lm.torch_packing import same_positions_up_to
from ftp.options import AnswerOptions

__all__ = ["Decoder", "Row", "active_adapter", "answer_all", "chosen"]

TRIED_TOKENS = 64
"""Tokens of a prompt on which decoding without padding is compared with the model's own forward pass."""
REFILL = 4
"""In groups, requests join when this part of the rows is free: few prompts at a time would make small products."""


class Decoder:
    """Decodes requests in batches.

    The model is put into evaluation mode. Greedy tokens are those of its own `generate`, repetition penalties and the
    like of its generation config included. Before decoding without padding is trusted, its logits on the first prompt
    are compared with those of the model's own forward pass.

    Args:
        model: a causal language model of transformers, or a `peft.PeftModel`.
        most_rows: requests that are decoded at once; the others wait.
        most_prompt_tokens: tokens of prompts that join in one step, unless a single prompt has more: those that are
            answered already wait for it.
        in_groups: let requests join only when a quarter of the rows is free, and then however many tokens their
            prompts have: more answers per second where nobody waits for the first token of one.
        bounded: refuse requests that don't fit into the model's context.
        note: called with a sentence for the user where decoding is slower than it might be.
    """

    def __init__(
        self,
        model: Any,
        most_rows: int = 16,
        most_prompt_tokens: int = 4096,
        *,
        in_groups: bool = False,
        bounded: bool = True,
        note: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.model, self.most_rows, self.most_prompt_tokens = model.eval(), most_rows, most_prompt_tokens
        self.in_groups, self.bounded, self._note = in_groups, bounded, note
        self.waiting: deque[Row] = deque()
        self._adapters = Adapters(model)
        self._padded = PaddedModel(model)
        self._packed: PackedModel | None = None
        self._tried = False
        self._alike = same_positions_up_to(model)
        self._batches: dict[Hashable, PackedBatch | PaddedBatch] = {}

    @property
    def context(self) -> int | None:
        """The most tokens of prompt and answer together; None where the model doesn't say."""
        config = causal_model(self.model).config.get_text_config()
        most = getattr(config, "max_position_embeddings", None)
        return int(most) if most else None

    @property
    def running(self) -> int:
        """How many requests are in the batch."""
        return sum(len(batch.rows) for batch in self._batches.values())

    @property
    def shared_tokens(self) -> int:
        """Tokens of prompts so far that were not computed, since another prompt begins with them too."""
        return self._packed.shared_tokens if self._packed else 0

    def add(self, request: Request) -> Row:
        """Queue a request; it joins the batch at the next step if there is room.

        Raises:
            ModelError: prompt and answer are longer than the model's context.
        """
        longest, prompt = request.sampling.max_new_tokens, len(request.prompt)
        if not prompt:
            raise ModelError("the prompt has no tokens")
        room = None if self.context is None else self.context - prompt
        if self.bounded and room is not None and room < (longest or 1):
            raise ModelError(
                f"the model's context has {self.context:,} tokens; the prompt has {prompt:,} and the answer may have "
                f"{longest or 1:,}"
            )
        limit = longest or (room if room is not None else 2048)
        row = Row(request, limit, processors(self.model.generation_config, request.stops))
        self.waiting.append(row)
        return row

    @torch.inference_mode()
    def drop_cancelled(self) -> None:
        """Have cancelled requests leave the queue and the batch at once, and free their memory."""
        self.waiting = deque(row for row in self.waiting if not row.cancelled)
        for batch in self._batches.values():
            batch.keep([not row.cancelled for row in batch.rows])
        self._drop_empty()

    def _drop_empty(self) -> None:
        self._batches = {key: batch for key, batch in self._batches.items() if batch.rows}

    def clear(self) -> None:
        """Drop every request, after an error."""
        self.waiting.clear()
        self._batches.clear()

    @torch.inference_mode()
    def step(self) -> list[tuple[Row, Piece]]:
        """Decode one token of every request in the batch, after those that wait have joined it."""
        self.drop_cancelled()
        if self.waiting and not self._tried:
            self._try(self.waiting[0].request)
        pieces: list[tuple[Row, Piece]] = []
        for key, rows in self._admitted().items():
            batch = self._batches.get(key) or self._batches.setdefault(key, self._new_batch(key))
            with self._selected(rows):
                pieces += batch.join(rows)
        for batch in self._batches.values():
            if batch.rows:
                with self._selected(batch.rows):
                    pieces += batch.step()
        self._drop_empty()
        return pieces

    def _selected(self, rows: Sequence[Row]) -> contextlib.AbstractContextManager[None]:
        """Have peft answer with the adapter of a batch, unless each row gets its own."""
        if self._packed is not None and self._adapters.mix and self._batch_of(rows[0]) == "packed":
            return contextlib.nullcontext()
        return self._adapters.selected(rows[0].request.adapter)

    def _admitted(self) -> dict[Hashable, list[Row]]:
        """Take requests from the queue while there is room, by the batch that they are decoded in."""
        groups: dict[Hashable, list[Row]] = {}
        room, tokens = self.most_rows - self.running, 0
        if self.in_groups and room * REFILL < self.most_rows:
            return groups
        while self.waiting and room > 0:
            tokens += len(self.waiting[0].request.prompt)
            if groups and tokens > self.most_prompt_tokens and not self.in_groups:
                break
            row = self.waiting.popleft()
            groups.setdefault(self._batch_of(row), []).append(row)
            room -= 1
        return groups

    def _batch_of(self, row: Row) -> Hashable:
        """Return which batch a row is decoded in."""
        alike = self._alike is None or len(row.request.prompt) + row.limit <= self._alike
        if self._packed is not None and alike:
            return "packed" if self._adapters.mix else ("packed", row.request.adapter)
        # What the positions of a row are depends on the rows beside it, or its cache can't be padded.
        return ("padded", row.request.adapter) if alike and self._padded.pads else ("padded", id(row))

    def _new_batch(self, key: Hashable) -> PackedBatch | PaddedBatch:
        if self._packed is not None and "packed" in (key, key[0] if isinstance(key, tuple) else key):
            return PackedBatch(self._packed)
        return PaddedBatch(self._padded)

    def _try(self, request: Request) -> None:
        """Decode without padding from now on if the model allows it, and say so where it doesn't."""
        self._tried = True
        reason = PackedModel.why_not(self.model)
        if reason is None:
            packed = PackedModel(self.model, self._adapters, self.most_rows)
            prompt = list(request.prompt[-TRIED_TOKENS:])
            reason = self._disagrees(packed, prompt if len(prompt) > 1 else prompt * 2, request.adapter)
            if reason is None:
                self._packed = packed
                return
        self._note(f"Answers are decoded by the model's own forward pass, padded, which is slower: {reason}.")

    def _disagrees(self, packed: PackedModel, prompt: list[int], adapter: str | None) -> str | None:
        """Compare logits with those of the model's own forward pass; return what is wrong, or None."""
        with self._adapters.selected(adapter):
            ids = torch.tensor([prompt], device=self.model.device)
            plain = self.model(input_ids=ids).logits[0, -1].float()
            try:
                ours = packed.next_logits(prompt, adapter)
            except torch.OutOfMemoryError:
                raise
            except (NotImplementedError, TypeError, AttributeError, KeyError, RuntimeError) as error:
                return f"decoding without padding failed on it ({type(error).__name__}: {first_line(error)})"
        exact = self.model.dtype == torch.float32
        apart = (ours - plain).abs().max().item()
        if not apart <= (1e-3 if exact else 0.05) * max(1.0, plain.abs().max().item()):
            return f"the logits without padding differ by {apart:.3g} from the model's own"
        return None


def one_by_one(model: Any) -> str | None:
    """Return why a `Decoder` can't have several rows of this model in a batch; None where it can."""
    causal = causal_model(model)
    if getattr(causal, "_is_stateful", False) or not hasattr(causal, "get_decoder"):
        return f"{type(causal).__name__} is no plain decoder"
    return None if PaddedModel(model).pads else f"{type(causal).__name__} has layers that are no plain attention"


def answer_all(
    model: Any,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    options: AnswerOptions,
    progress: Callable[[int], None] = lambda answers: None,
    note: Callable[[str], object] = lambda text: None,
    shared: Callable[[int], object] = lambda tokens: None,
) -> list[Row]:
    """Answer prompts with at most `options.batch_size` at once, as the model answers now; it is put back into its mode.

    The longest prompts come first, so that too large a batch fails early, and with each those that begin as it does.
    Each draws from a generator of its own, seeded with `options.seed` and its number: what is drawn doesn't depend on
    the prompts beside it.

    Args:
        prompts: token ids.
        stops: the tokens that end an answer.
        progress: called with the answers done since its last call.
        note: as that of `Decoder`.
        shared: called at the end with the tokens of prompts that were not computed, as another begins with them too.

    Returns:
        The finished rows, in the order of the prompts.
    """
    was_training, adapter = model.training, active_adapter(model)
    try:
        decoder = Decoder(model, options.batch_size, in_groups=True, bounded=False, note=note)
        rows: dict[int, Row] = {}
        for number in reading_order(prompts):
            seed = options.seed + (number << 32)
            sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, seed)
            rows[number] = decoder.add(Request(prompts[number], None, tuple(stops), adapter, sampling))
        while decoder.waiting or decoder.running:
            if done := sum(piece.finish != "" for _, piece in decoder.step()):
                progress(done)
        shared(decoder.shared_tokens)
    finally:
        model.train(was_training)
    return [rows[number] for number in range(len(prompts))]
