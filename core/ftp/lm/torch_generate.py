"""Answers of a model to prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ftp.lm.rendering import prompt_ids, stop_ids
from ftp.lm.torch_packing import padded
from ftp.options import AnswerOptions
from ftp.types import Answer, Example, LoadedModel


def generate(
    loaded: LoadedModel,
    examples: Sequence[Example],
    options: AnswerOptions,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[Answer]:
    """Answer the prompt of every example once, with the model's own `generate`: greedy without a temperature.

    Args, order and errors are those of `generate_ids`.
    """
    tokenizer = loaded.tokenizer
    stops = stop_ids(tokenizer, loaded.model.generation_config.eos_token_id)
    return [answer_of(tokenizer, new, stops) for new in generate_ids(loaded, examples, options, progress)]


def answer_of(tokenizer: Any, new: Sequence[int], stops: Sequence[int]) -> Answer:
    """Return the answer that new tokens are; a stop token at their end is no part of its text."""
    stopped = bool(new) and new[-1] in stops
    kept = new[:-1] if stopped else new
    return Answer(tokenizer.decode(kept, skip_special_tokens=True).strip(), len(kept), stopped)


def generate_ids(
    loaded: LoadedModel,
    examples: Sequence[Example],
    options: AnswerOptions,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[list[int]]:
    """Return the new tokens of an answer to every example, with the stop token that ended it if there is one.

    The longest prompts come first, so that a batch that is too large fails early; the answers come in the order of the
    examples. The model is put into evaluation mode and back.

    Args:
        options: the longest answer in tokens, and how many prompts are answered together.
        progress: called with the answers done since the last call.

    Raises:
        ModelError: the chat template refuses a prompt.
    """
    from transformers import GenerationConfig

    model, tokenizer = loaded.model, loaded.tokenizer
    stops = stop_ids(tokenizer, model.generation_config.eos_token_id)
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens,
        **_sampling(options),
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    prompts = [prompt_ids(tokenizer, example) for example in examples]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    for start in range(0, len(order), options.batch_size):
        batch = order[start : start + options.batch_size]
        ids, mask = padded([prompts[index] for index in batch], tokenizer.pad_token_id, side="left")
        with torch.inference_mode(), _seeded(options, start):
            out = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
        for index, new in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True):
            end = next((at for at, id in enumerate(new) if id in stops), len(new))
            answers[index] = new[: end + 1]
        progress(len(batch))
    model.train(was_training)
    return answers


def _sampling(options: AnswerOptions) -> dict[str, Any]:
    """Return what a generation config has for these options; neither top-k nor other cuts apply."""
    if options.temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}


@contextlib.contextmanager
def _seeded(options: AnswerOptions, batch: int) -> Iterator[None]:
    """Draw with a seed for every batch inside the block; what is drawn elsewhere doesn't notice."""
    if options.temperature == 0:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(options.seed + batch)
        yield
