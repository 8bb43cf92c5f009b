"""A cache of answers: the same model never answers the same questions twice, across runs too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftp.cache import forget_unused, user_cache
from ftp.components import Engine
from ftp.errors import DataError
from ftp.files import digest, file_digest, new_file
from ftp.guard import call
from ftp.options import AnswerOptions
from ftp.records.answers import read_answers
from ftp.slots import dump
from ftp.types import Answer, Example, LoadedModel, TokenLoss

LAYOUT = 3
"""Part of the key; increased when the stored format, or the way answers and losses are computed, changes."""


def key(
    loaded: LoadedModel,
    trained: Path | None,
    examples: Sequence[Example],
    options: AnswerOptions | Engine | None,
    open_end: bool = False,
) -> str | None:
    """Return the SHA-256 of everything that determines answers and losses; None for a model without a fingerprint.

    Args:
        trained: the directory of the trained weights that are in the model; None for the base model.
        options: how answers are generated, and by which engine; None for losses alone.
        open_end: whether the end of running text is left out of its loss.
    """
    if len(loaded.fingerprint.removeprefix("commit ")) < 40:
        return None
    model, tokenizer = loaded.model, loaded.tokenizer
    found = hashlib.sha256(
        digest(
            [
                *(LAYOUT, version("torch"), version("transformers"), loaded.fingerprint, weights_digest(trained)),
                *(str(model.dtype), model.device.type, getattr(model.config, "_attn_implementation", "")),
                *(loaded.request.quantization, loaded.new_tokens, model.generation_config.eos_token_id),
                *(tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.special_tokens_map),
                *(options and dump(options), open_end),
            ]
        ).encode()
    )
    _add(found, examples)
    return found.hexdigest()


def own_key(engine: Engine, examples: Sequence[Example]) -> str | None:
    """Return the SHA-256 of what determines the answers of an engine with a model of its own.

    None where the engine doesn't know what they depend on.
    """
    known = call(str | None, engine.fingerprint)
    if known is None:
        return None
    found = hashlib.sha256(digest([LAYOUT, known, dump(engine)]).encode())
    _add(found, examples)
    return found.hexdigest()


def _add(found: Any, examples: Sequence[Example]) -> None:
    """Add to a hash what the answers to examples depend on."""
    for example in examples:
        content = [
            [dataclasses.astuple(message) for message in example.messages],
            example.text,
            example.tools,
            example.control_tokens,
        ]
        found.update(json.dumps(content).encode())


def weights_digest(directory: Path | None) -> str:
    """Return the SHA-256 of a model directory's weights and configuration; an empty string without a directory."""
    if directory is None:
        return ""
    files = sorted(file for file in directory.rglob("*") if file.suffix in (".safetensors", ".json"))
    return digest([(str(file.relative_to(directory)), file_digest(file)) for file in files])


def recall(key: str | None) -> tuple[list[Answer], list[TokenLoss]] | None:
    """Return the answers and losses stored under a key, or None."""
    file = _file(key) if key else None
    if file is None or not file.is_file():
        return None
    try:
        os.utime(file)
        return read_answers(file)
    except (DataError, OSError):  # damaged, or taken out by another run: what was kept is not worth a run
        return None


def keep(key: str | None, written: Path) -> None:
    """Store the file of answers that `ftp.records.answers.write_answers` wrote."""
    if key is None:
        return
    file = _file(key)
    forget_unused(file.parent)
    with new_file(file, shared=True) as aside:
        shutil.copyfile(written, aside)


def _file(key: str) -> Path:
    return user_cache("answers") / f"{key}.parquet"
