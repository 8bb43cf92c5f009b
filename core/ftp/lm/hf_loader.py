"""A base for loaders whose models lie in Hugging Face files: `config.json`, a fast tokenizer, safetensors."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ftp.components import Loader, LoadsTokenizer
from ftp.files import file_digest
from ftp.lm.hf_tokenizer import ChatTemplate, NewTokens, load_tokenizer
from ftp.types import LoadedModel, LoadedTokenizer, ModelRequest


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files are, and what the model is called."""

    where: str
    """A directory, or a hub id."""
    name: str
    """What messages and reports call the model."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    trust_remote_code: bool = False
    """Whether code that comes with the model is run; where it isn't, such a model is refused."""


class HuggingFaceFiles(Loader, LoadsTokenizer):
    """A loader that only has to say where the files are; the options for loading them come with it."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: what the adapter needs, else bfloat16 where the hardware multiplies it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps. auto: the first of cuda, mps, cpu that is there."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel. auto: transformers' own choice."""
    chat_template: ChatTemplate | None = None
    """Jinja source or a file of it, in place of the model's own chat template."""
    new_tokens: NewTokens = []
    """Tokens to add to the vocabulary, such as <|tool|>; each is one token wherever it stands. Their rows train."""

    @abstractmethod
    def locate(self) -> ModelFiles:
        """Say where the model's files are, and make or fetch them where they aren't there yet.

        Called by every other method, so it has to be quick from the second time on. Raise `ftp.ModelError` where
        there are none.
        """

    def fingerprint(self) -> str:
        """Identify the files by their content; empty leaves that to the commit of a model of the hub."""
        directory = Path(self.locate().where)
        return directory_fingerprint(directory) if directory.is_dir() else ""

    def describe(self) -> ModelRequest:
        """List what the model is made of: layers, modules, how it is quantised. Reads no weights."""
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
