"""Answers of a model to prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    """Answer the prompt of every example by greedy decoding.

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
        do_sample=False,
        eos_token_id=list(stops),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    prompts = [prompt_ids(tokenizer, example) for example in examples]
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
