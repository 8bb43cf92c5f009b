"""From the model of a run to a GGUF file, and from the file to something that can be compared with the run."""

from __future__ import annotations

import contextlib
import copy
import io
from importlib.metadata import version
from pathlib import Path

import torch

import ftp
from ftp.files import first_line
from ftp.lm.rendering import stop_ids
from ftp.lm.torch_devices import pick_device
from ftp.lm.torch_merge import bytes_of, check_mergeable, merged
from ftp.lm.torch_parity import opened
from ftp_plugins.exporters.gguf.quantise import WITH_LLAMA_CPP, other_types, quantise_with_llama_cpp
from ftp_plugins.exporters.gguf.writer import check_writable, write_gguf

BITS = {"F32": 32, "F16": 16, "BF16": 16}
"""Bits of a weight; of the other types at most 9."""
READ_BY_FTP = ("mixtral", "gemma")
"""Families that transformers knows and can't read from GGUF."""


def rehearse(base: ftp.LoadedModel, kind: str, content: str) -> int:
    """Check that a model with this base can be written, and return the bytes that it will take at most.

    llama.cpp puts an adapter on a base model in a file of float32, for the comparison alone.

    Raises:
        ModelError: the reason why it can't be written right.
    """
    check_mergeable(base)
    check_writable(base.model, base.tokenizer, _stops(base))
    whole = bytes_of(base.model, "float32")
    needed = whole * BITS.get(kind, 9) // 32
    return needed + whole if kind in WITH_LLAMA_CPP or content == "adapter" else needed


def export_model(job: ftp.ExportJob, file: Path, kind: str) -> None:
    """Write all weights of the run's model, with the training merged in."""
    loaded = job.load("plain")
    stops, tokenizer = _stops(loaded), loaded.tokenizer
    model = merged(loaded)
    if kind not in WITH_LLAMA_CPP:
        write_gguf(file, model, tokenizer, stops, job.run.name, kind)
        return
    plain = file.with_suffix(".plain")
    write_gguf(plain, model, tokenizer, stops, job.run.name, "F32")
    del model, loaded
    quantise_with_llama_cpp(str(plain), str(file), kind)
    plain.unlink()
    if note := other_types(str(file), kind):
        job.note(note)


def export_adapter(job: ftp.ExportJob, file: Path, kind: str) -> None:
    """Write the LoRA of the run's model alone."""
    from ftp_plugins.exporters.gguf.torch_lora import write_lora

    write_lora(file, job.load("trained").model, job.run.name, kind)


def reopen(job: ftp.ExportJob, path: Path, content: str, with_llama_cpp: bool) -> ftp.Exported:
    """Open a file for comparison."""
    if content == "adapter":
        from ftp_plugins.exporters.gguf.torch_lora import reopen_lora

        return reopen_lora(job, path, with_llama_cpp)
    if with_llama_cpp:
        from ftp_plugins.exporters.gguf.torch_llama_cpp import with_llama

        return with_llama(path, job.tokenizer.tokenizer, job.tokenizer.stops)
    return with_transformers(job, path)


def with_transformers(job: ftp.ExportJob, path: Path) -> ftp.Exported:
    """Open a GGUF file with transformers, which dequantises it.

    transformers reads only some of the settings of a GGUF file, and none of its rules for cutting text. So the model
    is built with the run's settings, those that transformers reads have to equal them, and the tokenizer is built by
    FTP from what is in the file. Families that transformers can't read are read by FTP.

    Raises:
        ModelError: it can't be opened, or its settings are others than the run's.
    """
    from transformers import AutoModelForCausalLM

    from ftp_plugins.exporters.gguf.torch_read import check_settings, model_from, tokenizer_from

    config = copy.deepcopy(job.base().model.config)
    if hasattr(config, "quantization_config"):  # of the base; the file holds plain weights or GGUF's own
        del config.quantization_config
    tokenizer = tokenizer_from(path, job.tokenizer.tokenizer)
    engine = f"transformers {version('transformers')}"
    if config.model_type in READ_BY_FTP:
        model = model_from(path, config)
        engine += ", weights read by FTP"
    else:
        check_settings(path, config)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a bar that the library can't be talked out of
                # Mistral is written as llama.cpp's Llama, and transformers has no names for a mistral.
                options = {} if config.model_type == "mistral" else {"config": config}
                model = AutoModelForCausalLM.from_pretrained(
                    path.parent, gguf_file=path.name, dtype=torch.float32, device_map=pick_device(), **options
                )
        except (OSError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
            raise ftp.ModelError(f"{path}: transformers can't open it: {first_line(error)}") from None
    model.generation_config.eos_token_id = list(job.tokenizer.stops)
    return opened(model, tokenizer, engine)


def _stops(loaded: ftp.LoadedModel) -> tuple[int, ...]:
    return stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
