"""What a model says and how well it predicts: batched, once for each model and eval set, kept on disk."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from ftp import packed
from ftp.components import Options
from ftp.rendering import Tokens, render, stop_ids
from ftp.types import Answer, Example, LoadedModel, TokenLoss

LOSS_TOKENS = 4096
"""Tokens whose loss is taken at once."""
HEAD_BYTES = 64 * 2**20
"""Size of the float32 logits that are held at once."""


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
    loaded: LoadedModel,
    rows: Sequence[Tokens],
    progress: Callable[[int], None] = lambda rows: None,
    batch_tokens: int = LOSS_TOKENS,
) -> list[TokenLoss]:
    """Negative log-likelihood of the trained tokens of each row.

    Rows go through the model without padding where it allows that, so many at once as have `batch_tokens` tokens.
    Logits are made only where a label is, a chunk at a time, so that memory does not grow with vocabulary times
    length. Sums are in float32.
    """
    import torch

    model = loaded.model
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
    losses: list[TokenLoss | None] = [None] * len(rows)
    packs = packed.why_not(model) is None
    head = head_of(model)
    was_training = model.training
    model.eval()
    with packed.documents(model) if packs else contextlib.nullcontext(), torch.inference_mode():
        for batch in _batches([len(rows[index].input_ids) for index in order], batch_tokens):
            numbers = [order[at] for at in batch]
            labels = [torch.tensor(rows[number].labels[1:], dtype=torch.int64) for number in numbers]
            states = _states(loaded, [rows[number].input_ids for number in numbers], packs)
            where = [label != -100 for label in labels]
            kept = torch.cat([state[:-1][mask] for state, mask in zip(states, where, strict=True)])
            wanted = torch.cat([label[mask] for label, mask in zip(labels, where, strict=True)]).to(kept.device)
            filling = packed.rounded(len(kept), packed.SIZES) - len(kept)
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
    """Runs of rows with at most so many tokens together, and at least one row in each; longest rows first."""
    start, total = 0, 0
    for at, length in enumerate(lengths):
        if total and total + length > tokens:
            yield range(start, at)
            start, total = at, 0
        total += length
    if total:
        yield range(start, len(lengths))


def _states(loaded: LoadedModel, rows: list[list[int]], packs: bool) -> Sequence[Any]:
    """The last hidden states of each row, [its length, hidden]."""
    import torch

    model = loaded.model
    lengths = [len(row) for row in rows]
    if packs:
        return torch.split(packed.hidden_states(model, packed.pack(rows, model.device))[: sum(lengths)], lengths)
    ids, mask = padded(rows, loaded.tokenizer.pad_token_id, side="right")
    decoder = causal_model(model).get_decoder()
    out = decoder(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
    return [states[:length] for states, length in zip(out.last_hidden_state, lengths, strict=True)]


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


def causal_model(model: Any) -> Any:
    """The causal language model itself, without an adapter's wrapper around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: Any) -> Callable[..., Any]:
    """What turns hidden states into logits, with the scales and soft caps some families have."""
    import torch

    causal = causal_model(model)
    linear = causal.get_output_embeddings()
    scale, cap = logit_scale_and_cap(causal)

    def head(states: torch.Tensor) -> torch.Tensor:
        logits = linear(states) * scale
        capped: torch.Tensor = torch.tanh(logits / cap) * cap if cap else logits
        return capped

    return head


def logit_scale_and_cap(causal: Any) -> tuple[float, float | None]:
    """What a family's logits are multiplied by (Cohere, Granite), and their soft cap (Gemma 2)."""
    config = causal.config.get_text_config()
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    return scale, getattr(config, "final_logit_softcapping", None)


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
