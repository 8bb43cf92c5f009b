"""The head of a reward model: one output, read behind the last token of a row."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import ftp
from ftp.lm.torch_models import causal_model
from ftp.lm.torch_packing import Pack, documents, hidden_states, pack, pack_once, padded, why_not

NAME = "score"
"""The attribute of transformers' models for sequence classification that holds their head."""
DIRECTORY = "reward_model"
"""Beside the weights of an adapter: the same adapter and the head, as peft saves a reward model."""


def add_head(model: Any, seed: int) -> torch.nn.Linear:
    """Give a causal language model a head that trains, float32 [1, hidden], as transformers initialises it."""
    causal = causal_model(model)
    config = causal.config.get_text_config()
    head = torch.nn.Linear(config.hidden_size, 1, bias=False)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(0.0, getattr(config, "initializer_range", 0.02), generator=draw)
    setattr(causal, NAME, head.to(causal.get_input_embeddings().weight.device))
    return head


def packed_rows(rows: Sequence[Sequence[int]], once: bool) -> dict[str, Any]:
    """Collate rows of token ids without padding; `last`, int64 [rows], is the place of each one's last token.

    Args:
        once: compute tokens that several rows begin with once.
    """
    if once:
        packed, places = pack_once(rows)
        last = torch.stack([place[-1] for place in places])
    else:
        packed = pack(rows)
        last = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
    return {
        "input_ids": packed.input_ids,
        "position_ids": packed.position_ids,
        "lengths": packed.lengths,
        "parents": packed.parents,
        "last": last,
        "tokens": sum(map(len, rows)),
    }


def padded_rows(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """Collate rows with padding on the right; `last` is the column of each one's last token."""
    ids, mask = padded([list(row) for row in rows], pad, side="right")
    return {"input_ids": ids, "attention_mask": mask, "last": mask.sum(1) - 1, "tokens": int(mask.sum())}


def rewards_of(model: Any, head: torch.nn.Linear, batch: dict[str, Any]) -> torch.Tensor:
    """Return the reward of each row of a batch of either kind, float32 [rows], differentiable.

    A packed batch needs the context `documents(model)`.
    """
    if "position_ids" in batch:
        rows = Pack(batch["input_ids"], batch["position_ids"], batch["lengths"], batch["parents"])
        states = hidden_states(model, rows)[batch["last"]]
    else:
        decoder = causal_model(model).get_decoder()
        out = decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        states = out.last_hidden_state[torch.arange(len(batch["last"])), batch["last"]]
    return torch.nn.functional.linear(states.float(), head.weight)[:, 0]


def measured_rewards(
    loaded: ftp.LoadedModel, head: torch.nn.Linear, rows: Sequence[Sequence[int]], batch_tokens: int
) -> torch.Tensor:
    """Return the reward of each row in evaluation mode, float64 [rows].

    Args:
        batch_tokens: tokens that may go through the model at once; a longer row goes alone.
    """
    model = loaded.model
    packs = why_not(model, max(map(len, rows))) is None
    was_training = model.training
    model.eval()
    found = []
    with documents(model) if packs else contextlib.nullcontext(), torch.inference_mode():
        for part in _parts(rows, batch_tokens):
            batch = packed_rows(part, once=True) if packs else padded_rows(part, loaded.tokenizer.pad_token_id)
            batch = {n: v.to(model.device) if isinstance(v, torch.Tensor) else v for n, v in batch.items()}
            found.append(rewards_of(model, head, batch).double().cpu())
    model.train(was_training)
    return torch.cat(found)


def _parts(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[Sequence[int]]]:
    part: list[Sequence[int]] = []
    for row in rows:
        if part and sum(map(len, part)) + len(row) > tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def save_reward_model(loaded: ftp.LoadedModel, directory: Path) -> None:
    """Write the reward model beside the weights that the adapter has saved in `directory`.

    After full training the head is among those weights, and transformers loads them as a model for sequence
    classification with one label. An adapter is written again with the head into `reward_model/`, as peft saves one
    for sequence classification.
    """
    model = loaded.model
    config, weights = directory / "adapter_config.json", directory / "adapter_model.safetensors"
    if not hasattr(model, "peft_config") or not config.is_file():
        return
    options = json.loads(config.read_text(encoding="utf-8"))
    options["task_type"] = "SEQ_CLS"
    options["modules_to_save"] = [*(options.get("modules_to_save") or []), NAME]
    target = directory / DIRECTORY
    target.mkdir()
    (target / config.name).write_text(json.dumps(options, indent=2), encoding="utf-8")
    head = getattr(causal_model(model), NAME).weight.detach().cpu().contiguous()
    save_file({**load_file(weights), f"base_model.model.{NAME}.weight": head}, target / weights.name)
    loaded.tokenizer.save_pretrained(target)
