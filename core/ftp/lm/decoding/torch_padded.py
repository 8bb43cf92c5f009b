"""Rows decoded by the model's own forward pass: padded on the left, with a cache of keys and values that they share."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from ftp.lm.decoding.torch_choice import Row, chosen
from ftp.lm.sampling import Piece
from ftp.lm.torch_models import causal_model
from ftp.lm.torch_packing import padded

PADDABLE = ("full_attention", "sliding_attention")
"""Types of layers whose keys and values can be padded on the left."""


class PaddedModel:
    """A model that decodes by its own forward pass."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device
        causal = causal_model(model)
        self._config = causal.config.get_text_config()
        self._accepts = inspect.signature(causal.forward).parameters
        kinds = getattr(self._config, "layer_types", None) or ()
        self.pads = all(kind in PADDABLE for kind in kinds)
        """Whether rows can be padded: a cache such as that of linear attention has no positions to pad."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
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
        logits: torch.Tensor = self.model(**inputs).logits[:, -1].float()
        return logits

    def new_cache(self) -> Any:
        """Return an empty cache: one that keeps every position, or the model's own kind where none can be padded."""
        from transformers import DynamicCache

        return DynamicCache() if self.pads else DynamicCache(config=self._config)


class PaddedBatch:
    """Rows that are decoded together, all with one adapter."""

    def __init__(self, model: PaddedModel) -> None:
        self._model = model
        self.rows: list[Row] = []
        self._cache: Any = None
        self._mask = torch.empty(0, 0, dtype=torch.int64)

    def join(self, rows: Sequence[Row]) -> list[tuple[Row, Piece]]:
        """Read the prompts of new rows and return their first tokens."""
        ids, mask = padded([list(row.request.prompt) for row in rows], 0, side="left")
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        cache = self._model.new_cache()
        new = PaddedBatch(self._model)
        new.rows, new._cache, new._mask = list(rows), cache, mask
        pieces = new._chosen(self._model.forward(ids, mask, cache))
        self._merge(new)
        return pieces

    def step(self) -> list[tuple[Row, Piece]]:
        """Decode one more token of every row."""
        ids = torch.tensor([[row.new[-1]] for row in self.rows], device=self._mask.device)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        return self._chosen(self._model.forward(ids, self._mask, self._cache))

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

    def _merge(self, new: PaddedBatch) -> None:
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
