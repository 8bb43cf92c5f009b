"""What the mutator damages: a finished run, an interrupted one, a model directory and a GGUF file."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ftp.testing.fixtures import write_tiny_model

LONG = ("--set", "name=long", "--set", "train.epochs=20", "--set", "train.evals_per_epoch=1")

UNKNOWN = "<|endoftext|>"


class Specimens(NamedTuple):
    """Paths; `model` and `gguf` are named by recipes of theirs."""

    finished: Path
    interrupted: Path
    model: Path
    gguf: Path


def source(name: str) -> dict[str, Any]:
    """Return a source of a recipe."""
    return {"path": f"{name}.jsonl", "format": {"use": "instruct"}}


def recipe_of(model: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe beside whose file the data of `write_data` lies."""
    return {
        "name": "finished",
        "model": model,
        "adapter": {"use": "lora", "r": 4},
        "data": {"train": [source("train")], "validation": "25%", "evals": {"heldout": source("heldout")}},
        "train": {"use": "sft", "epochs": 1, "batch_size": 4},
        "answers": {"max_new_tokens": 4},
        "evaluate": [{"use": "loss"}, {"use": "exact_match"}],
    }


def write_data(place: Path) -> None:
    """Write the rows of the recipe."""
    for name, numbers in (("train", range(2, 14)), ("heldout", range(14, 18))):
        rows = [{"instruction": f"Double {n}.", "context": "", "response": f"It is {2 * n}."} for n in numbers]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(place: Path, outcome: Callable[..., tuple[str, str]]) -> Specimens:
    """Make them in a directory.

    Args:
        outcome: runs a command in a directory and returns how it ended, and what it said.
    """
    write_tiny_model(place / "model")
    write_gguf(place / "model", place / "model.gguf")
    write_data(place)
    recipe = recipe_of({"use": "huggingface", "id": "./model", "device": "cpu"})
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    how, said = outcome(["run", "recipe.yaml"], place, seconds=300)
    assert how == "code 0", said
    threading.Thread(target=_interrupt, args=(place / "runs" / "long",), daemon=True).start()
    how, said = outcome(["run", "recipe.yaml", *LONG], place, seconds=300)
    assert how == "code 143" and "checkpoint saved" in said, said
    finished, interrupted = (next((place / "runs" / name).iterdir()) for name in ("finished", "long"))
    return Specimens(finished, interrupted, place / "model", place / "model.gguf")


def _interrupt(runs: Path) -> None:
    """End this process's training as soon as it has taken some steps."""
    while not any('"step": 6' in file.read_text() for file in runs.glob("*/events.jsonl")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def write_gguf(model: Path, file: Path) -> None:
    """Write the tiny model's weights and tokenizer as a GGUF file."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text())
    tokenizer = json.loads((model / "tokenizer.json").read_text())["model"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"] + 1)
    writer.add_tokenizer_model("gpt2")
    # Four control tokens, plain ones, and the unknown one: transformers would add it, and it would have no weights.
    writer.add_token_list([*sorted(tokenizer["vocab"], key=tokenizer["vocab"].get), UNKNOWN])
    writer.add_token_types([3, 3, 3, 3, *[1] * (config["vocab_size"] - 4), 3])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_chat_template(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(model / "model.safetensors").items():
        if len(tensor) == config["vocab_size"]:
            tensor = np.vstack([tensor, np.zeros_like(tensor[:1])])
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
