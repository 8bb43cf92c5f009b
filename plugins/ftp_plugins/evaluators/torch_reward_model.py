"""A reward model in memory, by transformers and peft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ftp
from ftp.files import first_line
from ftp.lm.rendering import encode, stop_ids
from ftp.lm.torch_devices import pick_device, pick_dtype
from ftp.lm.torch_packing import padded


@dataclass(frozen=True)
class LoadedReward:
    """A model for sequence classification with one output, and its tokenizer."""

    model: Any
    tokenizer: Any
    stops: tuple[int, ...]
    most: int
    """The longest row, in tokens."""

    def scores(self, examples: Sequence[ftp.Example], answers: Sequence[str]) -> list[ftp.Score]:
        """Return the output behind the last token of each prompt with its answer; NaN for one that is too long."""
        asked = [
            replace(example, messages=(*example.prompt, ftp.Message("assistant", answer)))
            for example, answer in zip(examples, answers, strict=True)
        ]
        rows = [row.input_ids for row in encode(self.tokenizer, asked, self.stops)]
        fit = [at for at, row in enumerate(rows) if len(row) <= self.most]
        found = [ftp.Score(float("nan"), f"longer than {self.most} tokens")] * len(rows)
        for at, value in zip(fit, self._outputs([rows[at] for at in fit]), strict=True):
            found[at] = ftp.Score(value)
        return found

    def _outputs(self, rows: list[list[int]]) -> list[float]:
        if not rows:
            return []
        model = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        ids, mask = padded(rows, 0, side="right")
        backbone = getattr(model, model.base_model_prefix)
        with torch.inference_mode():
            out = backbone(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False)
            states = out.last_hidden_state[torch.arange(len(rows)), mask.sum(1) - 1]
            outputs: list[float] = model.score(states)[:, 0].float().tolist()
        return outputs


def load_reward(path: str, max_length: int | None = None) -> LoadedReward:
    """Load a reward model from a directory or the hub.

    Raises:
        ModelError: it can't be loaded, or has no head with one output.
    """
    device = pick_device()
    options: dict[str, Any] = {"num_labels": 1, "dtype": getattr(torch, pick_dtype(device)), "use_safetensors": True}
    try:
        if (Path(path) / "adapter_config.json").is_file():
            from peft import AutoPeftModelForSequenceClassification

            model = AutoPeftModelForSequenceClassification.from_pretrained(path, **options)
        else:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path, output_loading_info=True, **options
            )
            if any(name.startswith("score.") for name in loading["missing_keys"]):
                raise ftp.ModelError(f"{path}: is no reward model: it has no weights of a head `score`")
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ftp.ModelError(f"{path}: can't be loaded as a reward model: {first_line(error)}") from None
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not hasattr(causal, "score"):
        raise ftp.ModelError(f"{path}: {type(causal).__name__} has no head `score`, as reward models have")
    if tokenizer.chat_template is None:
        raise ftp.ModelError(f"{path}: its tokenizer has no chat template, which says how answers are written")
    config = model.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None) or 2**31
    stops = stop_ids(tokenizer, getattr(config, "eos_token_id", None))
    return LoadedReward(model.to(device).eval(), tokenizer, stops, min(max_length or room, room))
