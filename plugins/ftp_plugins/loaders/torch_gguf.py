"""Conversion of GGUF files to Hugging Face files with plain bfloat16 weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import ftp
from ftp.files import first_line


def dequantize(path: Path, target: Path) -> None:
    """Write model and tokenizer of a GGUF file into a directory, the weights as bfloat16 safetensors.

    Raises:
        ModelError: transformers can't read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # the libraries raise many kinds for files that are damaged
        raise ftp.ModelError(f"{path}: can't be dequantised: {type(error).__name__}: {first_line(error)}") from None
    # The weights are plain from here on; a mark of the quantised file would make every later load go wrong.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    _drop_added_by_the_library(target / "tokenizer.json", model.get_input_embeddings().num_embeddings)


def _drop_added_by_the_library(file: Path, rows: int) -> None:
    """Remove the tokens that a GGUF file doesn't have.

    transformers gives byte-level vocabularies an `<|endoftext|>` behind the last token where they have none; the model
    has no embedding for it.
    """
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < rows]
    file.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
