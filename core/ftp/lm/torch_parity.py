"""How near two forms of a model are: the ids of prompts, next-token distributions, greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ftp.errors import ModelError
from ftp.lm.rendering import render, stop_ids
from ftp.options import Proof
from ftp.types import Example, Exported, Parity

POSITIONS = 32
"""Positions of a prompt with its answer whose predictions are compared: the last ones."""
LONGEST_TEXT = 256
"""Tokens of running text that stand for a prompt."""
LONGEST_PROMPT = 1024
"""Tokens of a prompt that predictions and answers are compared on: the last ones. Ids are compared on all."""


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """What the model of a run makes of one prompt."""

    example: Example
    prompt: list[int]
    """All its ids; `asked` is the part that the model was asked with."""
    asked: list[int]
    answer: list[int]
    log_probs: torch.Tensor
    """Float32 [positions, vocabulary]."""


def opened(model: Any, tokenizer: Any, engine: str) -> Exported:
    """Make a model in memory ready for comparison; it is put into evaluation mode.

    Args:
        model: a `transformers.PreTrainedModel` or a `peft.PeftModel`.
        tokenizer: a fast tokenizer with a chat template.
        engine: name of what has opened it.
    """
    found = _Opened(model.eval(), tokenizer)
    return Exported(engine, found.encode, found.encode_text, found.logits, found.answer)


class _Opened:
    """A model and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.stops = list(stop_ids(tokenizer, model.generation_config.eos_token_id))

    def encode(self, example: Example) -> list[int]:
        text = render(self.tokenizer, example.prompt, answer_next=True, tools=example.tools)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_text(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            out = self.model(input_ids=torch.tensor([list(ids)], device=self.model.device), use_cache=False)
        found: torch.Tensor = out.logits[0].float().cpu()
        return found

    def answer(self, ids: Sequence[int], most: int) -> list[int]:
        from transformers import GenerationConfig

        inputs = torch.tensor([list(ids)], device=self.model.device)
        pad = self.tokenizer.pad_token_id
        config = GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=self.stops, pad_token_id=pad)
        with torch.inference_mode():
            out = self.model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
        return list(out[0, len(ids) :].tolist())


def reference(model: Exported, examples: Sequence[Example], proof: Proof) -> list[ReferenceRow]:
    """Ask the model of a run, so that exports can be compared with it when it is no longer in memory."""
    rows = []
    for example in examples[: proof.prompts]:
        prompt = _prompt(model, example)
        asked = prompt[-LONGEST_PROMPT:]
        answer = list(model.answer(asked, proof.max_new_tokens))
        rows.append(ReferenceRow(example, prompt, asked, answer, _log_probs(model, asked + answer)))
    return rows


def compare(rows: Sequence[ReferenceRow], export: Exported) -> Parity:
    """Compare an export with what the model of the run made of the same prompts.

    Predictions are compared on the run's own token ids, so that other ids show as other ids and not as other
    predictions.

    Raises:
        ModelError: the export has another vocabulary, or no number comes out of it.
    """
    same_ids, same_answers, difference = 0, 0, ""
    divergences, agreements = [], []
    for row in rows:
        prompt = _prompt(export, row.example)
        if prompt == row.prompt:
            same_ids += 1
        elif not difference:
            difference = _difference(row, prompt)
        found = _log_probs(export, row.asked + row.answer)
        if found.shape != row.log_probs.shape:
            sizes = f"{found.shape[-1]} tokens and the model of the run {row.log_probs.shape[-1]}"
            raise ModelError(f"the export has {sizes}")
        expected = row.log_probs.double()
        divergences += torch.sum(expected.exp() * (expected - found.double()), -1).tolist()
        agreements += (expected.argmax(-1) == found.argmax(-1)).tolist()
        same_answers += list(export.answer(row.asked, max(1, len(row.answer)))) == row.answer
    return Parity(
        prompts=len(rows),
        same_ids=same_ids,
        positions=len(agreements),
        top1=sum(agreements) / len(agreements),
        kl=max(0.0, sum(divergences) / len(divergences)),
        kl_max=max(divergences),
        same_answers=same_answers / len(rows),
        first_difference=difference,
    )


def _prompt(model: Exported, example: Example) -> list[int]:
    if example.messages:
        return list(model.encode(example))
    return list(model.encode_text(example.text))[:LONGEST_TEXT]


def _log_probs(model: Exported, ids: list[int]) -> torch.Tensor:
    logits: Any = torch.as_tensor(model.logits(ids))[-POSITIONS:]
    return torch.log_softmax(logits.float(), -1)


def _difference(row: ReferenceRow, ids: list[int]) -> str:
    at = next((n for n, (a, b) in enumerate(zip(row.prompt, ids, strict=False)) if a != b), None)
    at = min(len(ids), len(row.prompt)) if at is None else at
    ours, theirs = row.prompt[at : at + 4], ids[at : at + 4]
    return f"{row.example.id or 'a prompt'}: from token {at} on {theirs} where the run has {ours}"
