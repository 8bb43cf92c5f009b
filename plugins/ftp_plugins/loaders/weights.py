"""From a directory or hub id of standard Hugging Face files to a loaded model; shared by the loaders."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

import ftp
from ftp.files import file_digest, first_line
from ftp.lm.rendering import DEFAULT_CHAT_TEMPLATE, stop_ids


def _beside_the_recipe(value: str, info: ValidationInfo) -> str:
    return value if "{" in value else str(Path((info.context or {}).get("directory", "."), Path(value).expanduser()))


ChatTemplate = Annotated[str, AfterValidator(_beside_the_recipe)]
"""A chat template: Jinja source, or the path of a file that holds it (relative ones count from the recipe)."""


def _all_different(tokens: list[str]) -> list[str]:
    if any(not token.strip() for token in tokens):
        raise ValueError("a token needs more than white space")
    if len(set(tokens)) < len(tokens):
        raise ValueError("a token is there twice")
    return tokens


NewTokens = Annotated[list[str], AfterValidator(_all_different)]
"""Tokens to add to a vocabulary."""


def describe(
    where: str, revision: str | None = None, trust_remote_code: bool = False, new_tokens: Sequence[str] = ()
) -> ftp.ModelRequest:
    """What the configuration files say: method of quantisation, layers, modules. Reads no weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # the libraries raise many kinds; the user needs the model and the reason
        raise ftp.ModelError(f"{where}: can't be loaded: {first_line(error)}") from None
    head = model.get_output_embeddings()
    quantized = getattr(config, "quantization_config", None)
    return ftp.ModelRequest(
        model=where,
        already_quantized=None if quantized is None else str(_get(quantized, "quant_method", "an unknown method")),
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
        experts=frozenset(
            ".".join(name.split(".")[-2:])
            for name, parameter in model.named_parameters()
            if parameter.ndim == 3 and name.split(".")[-2:-1] == ["experts"]
        ),
        new_tokens=tuple(new_tokens),
    )


def _get(config: Any, key: str, default: str) -> Any:
    return config.get(key, default) if isinstance(config, dict) else getattr(config, key, default)


def load(
    where: str,
    request: ftp.ModelRequest,
    *,
    name: str,
    fingerprint: str,
    device: str,
    attention: str,
    chat_template: str | None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> ftp.LoadedModel:
    """Load weights and tokenizer as `request` asks."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = pick_device() if device == "auto" else device
    dtype = pick_dtype(device) if request.dtype == "auto" else request.dtype
    notes = []
    if trust_remote_code:
        notes.append(f"trust_remote_code is on: code that comes with {name} runs on this machine")
    options: dict[str, Any] = {}
    if request.quantization:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=request.quantization.scheme,
            bnb_4bit_use_double_quant=request.quantization.double,
            bnb_4bit_compute_dtype=getattr(torch, request.quantization.compute_dtype),
        )
    if attention != "auto":
        options["attn_implementation"] = attention
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
        model, found = AutoModelForCausalLM.from_pretrained(
            where,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype=getattr(torch, dtype),
            device_map=device,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # the libraries raise many kinds; the user needs the model and the reason
        raise ftp.ModelError(f"{name}: can't be loaded: {first_line(error)}") from None
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        # transformers would go on with random numbers in their place
        raise ftp.ModelError(f"{name}: {len(missing)} weights are not in its files, {missing[0]} among them")
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ftp.ModelError(f"{name}: the tokenizer has {len(tokenizer)} tokens and the model {known}")
    if request.quantization:
        for module in model.modules():
            # On CPUs with AVX512-BF16, bitsandbytes repacks a layer when it is first used for inference; the product
            # on the packed layout has no backward, and training after that would get no gradient through it.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
    notes += finish_tokenizer(tokenizer, chat_template)
    new_ids = add_tokens(tokenizer, request.new_tokens)
    if new_ids:
        grow(model, new_ids)
        notes.append(f"New tokens, which begin as the mean of all others: {', '.join(request.new_tokens)}")
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # Sampling settings that a chat model ships with would only warn: answers are greedy.
    for sampling in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
        setattr(model.generation_config, sampling, None)
    model.generation_config.do_sample = False
    commit = getattr(model.config, "_commit_hash", None)
    return ftp.LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        fingerprint=fingerprint or f"commit {commit}",
        request=dataclasses.replace(request, dtype=dtype),
        notes=tuple(notes),
        new_tokens=new_ids,
        unquantized=functools.partial(
            AutoModelForCausalLM.from_pretrained,
            where,
            revision=revision,
            trust_remote_code=trust_remote_code,
            dtype="auto",
            use_safetensors=True,
        )
        if request.quantization
        else None,
    )


def load_tokenizer(
    where: str,
    chat_template: str | None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    new_tokens: Sequence[str] = (),
) -> ftp.LoadedTokenizer:
    """The tokenizer and the tokens that end an answer, from the configuration files alone."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        try:
            generation = GenerationConfig.from_pretrained(where, revision=revision)
        except OSError:  # as a model does that comes without one
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(where, **options))
    except Exception as error:  # the libraries raise many kinds; the user needs the model and the reason
        raise ftp.ModelError(f"{where}: the tokenizer can't be loaded: {first_line(error)}") from None
    notes = finish_tokenizer(tokenizer, chat_template)
    add_tokens(tokenizer, new_tokens)
    return ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, generation.eos_token_id), tuple(notes))


def add_tokens(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Add tokens to a tokenizer, each one piece wherever it stands; return their ids.

    Raises:
        ModelError: one is in the vocabulary already.
    """
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if token in vocabulary:
            raise ftp.ModelError(
                f"new_tokens: '{token}' is in the vocabulary already, as {vocabulary[token]}; take it out"
            )
    # Not "special" to the library: such tokens are left out when an answer is decoded, and these are to be seen.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    return tuple(tokenizer.convert_tokens_to_ids(list(tokens)))


def grow(model: Any, ids: Sequence[int]) -> None:
    """Give new tokens rows in the embeddings and in the output head: spare ones, or new ones where they end.

    A row begins as the mean of the older ones (Hewitt 2021, nlp.stanford.edu/~johnhew/vocab-expansion.html), without
    the noise that transformers adds, so that it is the same whenever the model is loaded.
    """
    import torch

    if max(ids) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for rows in (layer.weight, getattr(layer, "bias", None)):
                if rows is not None:
                    rows[list(ids)] = rows[: min(ids)].mean(0, dtype=torch.float32).to(rows.dtype)


def finish_tokenizer(tokenizer: Any, chat_template: str | None) -> list[str]:
    """See to a chat template, an end of sequence and a pad token; say what had to be chosen."""
    notes = []
    if not tokenizer.is_fast:
        raise ftp.ModelError(f"{type(tokenizer).__name__} gives no character offsets; a fast tokenizer is needed")
    if tokenizer.eos_token_id is None:
        raise ftp.ModelError("the tokenizer has no end-of-sequence token, so an answer could never end")
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    elif not tokenizer.chat_template:
        # A base model whose tokenizer begins every text with BOS has never seen one without.
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + DEFAULT_CHAT_TEMPLATE
        notes.append(
            "the model has no chat template; FTP's default (### User: / ### Assistant:) is used and saved with it"
        )
    if tokenizer.pad_token_id is None:
        # Labels are masked by position, never by token, so a pad token that is also EOS hides no EOS.
        tokenizer.pad_token = tokenizer.eos_token
    return notes


def read_template(value: str) -> str:
    """A chat template given as Jinja source, or as the path of a file that holds it."""
    if "{" in value:
        return value
    try:
        return Path(value).read_text(encoding="utf-8")
    except OSError as error:
        raise ftp.ModelError(f"chat_template: {value}: {error.strerror}; give Jinja source or a file") from None


def directory_fingerprint(directory: Path) -> str:
    """SHA-256 over names and bytes of a model's files."""
    files = sorted(f for f in directory.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"))
    return hashlib.sha256("".join(f"{f.name} {file_digest(f)}\n" for f in files).encode()).hexdigest()


def pick_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(device: str) -> str:
    """bfloat16 where the hardware multiplies it, float32 elsewhere."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu":
        return "bfloat16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "float32"
    return "float32"
