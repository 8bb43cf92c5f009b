"""NEFTune: noise on the embeddings of training rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ftp.lm.torch_models import causal_model


class EmbeddingNoise:
    """Uniform noise in the embeddings' output while a model trains.

    Each value is drawn from ±alpha/√(L·d) for a row of L tokens and d dimensions (Jain et al. 2023, arXiv:2310.05914).
    L is the length of the row itself, padded or packed, as in the authors' code; the library's hook takes the width of
    the batch, which in a packed batch is the sum of all rows.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.lengths: torch.Tensor | None = None
        """The length of the row of each token, of a shape that goes along with the embeddings' output."""

    def note_lengths(self, module: Any, args: Any, inputs: Mapping[str, Any]) -> None:
        """Note the lengths of the rows before the decoder's forward."""
        packed, mask = inputs.get("lengths"), inputs.get("attention_mask")
        if packed is not None:
            lengths = torch.tensor(packed)
            self.lengths = lengths.repeat_interleave(lengths)[None, :, None]
        elif isinstance(mask, torch.Tensor) and mask.ndim == 2:
            self.lengths = mask.sum(1)[:, None, None]
        else:
            self.lengths = None

    def add(self, module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        """Add the noise to the output of the embeddings."""
        if not module.training:
            return output
        lengths = torch.tensor(output.shape[1]) if self.lengths is None else self.lengths
        most = self.alpha / (lengths.to(output.device) * output.shape[-1]).sqrt()
        return output + (torch.empty_like(output).uniform_(-1, 1) * most).to(output.dtype)


@contextlib.contextmanager
def embedding_noise(model: Any, alpha: float | None) -> Iterator[None]:
    """Add noise of this size to the embeddings of a model in training mode inside the block; none for None."""
    if alpha is None:
        yield
        return
    noise, causal = EmbeddingNoise(alpha), causal_model(model)
    hooks = (
        causal.get_decoder().register_forward_pre_hook(noise.note_lengths, with_kwargs=True),
        causal.get_input_embeddings().register_forward_hook(noise.add),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
