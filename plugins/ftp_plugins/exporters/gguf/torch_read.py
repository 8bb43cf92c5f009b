"""GGUF files read back: the tokenizer that they describe, and weights in transformers' layout."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

import ftp
from ftp_plugins.exporters.gguf.architectures import architecture_of
from ftp_plugins.exporters.gguf.rope import rope_of
from ftp_plugins.exporters.gguf.torch_tensors import changes_of, name_map, parts_of


def tokenizer_from(path: Path, like: Any) -> Any:
    """Build a tokenizer from the tokens, merges, special tokens and template in a GGUF file.

    How text is cut before merges is in the file as a name alone; the rule itself is taken from `like`, whose name was
    found by what it does (`pre_tokenizer`).

    Raises:
        ModelError: the file's name for the rule is not that of `like`.
    """
    import copy

    from tokenizers import Tokenizer

    from ftp_plugins.exporters.gguf.pre_tokenizers import pre_tokenizer

    fields = fields_of(path)
    byte_level = fields["tokenizer.ggml.model"] == "gpt2"
    if byte_level and fields["tokenizer.ggml.pre"] != pre_tokenizer(like):
        raise ftp.ModelError(f"{path}: cuts text as '{fields['tokenizer.ggml.pre']}', the run otherwise")
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    file = json.loads(like.backend_tokenizer.to_str())
    plain = {token: id for id, (token, type) in enumerate(zip(tokens, types, strict=True)) if type in (1, 2, 6)}
    added = {token["id"]: token for token in file["added_tokens"]}
    file["added_tokens"] = [
        {**added[id], "content": tokens[id] if type == 3 else added[id]["content"], "special": type in (2, 3)}
        for id, type in enumerate(types)
        if id in added and type in (2, 3, 4)
    ]
    file["model"]["vocab"] = {**{t: i for t, i in file["model"]["vocab"].items() if types[i] in (2, 3, 4)}, **plain}
    if byte_level:
        file["model"]["merges"] = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = copy.deepcopy(like)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.chat_template = fields["tokenizer.chat_template"]
    return tokenizer


SETTINGS = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_experts_per_tok",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "sliding_window",
    "vocab_size",
)


def check_settings(path: Path, config: Any) -> None:
    """Compare the settings that transformers reads from a GGUF file with those of the run.

    Raises:
        ModelError: one is another.
    """
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    read = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
    text = config.get_text_config()
    expected = {name: getattr(text, name, None) for name in SETTINGS}
    expected["rope_theta"] = rope_of(text)[0]["rope_theta"]
    for name in expected.keys() & read.keys():
        if not math.isclose(read[name], expected[name] or 0, rel_tol=1e-6):
            raise ftp.ModelError(f"{path}: transformers reads {name} {read[name]}, and the run has {expected[name]}")


def fields_of(path: Path) -> dict[str, Any]:
    """Return the metadata of a GGUF file, by key."""
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def model_from(path: Path, config: Any) -> Any:
    """Return a model with the weights of a GGUF file, dequantised to float32, and settings given apart.

    Raises:
        ModelError: a weight is missing, or one is left over.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    architecture = architecture_of(config.get_text_config())
    names, read = name_map(config.get_text_config(), architecture), arrays_of(path)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        for name, weight in parts_of(model):
            if name == "lm_head.weight" and tied:
                continue
            mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if mapped not in read:
                raise ftp.ModelError(f"{path}: {mapped} is missing")
            _, back = changes_of(name, config, architecture)
            weight.copy_(back(torch.from_numpy(read.pop(mapped)).reshape(weight.shape)))
    read.pop("rope_freqs.weight", None)
    if read:
        raise ftp.ModelError(f"{path}: the model has no place for {next(iter(read))}")
    return model


def arrays_of(path: Path) -> dict[str, Any]:
    """Return the tensors of a GGUF file by name, dequantised: float32 arrays that may be written to."""
    import gguf
    import numpy as np

    return {
        tensor.name: np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        for tensor in gguf.GGUFReader(path).tensors
    }
