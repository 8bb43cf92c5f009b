"""Log-probabilities of the answers of preference examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ftp
from ftp.data.examples import judged_answer
from ftp.lm.rendering import encode, stop_ids
from ftp.lm.torch_losses import token_losses


def answer_log_probs(
    model: ftp.LoadedModel, examples: Sequence[ftp.Example], progress: Callable[[int], None]
) -> list[Any]:
    """Return `chosen` and `rejected`, the log-probabilities of the answers in nats, and the tokens of each."""
    stops = stop_ids(model.tokenizer, model.model.generation_config.eos_token_id)
    found: dict[str, list[ftp.TokenLoss]] = {}
    for name in ("chosen", "rejected"):
        rows = encode(model.tokenizer, [judged_answer(example, name == "rejected") for example in examples], stops)
        found[name] = token_losses(model, rows)
    progress(len(examples))
    return [
        {
            "chosen": -chosen.nll,
            "rejected": -rejected.nll,
            "chosen_tokens": chosen.tokens,
            "rejected_tokens": rejected.tokens,
        }
        for chosen, rejected in zip(found["chosen"], found["rejected"], strict=True)
    ]
