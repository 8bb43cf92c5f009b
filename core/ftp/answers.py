"""What a model says and how well it predicts: batched, once for each model and eval set, kept on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ftp.components import Options
from ftp.rendering import Tokens, render, stop_ids
from ftp.types import Answer, Example, LoadedModel, TokenLoss

LOSS_BATCH = 8
HEAD_CHUNK = 1024
"""Positions whose logits are in memory at once."""


class AnswerOptions(Options):
    """How the base and the tuned model answer the eval sets. Decoding is greedy."""

    max_new_tokens: int = Field(default=256, ge=1)
    """The longest answer, in tokens. One that is cut here is marked so."""
    batch_size: int = Field(default=32, ge=1)
    """Prompts answered together."""


def generate(
    loaded: LoadedModel,
    examples: Sequence[Example],
    options: AnswerOptions,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[Answer]:
    """Answer the prompt of every example: greedy, longest prompts first so that a batch that is too large fails early.

    Raises:
        ModelError: the chat template refuses a prompt.
    """
    import torch
    from transformers import GenerationConfig

    model, tokenizer = loaded.model, loaded.tokenizer
    stops = stop_ids(tokenizer, model.generation_config.eos_token_id)
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        do_sample=False,
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    prompts = [
        tokenizer(render(tokenizer, example.prompt, answer_next=True, tools=example.tools), add_special_tokens=False)[
            "input_ids"
        ]
        for example in examples
    ]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: list[Answer | None] = [None] * len(prompts)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), options.batch_size):
        batch = order[start : start + options.batch_size]
        ids, mask = padded([prompts[index] for index in batch], tokenizer.pad_token_id, side="left")
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
        for index, new in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True):
            end = next((at for at, id in enumerate(new) if id in stops), None)
            text = tokenizer.decode(new[:end], skip_special_tokens=True).strip()
            answers[index] = Answer(text, len(new) if end is None else end, end is not None)
        progress(len(batch))
    model.train(was_training)
    return [answer for answer in answers if answer is not None]


def token_losses(
    loaded: LoadedModel, rows: Sequence[Tokens], progress: Callable[[int], None] = lambda rows: None
) -> list[TokenLoss]:
    """Negative log-likelihood of the trained tokens of each row.

    Logits are made only where a label is, a chunk at a time, so that memory does not grow with vocabulary times
    length. Sums are in float32.
    """
    import torch

    model, tokenizer = loaded.model, loaded.tokenizer
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
    losses: list[TokenLoss | None] = [None] * len(rows)
    body, head = _body_and_head(model)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), LOSS_BATCH):
        batch = order[start : start + LOSS_BATCH]
        ids, mask = padded([rows[index].input_ids for index in batch], tokenizer.pad_token_id, side="right")
        labels, _ = padded([rows[index].labels for index in batch], -100, side="right")
        with torch.inference_mode():
            hidden = body(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            ).last_hidden_state
            targets = labels[:, 1:].to(hidden.device)
            where = targets != -100
            states, wanted = hidden[:, :-1][where], targets[where]
            nll = torch.cat(
                [
                    torch.nn.functional.cross_entropy(head(part).float(), want, reduction="none")
                    for part, want in zip(states.split(HEAD_CHUNK), wanted.split(HEAD_CHUNK), strict=True)
                ]
            )
        for index, part in zip(batch, torch.split(nll, where.sum(1).tolist()), strict=True):
            losses[index] = TokenLoss(math.fsum(part.tolist()), len(part))
        progress(len(batch))
    model.train(was_training)
    return [loss for loss in losses if loss is not None]


def padded(rows: Sequence[list[int]], value: int, side: str) -> tuple[Any, Any]:
    """Rows of token ids as one int64 tensor [rows, longest] and its attention mask."""
    import torch

    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[at, place] = torch.tensor(row)
        mask[at, place] = 1
    return ids, mask


def _body_and_head(model: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The decoder and what turns its hidden states into logits, with the scales and soft caps some families have."""
    import torch

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    linear = causal.get_output_embeddings()
    config = causal.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)

    def head(states: torch.Tensor) -> torch.Tensor:
        logits = linear(states) * scale
        capped: torch.Tensor = torch.tanh(logits / cap) * cap if cap else logits
        return capped

    return causal.get_decoder(), head


def save(file: Path, examples: Sequence[Example], answers: Sequence[Answer], losses: Sequence[TokenLoss]) -> None:
    """Write what a model made of an eval set as Parquet, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    nothing = [None] * len(examples)
    table = pa.table(
        {
            "id": [example.id for example in examples],
            "prompt": ["\n\n".join(m.content for m in example.prompt) for example in examples],
            "reference": [example.reference for example in examples],
            "answer": pa.array([a.text for a in answers] or nothing, pa.string()),
            "answer_tokens": pa.array([a.tokens for a in answers] or nothing, pa.int64()),
            "stopped": pa.array([a.stopped for a in answers] or nothing, pa.bool_()),
            "nll": [loss.nll for loss in losses],
            "nll_tokens": [loss.tokens for loss in losses],
        }
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.part")
    pq.write_table(table, aside)
    aside.replace(file)


def load(file: Path) -> tuple[list[Answer], list[TokenLoss]]:
    """Read what `save` wrote."""
    import pyarrow.parquet as pq

    rows = pq.read_table(file).to_pylist()
    answers = [Answer(r["answer"], r["answer_tokens"], r["stopped"]) for r in rows if r["answer"] is not None]
    return answers, [TokenLoss(r["nll"], r["nll_tokens"]) for r in rows]
