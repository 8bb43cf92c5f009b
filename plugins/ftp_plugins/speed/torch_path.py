"""FTP's fast path through a causal language model in training: rows packed, loss only at labels, fast layers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ftp.lm.prefixes import prefix_groups
from ftp.lm.rendering import Tokens
from ftp.lm.torch_models import causal_model, head_of, logit_scale_and_cap
from ftp.lm.torch_packing import Pack, documents, hidden_states, why_not
from ftp_plugins.speed.torch_batches import Batches, packed_batch
from ftp_plugins.speed.torch_copies import WeightCopies
from ftp_plugins.speed.torch_head import PLAIN, PenalisedLoss, TokenLoss, log_probs, loss_through, summed_loss
from ftp_plugins.speed.torch_layers import fast_layers

if TYPE_CHECKING:
    from ftp.lm.tokens import TokenRows

TRIED_TOKENS = 100
"""Trained tokens that are compared with the model's own forward before it is trusted."""


def why_separately(model: Any) -> str | None:
    """Return why tokens that several rows begin with can't be computed once for all of them; None if they can."""
    rates = [float(getattr(module, "p", 0.0)) for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    if max(rates, default=0.0) or getattr(causal_model(model).config.get_text_config(), "attention_dropout", 0.0):
        return "every row draws its own dropout"
    return None


class FastPath:
    """Loss of packed batches.

    Args:
        compute: what float32 weights that train are multiplied in.
        token_loss: the loss of each token from its logits; None for cross-entropy, which is faster and takes less
            memory.
    """

    def __init__(self, model: Any, compute: torch.dtype, token_loss: TokenLoss | None = None) -> None:
        self.model, self.compute, self.token_loss = model, compute, token_loss
        self.copies = WeightCopies(compute)
        self.scale, self.softcap = logit_scale_and_cap(causal_model(model))
        self.head = causal_model(model).get_output_embeddings()
        self.plain_head = type(self.head) is torch.nn.Linear and self.head.bias is None
        self.separately = why_separately(model)
        """Why tokens that several rows begin with are computed for each of them; None if they are computed once."""
        self.groups: list[int] | None = None
        self.mixes = self.plain_head and self.head.weight.dtype == torch.float32 and compute != torch.float32

    @staticmethod
    def why_not(model: Any, longest: int = 0) -> str | None:
        """Return why this model can't use the fast path, or None if it can.

        Args:
            longest: tokens of the longest row.
        """
        return why_not(model, longest)

    def plan_batches(self, rows: TokenRows, batch_size: int, seed: int) -> Batches:
        """Return the batches of rows; within a window those that share a prefix are in one batch."""
        if self.separately is None and self.groups is None:
            self.groups = prefix_groups(rows.table.column("input_ids"), most=4 * batch_size)
        return Batches(rows.lengths().tolist(), batch_size, seed, alike=False, groups=self.groups)

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return rows as a `packed_batch`."""
        return packed_batch(rows, once=self.separately is None)

    @contextlib.contextmanager
    def layers(self) -> Iterator[list[str]]:
        """Install the fast layers inside the block; yield what was replaced, in words."""
        with fast_layers(self.model, self.copies) as done:
            yield done

    def weights_changed(self) -> None:
        """Record an optimizer step or loaded weights; call it after each."""
        self.copies.weights_changed()

    def attention(self) -> contextlib.AbstractContextManager[None]:
        """Return the context for the forward and backward pass of a batch."""
        return documents(self.model)

    def loss(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the summed loss of a `packed_batch`, in nats for cross-entropy."""
        states = self.states(batch)
        penalties, weights = PLAIN if self.token_loss is None else self.token_loss, batch.get("weights")
        if not self.plain_head or not isinstance(penalties, PenalisedLoss):
            head, size = head_of(self.model), self.model.config.vocab_size
            return loss_through(head, states, batch["targets"], size, self.token_loss, weights)
        copy = self.copies.of(self.head.weight) if self.mixes else None
        return summed_loss(
            states, self.head.weight, batch["targets"], self.scale, self.softcap, copy, penalties, weights
        )

    def log_probs(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the log-probability of each target of a `packed_batch`, in nats, differentiable, float32 [N]."""
        return log_probs(head_of(self.model), self.states(batch), batch["targets"], self.model.config.vocab_size)

    def states(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the hidden states that predict the targets of a `packed_batch`, [N, hidden]."""
        rows = Pack(batch["input_ids"], batch["position_ids"], batch["lengths"], batch.get("parents"))
        return hidden_states(self.model, rows)[batch["at"]]

    def disagrees(self, rows: TokenRows) -> str | None:
        """Test the fast path on a few short rows; return None if its loss is the model's own, else the error.

        In bfloat16 a single logit is off by up to a tenth; the bound is on the mean over some dozens of tokens.
        """
        tried: list[Tokens] = []
        for index in rows.lengths().argsort(kind="stable"):
            tried.append(rows[int(index)])
            if sum(sum(row.trained[1:]) for row in tried) >= TRIED_TOKENS:
                break
        if self.separately is None:
            ids = [*tried[-1].input_ids[:-4], *tried[-1].input_ids[:4]]  # a branch, should these rows share nothing
            tried.append(Tokens(ids, [at >= len(ids) - 3 for at in range(len(ids))]))
        batch = self.collate([{"input_ids": row.input_ids, "trained": row.trained} for row in tried])
        batch = {name: value.to(self.model.device) if hasattr(value, "to") else value for name, value in batch.items()}
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                plain = sum(self._plain(row.input_ids, row.labels) for row in tried) / len(batch["targets"])
                with self.layers(), self.attention():
                    ours = self.loss(batch).item() / len(batch["targets"])
        except (RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
            what = str(error).strip().split("\n")[0]
            return f"it failed on this model ({type(error).__name__}: {what})"
        finally:
            self.model.train(was_training)
        exact = self.compute == torch.float32 and self.model.dtype == torch.float32
        if not abs(ours - plain) <= (1e-4 * plain if exact else 0.05 + 0.01 * plain):
            return f"its loss on {len(tried)} rows, {ours:.4f}, is not the model's own, {plain:.4f}"
        return None

    def _plain(self, ids: list[int], labels: list[int]) -> float:
        """Return the summed loss of a row computed by the model's own forward."""
        device = self.model.device
        logits = self.model(input_ids=torch.tensor([ids], device=device)).logits[0, :-1].float()
        targets = torch.tensor(labels[1:], device=device)
        if self.token_loss is not None:
            return float(self.token_loss(logits[targets != -100], targets[targets != -100]).sum())
        return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
