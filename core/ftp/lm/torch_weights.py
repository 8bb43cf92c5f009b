"""Models from Hugging Face files: their structure, without weights, and their weights in memory.

`ftp.lm.hf_loader.HuggingFaceFiles` builds a loader from these functions.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ftp.errors import ModelError
from ftp.files import first_line
from ftp.lm.hf_tokenizer import add_tokens, finish_tokenizer
from ftp.lm.torch_bfloat16 import hold_in_bfloat16
from ftp.lm.torch_devices import pick_device
from ftp.lm.torch_models import expert_weights
from ftp.lm.torch_types import fits, held_in_bfloat16, with_types
from ftp.types import LoadedModel, ModelRequest, Quantization


def describe(
    where: str, revision: str | None = None, trust_remote_code: bool = False, new_tokens: Sequence[str] = ()
) -> ModelRequest:
    """Build a model on torch's meta device and list its layers and modules. Reads configuration files, no weights.

    Args:
        where: a directory or a hub id.
        revision: commit, tag or branch on the hub.
        trust_remote_code: run code that comes with the model; off, such a model is refused.
        new_tokens: tokens to add to the vocabulary; they go into the request as they are.

    Returns:
        The request to load it, with `dtype="auto"` and no quantization.

    Raises:
        ModelError: the files are not there, or transformers can't build the model.
    """
    model = structure(where, revision, trust_remote_code)
    config = model.config
    head = model.get_output_embeddings()
    return ModelRequest(
        model=where,
        already_quantized=_quantized_by(config),
        linear_modules=frozenset(
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        ),
        modules=frozenset(
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        ),
        layers=getattr(config.get_text_config(), "num_hidden_layers", None),
        experts=frozenset(".".join(name.split(".")[-2:]) for name in expert_weights(model)),
        new_tokens=tuple(new_tokens),
        layer_shapes=frozenset(
            (module.out_features, module.in_features)
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        ),
        parameters=model.num_parameters(),
        stored_dtype=_stored_dtype(config),
    )


def structure(
    where: str, revision: str | None = None, trust_remote_code: bool = False, dtype: str | None = None
) -> Any:
    """Build a model on torch's meta device, from its configuration alone.

    Args:
        where, revision, trust_remote_code: as for `describe`.
        dtype: of the weights, as torch names it; without it, transformers' choice.

    Raises:
        ModelError: the files are not there, or transformers can't build the model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {"dtype": getattr(torch, dtype)} if dtype else {}
    try:
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **options)
    except Exception as error:  # the libraries raise many kinds; the user needs the model and the reason
        raise ModelError(f"{where}: can't be loaded: {first_line(error)}") from None
    _check_size(where, model)
    return model


def _check_size(where: str, model: Any) -> None:
    """Refuse a configuration that describes far more weights than there are, before memory is taken for them.

    Raises:
        ModelError: the files of a local model hold less than 1.6 bits for each parameter.
    """
    files = list(Path(where).rglob("*.safetensors")) if Path(where).is_dir() else []
    stored, parameters = sum(file.stat().st_size for file in files), model.num_parameters()
    if files and parameters > 5 * stored:
        raise ModelError(
            f"{where}: config.json describes {parameters:,} parameters and the weights have {stored:,} bytes"
        )


def _stored_dtype(config: Any) -> str | None:
    """Return the data type that the configuration gives for the weights, as torch names it."""
    dtype = getattr(config.get_text_config(), "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _quantized_by(config: Any) -> str | None:
    """Return the method that the stored weights are quantised with; None if they aren't."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    unknown = "an unknown method"
    if isinstance(settings, dict):
        return str(settings.get("quant_method", unknown))
    return str(getattr(settings, "quant_method", unknown))


def load(
    where: str,
    request: ModelRequest,
    *,
    name: str,
    fingerprint: str,
    device: str = "auto",
    attention: str = "auto",
    chat_template: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load the weights (safetensors only) and the tokenizer of a causal language model as `request` asks.

    Args:
        where: a directory or a hub id.
        name: what reports call the model.
        fingerprint: what identifies its files.
        device: as torch names it; `auto` for `pick_device`.
        attention: transformers' attention implementation; `auto` for its own choice.
        chat_template: Jinja source or the path of a file, in place of the model's own.
        revision, trust_remote_code: as for `describe`.

    Raises:
        ModelError: files or weights are missing, or don't fit one another; or the tokenizer can't be used.
    """
    device = pick_device() if device == "auto" else device
    request, gflops, notes = with_types(request, name, device)
    files: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    held = held_in_bfloat16(request, device)
    narrow = held and request.stored_dtype == "bfloat16" and not fits(request.parameters)
    options = {**files, "dtype": getattr(torch, "bfloat16" if narrow else request.dtype), "device_map": device}
    if request.quantization:
        options["quantization_config"] = _bitsandbytes_config(request.quantization)
    if attention != "auto":
        options["attn_implementation"] = attention
    model, tokenizer = _read(where, name, files, options)
    if request.quantization:
        _keep_trainable_layout(model)
    if held:
        hold_in_bfloat16(model)
    if trust_remote_code:
        notes.append(f"trust_remote_code is on: code that comes with {name} runs on this machine")
    notes += finish_tokenizer(tokenizer, chat_template)
    new_ids = add_tokens(tokenizer, request.new_tokens)
    if new_ids:
        add_token_rows(model, new_ids)
        notes.append(f"New tokens, which begin as the mean of all others: {', '.join(request.new_tokens)}")
    _answer_greedily(model, tokenizer.pad_token_id)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        fingerprint=fingerprint,
        request=request,
        notes=tuple(notes),
        new_tokens=new_ids,
        unquantized=functools.partial(_from_pretrained, where, dtype="auto", **files) if request.quantization else None,
        gflops=gflops,
    )


def _from_pretrained(where: str, **options: Any) -> Any:
    """Load a causal model with transformers, from safetensors alone: other formats may run code when they are read."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(where, use_safetensors=True, **options)


def _read(where: str, name: str, files: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Any]:
    """Load model and tokenizer with transformers and check that they are complete and fit each other."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **files)
        model, loading = _from_pretrained(where, output_loading_info=True, **options)
    except Exception as error:  # the libraries raise many kinds; the user needs the model and the reason
        raise ModelError(f"{name}: can't be loaded: {first_line(error)}") from None
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        # transformers would continue with random numbers instead
        raise ModelError(f"{name}: {len(missing)} weights are not in its files, {missing[0]} among them")
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(f"{name}: the tokenizer has {len(tokenizer)} tokens and the model {rows}")
    return model, tokenizer


def _bitsandbytes_config(quantization: Quantization) -> Any:
    from transformers import BitsAndBytesConfig

    if quantization.scheme == "int8":
        # It says at every product that inputs are rounded to 8 bits by way of float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.scheme,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype),
    )


def _keep_trainable_layout(model: Any) -> None:
    """Keep bitsandbytes from repacking layers for inference.

    On CPUs with AVX512-BF16 it repacks a layer when it is first used for inference; the product on the packed layout
    has no backward, and training after that would get no gradient through it.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _answer_greedily(model: Any, pad_token_id: int) -> None:
    """Set the generation config to greedy decoding; a chat model's sampling settings would only cause warnings."""
    model.config.pad_token_id = pad_token_id
    model.generation_config.pad_token_id = pad_token_id
    for sampling in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
        setattr(model.generation_config, sampling, None)
    model.generation_config.do_sample = False


def dequantized(model: Any, dtype: str) -> Any:
    """Return a bitsandbytes model with plain linear layers, whose weights are what the quantised ones stand for.

    Args:
        model: changed in place.
        dtype: of the new weights, as torch names it.
    """
    plain = model.dequantize(dtype=getattr(torch, dtype))
    plain.hf_quantizer = None
    if hasattr(plain.config, "quantization_config"):  # this mark would make every later load go wrong
        del plain.config.quantization_config
    return plain


def add_token_rows(model: Any, ids: Sequence[int]) -> None:
    """Give new tokens rows in the embeddings and in the output head: spare rows first, then new ones.

    A row begins as the mean of the older ones (Hewitt 2021, nlp.stanford.edu/~johnhew/vocab-expansion.html), without
    the noise that transformers adds, so that it is the same whenever the model is loaded.

    Args:
        ids: the tokens' ids, all above those of the older tokens.
    """
    if max(ids) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for rows in (layer.weight, getattr(layer, "bias", None)):
                if rows is not None:
                    rows[list(ids)] = rows[: min(ids)].mean(0, dtype=torch.float32).to(rows.dtype)
