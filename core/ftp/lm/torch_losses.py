"""Loss of a model on rows: packed, with logits only for positions with a label."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ftp.lm.rendering import Tokens
from ftp.lm.torch_attention import SIZES, rounded
from ftp.lm.torch_models import causal_model, head_of
from ftp.lm.torch_packing import documents, hidden_states, pack_once, padded, same_positions_up_to, why_not
from ftp.types import LoadedModel, TokenLoss

LOSS_TOKENS = 4096
"""Tokens whose loss is computed at once."""
HEAD_BYTES = 64 * 2**20
"""Size of the float32 logits held at once."""


def token_losses(
    loaded: LoadedModel,
    rows: Sequence[Tokens],
    progress: Callable[[int], None] = lambda rows: None,
    batch_tokens: int = LOSS_TOKENS,
) -> list[TokenLoss]:
    """Sum the negative log-likelihood, in nats, of the trained tokens of each row.

    Rows go through the model without padding where it allows that; tokens that several of them begin with are computed
    once. Logits are made only where a label is, a chunk at a time, so that memory does not grow with vocabulary times
    length; they and their losses are float32, sums are exact. The model is put into evaluation mode and back.

    Args:
        rows: from `ftp.lm.rendering.encode`; a row's first token has no loss.
        progress: called with the rows done since the last call.
        batch_tokens: tokens that go through the model at once; a longer row goes alone.

    Returns:
        For each row the sum, and the number of tokens that it is over.
    """
    model = loaded.model
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
    losses: list[TokenLoss | None] = [None] * len(rows)
    longest = max((len(row.input_ids) for row in rows), default=0)
    packs = why_not(model, longest) is None
    limit = same_positions_up_to(model)
    alone = limit is not None and longest > limit
    if alone:
        # Padding to a longer row would change a row's positions too, and so would a longer row that went before it.
        batch_tokens = 1
        order.reverse()
    head = head_of(model)
    was_training = model.training
    model.eval()
    with documents(model) if packs else contextlib.nullcontext(), torch.inference_mode():
        if alone:
            _states(loaded, [[0]], packs)  # resets what the rotary embedding remembers of an earlier call
        for batch in _batches([len(rows[index].input_ids) for index in order], batch_tokens):
            numbers = [order[at] for at in batch]
            labels = [torch.tensor(rows[number].labels[1:], dtype=torch.int64) for number in numbers]
            states = _states(loaded, [rows[number].input_ids for number in numbers], packs)
            where = [label != -100 for label in labels]
            kept = torch.cat([state[:-1][mask] for state, mask in zip(states, where, strict=True)])
            wanted = torch.cat([label[mask] for label, mask in zip(labels, where, strict=True)]).to(kept.device)
            filling = rounded(len(kept), SIZES) - len(kept)
            kept = torch.nn.functional.pad(kept, (0, 0, 0, filling))
            wanted = torch.nn.functional.pad(wanted, (0, filling))
            chunk = max(1, HEAD_BYTES // (4 * model.get_input_embeddings().num_embeddings))
            nll = torch.cat(
                [
                    torch.nn.functional.cross_entropy(head(part).float(), want, reduction="none")
                    for part, want in zip(torch.split(kept, chunk), torch.split(wanted, chunk), strict=True)
                ]
            )
            parts = torch.split(nll[: len(nll) - filling], [int(mask.sum()) for mask in where])
            for number, part in zip(numbers, parts, strict=True):
                losses[number] = TokenLoss(math.fsum(part.tolist()), len(part))
            progress(len(numbers))
    model.train(was_training)
    return [loss for loss in losses if loss is not None]


def _batches(lengths: Sequence[int], tokens: int) -> Iterator[range]:
    """Cut rows into runs with at most so many tokens together, and at least one row in each; longest rows first."""
    start, total = 0, 0
    for at, length in enumerate(lengths):
        if total and total + length > tokens:
            yield range(start, at)
            start, total = at, 0
        total += length
    if total:
        yield range(start, len(lengths))


def _states(loaded: LoadedModel, rows: list[list[int]], packs: bool) -> Sequence[Any]:
    """Return the last hidden states of each row, [its length, hidden]."""
    model = loaded.model
    lengths = [len(row) for row in rows]
    if packs:
        packed, places = pack_once(rows, model.device)
        states = hidden_states(model, packed)
        return [states[place.to(states.device)] for place in places]
    ids, mask = padded(rows, loaded.tokenizer.pad_token_id, side="right")
    decoder = causal_model(model).get_decoder()
    out = decoder(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    return [states[:length] for states, length in zip(out.last_hidden_state, lengths, strict=True)]
