"""Probabilities of a model's next token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def next_token_odds(model: Any, ids: Sequence[int], choices: Sequence[int]) -> list[float]:
    """Return the probability of each of `choices` as the token after `ids`, among those choices alone.

    Args:
        model: a causal language model of transformers.
        ids: the prompt's tokens.
        choices: the tokens to choose among.
    """
    with torch.inference_mode():
        logits = model(torch.tensor([list(ids)], device=model.device), logits_to_keep=1).logits[0, -1].float()
    odds: list[float] = torch.softmax(logits[list(choices)], 0).tolist()
    return odds
