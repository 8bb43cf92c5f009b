"""GGUF files of whole models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftp_plugins.exporters.gguf.architectures import add_settings, architecture_of
from ftp_plugins.exporters.gguf.quantise import quantised, stored_type
from ftp_plugins.exporters.gguf.rope import add_rope, rope_of
from ftp_plugins.exporters.gguf.vocabulary import add_vocabulary, vocabulary_of


def check_writable(model: Any, tokenizer: Any, stops: Sequence[int]) -> None:
    """Raise ModelError, with the reason, for a model or a tokenizer that can't be written right."""
    from ftp_plugins.exporters.gguf.torch_tensors import tensors_of

    config = model.config.get_text_config()
    architecture = architecture_of(config)
    rope_of(config)
    vocabulary_of(tokenizer, model.get_input_embeddings().num_embeddings, stops)
    tensors_of(model, architecture)


def write_gguf(file: Path, model: Any, tokenizer: Any, stops: Sequence[int], name: str, kind: str) -> None:
    """Write a model and its tokenizer into one file, a tensor at a time.

    Args:
        model: a `transformers.PreTrainedModel` with plain weights.
        stops: the tokens that end an answer.
        name: what the file calls the model.
        kind: the type of the weights, one that numpy can make.
    """
    import gguf
    import numpy as np

    from ftp_plugins.exporters.gguf.torch_tensors import tensors_of

    config = model.config.get_text_config()
    architecture = architecture_of(config)
    tensors = tensors_of(model, architecture)
    head = "output.weight" if any(t.name == "output.weight" for t in tensors) else "token_embd.weight"
    writer = gguf.GGUFWriter(file, architecture.name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(file_type(kind))
    add_settings(writer, config, architecture)
    add_rope(writer, config)
    vocabulary = vocabulary_of(tokenizer, model.get_input_embeddings().num_embeddings, stops)
    add_vocabulary(writer, vocabulary, tokenizer, stops)
    types = [stored_type(tensor.name, tensor.shape, kind, head) for tensor in tensors]
    for tensor, type in zip(tensors, types, strict=True):
        block, size = gguf.GGML_QUANT_SIZES[type]
        writer.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), int(np.prod(tensor.shape)) // block * size, type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, type in zip(tensors, types, strict=True):
        writer.write_tensor_data(quantised(tensor.values(), type))
    writer.close()


def file_type(kind: str) -> int:
    """Return llama.cpp's number of a file's type."""
    import gguf

    names = {"F32": "ALL_F32", "MXFP4": "MOSTLY_MXFP4_MOE"}
    return int(gguf.LlamaFileType[names.get(kind, f"MOSTLY_{kind}")])
