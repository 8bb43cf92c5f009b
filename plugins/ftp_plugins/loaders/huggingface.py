"""The loader for standard Hugging Face models."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp_plugins.loaders import weights


def _local_directory(value: str, info: ValidationInfo) -> str:
    """A directory beside the recipe becomes an absolute path; anything else stays a hub id."""
    local = Path((info.context or {}).get("directory", "."), Path(value).expanduser())
    return str(local) if local.is_dir() or value.startswith((".", "/", "~")) else value


class HuggingFace(ftp.Loader, ftp.LoadsTokenizer):
    """A causal language model from the Hugging Face hub or from a local directory of safetensors."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate")

    id: Annotated[str, Field(min_length=1), AfterValidator(_local_directory)]
    """A hub id, or a directory (relative ones count from the recipe)."""
    revision: str | None = None
    """Commit, tag or branch on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. auto: what the adapter needs, else bfloat16 where the hardware multiplies it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps. auto: the first of cuda, mps, cpu that is there."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel. auto: transformers' own choice."""
    chat_template: weights.ChatTemplate | None = None
    """Jinja source or a file of it, in place of the model's own chat template."""
    new_tokens: weights.NewTokens = []
    """Tokens to add to the vocabulary, such as <|tool|>; each is one token wherever it stands. Their rows train."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off: such a model is refused."""

    def problems(self) -> list[str]:
        directory = Path(self.id)
        if not directory.is_absolute():
            return []
        if not directory.is_dir():
            return [f"id: {self.id}: no such directory"]
        if not (directory / "config.json").is_file():
            return [f"id: {self.id}: no config.json in it, so it is not a Hugging Face model"]
        if self.revision is not None:
            return ["revision: is read for a model of the hub only; take it out"]
        return []

    def describe(self) -> ftp.ModelRequest:
        found = weights.describe(self.id, self.revision, self.trust_remote_code, self.new_tokens)
        return dataclasses.replace(found, dtype=self.dtype)

    def load_tokenizer(self) -> ftp.LoadedTokenizer:
        return weights.load_tokenizer(
            self.id, self.chat_template, self.revision, self.trust_remote_code, self.new_tokens
        )

    def load(self, request: ftp.ModelRequest) -> ftp.LoadedModel:
        directory = Path(self.id)
        return weights.load(
            self.id,
            request,
            name=directory.name if directory.is_absolute() else self.id,
            fingerprint=weights.directory_fingerprint(directory) if directory.is_absolute() else "",
            device=self.device,
            attention=self.attention,
            chat_template=self.chat_template,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
        )
