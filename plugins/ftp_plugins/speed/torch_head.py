"""Cross-entropy at the labels, from hidden states, without the logits of a whole batch in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ftp.lm.torch_attention import SIZES, rounded

CHUNK_BYTES = 64 * 2**20
"""Size of a chunk's float32 logits."""

TokenLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The losses [n] of tokens, from float32 logits [n, vocabulary] and int64 targets [n]."""


@dataclass(frozen=True)
class PenalisedLoss:
    """Cross-entropy with label smoothing and z-loss: a `TokenLoss` that the fused head knows too."""

    label_smoothing: float
    """Share of the target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016,
    arXiv:1512.00567, section 7)."""
    z_loss: float
    """Weight of the squared logarithm of the softmax's denominator, which keeps logits from drifting (Chowdhery et al.
    2022, arXiv:2204.02311, section 5)."""

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nll = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        return nll + self.z_loss * torch.logsumexp(logits, -1).square() if self.z_loss else nll


PLAIN = PenalisedLoss(0.0, 0.0)


def summed_loss(
    states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    scale: float = 1.0,
    softcap: float | None = None,
    compute: torch.Tensor | None = None,
    penalties: PenalisedLoss = PLAIN,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the summed negative log-likelihood in nats with the penalties, float32.

    Logits and their gradient are made a chunk of positions at a time, the gradient already in the forward pass (as in
    Liger, Hsu et al. 2024, arXiv:2410.10989), so memory does not grow with positions times vocabulary.

    Args:
        states: [N, hidden], only the positions that predict a trained token.
        weight: [vocabulary, hidden] of the output head.
        targets: int64 [N].
        scale: logits are multiplied by it.
        softcap: logits go through `softcap * tanh(logits / softcap)` (Gemma 2).
        compute: the weight in the type to multiply in, where that is another than its own.
        weights: what the loss of each position is multiplied by, float32 [N]; None for 1.
    """
    loss: torch.Tensor = SummedLoss.apply(states, weight, targets, scale, softcap, compute, penalties, weights)
    return loss


def loss_through(
    head: Callable[..., Any],
    states: torch.Tensor,
    targets: torch.Tensor,
    vocabulary: int,
    token_loss: TokenLoss | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the same through any head, such as an adapter's or one with a bias, and with any token loss.

    A chunk's logits are made again for its gradient.

    Args:
        token_loss: None for cross-entropy.
    """
    part = partial(_loss_of_part, head, token_loss or PLAIN)
    rows = max(1, CHUNK_BYTES // (4 * vocabulary))
    total = torch.zeros((), dtype=torch.float32, device=states.device)
    factors = torch.ones(len(targets), device=states.device) if weights is None else weights
    for chunk in zip(*(torch.split(values, rows) for values in (states, targets, factors)), strict=True):
        total = total + checkpoint(part, *chunk, use_reentrant=False)
    return total


def _loss_of_part(
    head: Callable[..., Any],
    token_loss: TokenLoss,
    states: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    return (token_loss(head(states).float(), targets) * weights).sum()


def log_probs(head: Callable[..., Any], states: torch.Tensor, targets: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the log-probability of each target, in nats, differentiable, float32 [N].

    A chunk's logits are made again for its gradient.

    Args:
        states: [N, hidden], only the positions that predict a trained token.
        targets: int64 [N].
    """
    part = partial(_log_probs_of_part, head)
    rows = max(1, CHUNK_BYTES // (4 * vocabulary))
    parts = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    return torch.cat([checkpoint(part, some, wanted, use_reentrant=False) for some, wanted in parts])


def _log_probs_of_part(head: Callable[..., Any], states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -functional.cross_entropy(head(states).float(), targets, reduction="none")


@lru_cache(maxsize=1)
def _buffers(rows: int, vocabulary: int, dtype: Any, device: Any) -> tuple[torch.Tensor, ...]:
    """Return buffers for a chunk's logits in `dtype` and twice in float32, the same ones in every step.

    Where `dtype` is float32 the first two are one. Blocks of this size, allocated after a batch's activations, would
    fit no gap in the heap that these fragment.
    """
    logits, logs = (torch.empty(rows, vocabulary, dtype=torch.float32, device=device) for _ in range(2))
    return logits if dtype == torch.float32 else torch.empty_like(logits, dtype=dtype), logits, logs


def forget_buffers() -> None:
    """Free what is kept between steps."""
    _buffers.cache_clear()


class SummedLoss(torch.autograd.Function):
    """`summed_loss` as one autograd node, whose gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, states: Any, weight: Any, targets: Any, scale: float, softcap: float | None, compute: Any,
        penalties: PenalisedLoss, weights: Any,
    ) -> Any:  # fmt: skip
        used = weight if compute is None else compute
        count = len(states)
        filling = rounded(count, SIZES) - count
        inputs = functional.pad(states.to(used.dtype), (0, 0, 0, filling))
        targets = functional.pad(targets, (0, filling))
        factors = None if weights is None else functional.pad(weights, (0, filling))[:, None]
        rows = max(1, CHUNK_BYTES // (4 * len(used)))
        wants_states, wants_weight = ctx.needs_input_grad[:2]
        dstates = torch.empty_like(inputs) if wants_states else None
        dweight = torch.zeros_like(weight) if wants_weight else None
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        spread, z_loss = penalties.label_smoothing, penalties.z_loss
        work = _buffers(rows, len(used), used.dtype, used.device)
        for start in range(0, len(inputs), rows):
            part, wanted = inputs[start : start + rows], targets[start : start + rows, None]
            low, logits, logs = (buffer[: len(part)] for buffer in work)
            logits.copy_(torch.mm(part, used.t(), out=low))
            if scale != 1:
                logits.mul_(scale)
            bent = None
            if softcap:
                bent = logits.div_(softcap).tanh_()
                logits = bent * softcap
            torch.log_softmax(logits, -1, out=logs)
            real = max(0, min(count - start, len(part)))
            log_sum = logits[:, :1] - logs[:, :1] if z_loss else None
            losses = -(1 - spread) * logs.gather(1, wanted)
            if spread:
                losses -= spread * logs.mean(1, keepdim=True)
            if log_sum is not None:
                losses += z_loss * log_sum.square()
            factor = None if factors is None else factors[start : start + rows]
            total += (losses if factor is None else losses * factor)[:real].sum()
            if not wants_states and not wants_weight:
                continue
            grad = logs.exp_()
            if log_sum is not None:
                grad.mul_(1 + 2 * z_loss * log_sum)
            grad.scatter_add_(1, wanted, torch.full_like(wanted, spread - 1, dtype=torch.float32))
            if spread:
                grad.sub_(spread / len(used))
            if factor is not None:
                grad.mul_(factor)
            grad[real:] = 0
            if bent is not None:
                grad.mul_(1 - bent * bent)
            if scale != 1:
                grad.mul_(scale)
            dlogits = low.copy_(grad)
            if dstates is not None:
                torch.mm(dlogits, used, out=dstates[start : start + rows])
            if dweight is not None:
                dweight += torch.mm(dlogits.t(), part)
        ctx.save_for_backward(dstates if dstates is None else dstates[:count], dweight)
        ctx.dtype = states.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        dstates, dweight = ctx.saved_tensors
        return (
            None if dstates is None else (dstates * grad).to(ctx.dtype),
            None if dweight is None else dweight.mul_(grad.to(dweight.dtype)),  # the largest gradient: no copy
            *(None,) * 6,
        )
