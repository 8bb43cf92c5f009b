"""Tokenizers in GGUF: tokens with their types, merges or scores, special tokens, the chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ftp
from ftp_plugins.exporters.gguf.pre_tokenizers import pre_tokenizer

NEVER_MERGED = -1e6
"""Score of a token that no merge makes."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as GGUF has it."""

    model: str
    """`gpt2` for byte-level merges, `llama` for SentencePiece's."""
    pre: str
    """How text is cut before bytes are merged."""
    tokens: list[str]
    types: list[int]
    """A `gguf.TokenType` for each."""
    merges: list[str]
    scores: list[float]
    """SentencePiece alone: the highest is merged first."""
    add_space_prefix: bool | None
    adds_bos: bool


def vocabulary_of(tokenizer: Any, rows: int, stops: Sequence[int] = ()) -> Vocabulary:
    """Read a fast tokenizer.

    Args:
        rows: of the model's embeddings; rows without a token are filled.
        stops: further tokens that end an answer.

    Raises:
        ModelError: llama.cpp has no tokenizer of this kind.
    """
    file = json.loads(tokenizer.backend_tokenizer.to_str())
    model = file["model"]
    if model["type"] != "BPE":
        raise ftp.ModelError(f"a {model['type']} vocabulary can't be written as GGUF here; export merged")
    kinds = {step.get("type") for part in ("pre_tokenizer", "decoder") for step in _steps(file.get(part))}
    byte_level = "ByteLevel" in kinds
    if not byte_level and not model.get("byte_fallback"):
        raise ftp.ModelError(
            "a vocabulary without bytes for unknown characters can't be written as GGUF; export merged"
        )
    tokens, types = _tokens(tokenizer, model, rows, stops)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    adds_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return Vocabulary(
        model="gpt2" if byte_level else "llama",
        pre=pre_tokenizer(tokenizer) if byte_level else "default",
        tokens=tokens,
        types=types,
        merges=merges if byte_level else [],
        scores=[] if byte_level else _scores(tokens, merges),
        add_space_prefix=None if byte_level else _adds_space(tokenizer, file),
        adds_bos=adds_bos,
    )


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the steps of a part of tokenizer.json, which is one or a sequence of them."""
    if not part:
        return []
    return list(next((part[key] for key in ("pretokenizers", "decoders", "normalizers") if key in part), [part]))


def _tokens(tokenizer: Any, model: dict[str, Any], rows: int, stops: Sequence[int]) -> tuple[list[str], list[int]]:
    import gguf

    kinds = gguf.TokenType
    by_id = {id: token for token, id in tokenizer.get_vocab().items()}
    special = {*tokenizer.all_special_ids, *stops}
    tokens = [by_id.get(id, f"[PAD{id}]") for id in range(rows)]
    types = [int(kinds.NORMAL if id in by_id else kinds.UNUSED) for id in range(rows)]
    if model.get("byte_fallback"):
        for id, token in by_id.items():
            if len(token) == 6 and token.startswith("<0x"):
                types[id] = int(kinds.BYTE)
    for id, added in tokenizer.added_tokens_decoder.items():
        if added.special or id in special:
            types[id] = int(kinds.CONTROL)
        else:
            tokens[id] = added.content.replace("▁", " ")  # llama.cpp looks for it in the plain text
            types[id] = int(kinds.USER_DEFINED)
    if model.get("byte_fallback") and tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = int(kinds.UNKNOWN)
    return tokens, types


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece's order: the token of the first merge has the highest score."""
    first: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first.setdefault(merge.replace(" ", "", 1), rank)
    return [float(-first[token]) if token in first else NEVER_MERGED for token in tokens]


def _adds_space(tokenizer: Any, file: dict[str, Any]) -> bool:
    """Whether llama.cpp has to put a space before text, as SentencePiece does.

    It puts one behind special tokens, too. A tokenizer that puts one at the very beginning alone puts none into a
    prompt that begins with a special token, as chat templates write it.
    """
    if any(step.get("type") == "Prepend" for step in _steps(file.get("normalizer"))):
        return True
    metaspace = [step for step in _steps(file.get("pre_tokenizer")) if step.get("type") == "Metaspace"]
    if not metaspace or metaspace[0].get("prepend_scheme") == "never":
        return False
    if metaspace[0].get("prepend_scheme") == "always":
        return True
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    return not any(prompt.startswith(token) for token in tokenizer.all_special_tokens)


def add_vocabulary(writer: Any, vocabulary: Vocabulary, tokenizer: Any, stops: Sequence[int]) -> None:
    """Write a vocabulary, the special tokens and the chat template into the metadata of a GGUF file."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for name in ("bos", "eos", "unk", "pad"):
        if (id := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(id)
    others = [stop for stop in stops if stop != tokenizer.eos_token_id]
    if others:
        writer.add_eot_token_id(others[0])
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    if vocabulary.add_space_prefix is not None:
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_chat_template(tokenizer.get_chat_template())
