"""A base class for loaders of Hugging Face files: `config.json`, a fast tokenizer, safetensors."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ftp.components import Loader, LoadsTokenizer
from ftp.files import file_digest
from ftp.lm.hf_tokenizer import ChatTemplate, NewTokens, load_tokenizer
from ftp.types import LoadedModel, LoadedTokenizer, ModelRequest


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Location and name of a model's files."""

    where: str
    """A directory, or a hub id."""
    name: str
    """The model's name in messages and reports."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    trust_remote_code: bool = False
    """Whether to run code that comes with the model; if not, such a model is refused."""


class HuggingFaceFiles(Loader, LoadsTokenizer):
    """A loader that only has to locate the files; the options for loading them are included."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")
    also_known_as: ClassVar[Mapping[str, str]] = {
        "torch_dtype": "dtype",
        "device_map": "device",
        "attn_implementation": "attention",
        "flash_attention": "attention",
        "flash_attn": "attention",
        "added_tokens": "new_tokens",
    }

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights. auto: the adapter's choice, else bfloat16 where the hardware supports it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps. auto: the first available of cuda, mps, cpu."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel. auto: transformers' own choice."""
    chat_template: ChatTemplate | None = None
    """Jinja source, or a file that contains it, to use instead of the model's own chat template."""
    new_tokens: NewTokens = []
    """Tokens to add to the vocabulary, such as <|tool|>; each is always a single token. Their embedding rows train."""

    @abstractmethod
    def locate(self) -> ModelFiles:
        """Return the location of the model's files; create or download them first if necessary.

        Called by every other method, so repeated calls must be fast. Raise `ftp.ModelError` if there are no files.
        """

    def fingerprint(self) -> str:
        """Identify the files by their content. Empty: the commit of a model on the hub identifies it."""
        directory = Path(self.locate().where)
        return directory_fingerprint(directory) if directory.is_dir() else ""

    def describe(self) -> ModelRequest:
        """Describe the model: layers, modules, quantisation. Reads no weights."""
        from ftp.lm.torch_weights import describe

        files = self.locate()
        request = describe(files.where, files.revision, files.trust_remote_code, self.new_tokens)
        return dataclasses.replace(request, model=files.name, dtype=self.dtype)

    def load_tokenizer(self) -> LoadedTokenizer:
        """Load the tokenizer alone, from the configuration files."""
        files = self.locate()
        return load_tokenizer(files.where, self.chat_template, files.revision, files.trust_remote_code, self.new_tokens)

    def load(self, request: ModelRequest) -> LoadedModel:
        """Load weights and tokenizer as `request` asks."""
        from ftp.lm.torch_weights import load

        files = self.locate()
        return load(
            files.where,
            request,
            name=files.name,
            fingerprint=self.fingerprint(),
            device=self.device,
            attention=self.attention,
            chat_template=self.chat_template,
            revision=files.revision,
            trust_remote_code=files.trust_remote_code,
        )


def directory_fingerprint(directory: Path) -> str:
    """Return the SHA-256, in hex, over names and bytes of a model's files: weights, configuration, tokenizer."""
    files = sorted(f for f in directory.iterdir() if f.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt"))
    return hashlib.sha256("".join(f"{f.name} {file_digest(f)}\n" for f in files).encode()).hexdigest()
