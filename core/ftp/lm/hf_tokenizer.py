"""Tokenizers from Hugging Face files, made ready for training: chat template, pad token, new tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationInfo

from ftp.errors import ModelError
from ftp.files import first_line, read_plain_file
from ftp.lm.rendering import DEFAULT_CHAT_TEMPLATE, stop_ids
from ftp.lm.template_limits import MOST_SOURCE, check_source
from ftp.types import LoadedTokenizer


def _beside_the_recipe(value: str, info: ValidationInfo) -> str:
    return value if "{" in value else str(Path((info.context or {}).get("directory", "."), Path(value).expanduser()))


ChatTemplate = Annotated[str, AfterValidator(_beside_the_recipe)]
"""A chat template: Jinja source, or the path of a file that holds it (relative ones count from the recipe)."""


def _all_different(tokens: list[str]) -> list[str]:
    if any(not token.strip() for token in tokens):
        raise ValueError("a token needs more than white space")
    if len(set(tokens)) < len(tokens):
        raise ValueError("a token occurs twice")
    return tokens


NewTokens = Annotated[list[str], AfterValidator(_all_different)]
"""Tokens to add to a vocabulary."""


def load_tokenizer(
    where: str,
    chat_template: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    new_tokens: Sequence[str] = (),
) -> LoadedTokenizer:
    """Load a tokenizer and the tokens that end an answer, from the configuration files alone.

    Args:
        where: a directory or a hub id.
        chat_template: Jinja source or the path of a file, in place of the model's own.
        revision: commit, tag or branch on the hub.
        trust_remote_code: run code that comes with the model; off, such a tokenizer is refused.
        new_tokens: tokens to add to the vocabulary.

    Raises:
        ModelError: the files are not there, or the tokenizer can't be used.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        try:
            generation = GenerationConfig.from_pretrained(where, revision=revision)
        except OSError:  # as a model does that comes without one
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(where, **options))
    except Exception as error:  # the libraries raise many kinds; the user needs the model and the reason
        raise ModelError(f"{where}: the tokenizer can't be loaded: {first_line(error)}") from None
    notes = finish_tokenizer(tokenizer, chat_template)
    add_tokens(tokenizer, new_tokens)
    return LoadedTokenizer(tokenizer, stop_ids(tokenizer, generation.eos_token_id), tuple(notes))


def finish_tokenizer(tokenizer: Any, chat_template: str | None = None) -> list[str]:
    """Give a tokenizer a chat template and a pad token if it has none; return notes on what was chosen.

    Args:
        tokenizer: changed in place.
        chat_template: Jinja source or the path of a file, in place of the tokenizer's own.

    Raises:
        ModelError: the tokenizer is no fast one, or has no end-of-sequence token; or the template can't be read.
    """
    notes = []
    if not tokenizer.is_fast:
        raise ModelError(f"{type(tokenizer).__name__} gives no character offsets; a fast tokenizer is needed")
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end-of-sequence token, so an answer could never end")
    if chat_template is not None:
        tokenizer.chat_template = read_template(chat_template)
    elif not tokenizer.chat_template:
        # A base model whose tokenizer begins every text with BOS has never seen one without.
        begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + DEFAULT_CHAT_TEMPLATE
        notes.append(
            "the model has no chat template; FTP's default (### User: / ### Assistant:) is used and saved with it"
        )
    templates = tokenizer.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        check_source(template)
    if tokenizer.pad_token_id is None:
        # Labels are masked by position, never by token, so a pad token that is also EOS hides no EOS.
        tokenizer.pad_token = tokenizer.eos_token
    return notes


def add_tokens(tokenizer: Any, tokens: Sequence[str]) -> tuple[int, ...]:
    """Add tokens to a tokenizer so that each is always a single token; return their ids.

    Raises:
        ModelError: one is in the vocabulary already.
    """
    from tokenizers import AddedToken

    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        if token in vocabulary:
            raise ModelError(f"new_tokens: '{token}' is in the vocabulary already, as {vocabulary[token]}; remove it")
    # Not "special" to the library: such tokens are left out when an answer is decoded, and these are to be seen.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    return tuple(tokenizer.convert_tokens_to_ids(list(tokens)))


def read_template(value: str) -> str:
    """Return a chat template given as Jinja source (it has a `{`) or as the path of a file that holds it.

    Raises:
        ModelError: the file can't be read.
    """
    if "{" in value:
        return value
    try:
        # Links are usual where models lie; a pipe or a device is no template.
        return read_plain_file(Path(value).resolve(), 4 * MOST_SOURCE).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"chat_template: {value}: not UTF-8") from None
    except OSError as error:
        raise ModelError(f"chat_template: {value}: {error.strerror}; give Jinja source or a file") from None
