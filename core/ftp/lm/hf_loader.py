"""A base class for loaders of Hugging Face files: `config.json`, a fast tokenizer, safetensors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ftp.cache import kept_digest
from ftp.components import Loader, LoadsStructure, LoadsTokenizer
from ftp.errors import ModelError
from ftp.files import first_line
from ftp.lm.hf_tokenizer import ChatTemplate, NewTokens, load_tokenizer
from ftp.lm.processor import trains_on_it, why_slow
from ftp.types import LoadedModel, LoadedTokenizer, ModelRequest

if TYPE_CHECKING:
    from ftp.recipe import Recipe


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


class HuggingFaceFiles(Loader, LoadsTokenizer, LoadsStructure):
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
    """Data type of the weights. auto: the adapter's choice, else on a GPU bfloat16 where it supports that, and on a
    processor the faster of bfloat16 and float32, which is measured, as far as float32 weights fit into half of the
    memory."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps. auto: the first available of cuda, mps, cpu."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention kernel. auto: transformers' own choice."""
    chat_template: ChatTemplate | None = None
    """Jinja source, or a file that contains it, to use instead of the model's own chat template."""
    new_tokens: NewTokens = []
    """Tokens to add to the vocabulary, such as <|tool|>; each is always a single token. Their embedding rows train."""

    def warnings(self, recipe: Recipe) -> list[str]:
        slow = why_slow(self.dtype) if trains_on_it(self.device) else None
        return [f"dtype: {slow}"] if slow else []

    @abstractmethod
    def locate(self) -> ModelFiles:
        """Return the location of the model's files; create or download them first if necessary.

        Called by every other method, so repeated calls must be fast. Raise `ftp.ModelError` if there are no files.
        """

    def fingerprint(self) -> str:
        """Identify the files by their content, or those of a model of the hub by its commit."""
        files = self.locate()
        if Path(files.where).is_dir():
            return directory_fingerprint(Path(files.where))
        return f"commit {hub_commit(files.where, files.revision)}"

    def files(self) -> Sequence[Path]:
        return [Path(self.chat_template)] if self.chat_template and "{" not in self.chat_template else []

    def needs_consent(self) -> Sequence[str]:
        files = self.locate()
        return [f"run the code that comes with the model {files.where}"] if files.trust_remote_code else []

    def describe(self) -> ModelRequest:
        """Describe the model: layers, modules, quantisation. Reads no weights."""
        from ftp.lm.torch_weights import describe

        files = self._checked()
        request = describe(files.where, files.revision, files.trust_remote_code, self.new_tokens)
        return dataclasses.replace(request, model=files.name, dtype=self.dtype)

    def load_tokenizer(self) -> LoadedTokenizer:
        """Load the tokenizer alone, from the configuration files."""
        files = self._checked()
        return load_tokenizer(files.where, self.chat_template, files.revision, files.trust_remote_code, self.new_tokens)

    def load_structure(self, request: ModelRequest) -> LoadedModel:
        """Build the model on torch's meta device and load its tokenizer."""
        from ftp.lm.torch_weights import structure

        files, tokenizer = self._checked(), self.load_tokenizer()
        model = structure(files.where, files.revision, files.trust_remote_code, request.dtype)
        return LoadedModel(model, tokenizer.tokenizer, files.name, "", request)

    def load(self, request: ModelRequest) -> LoadedModel:
        """Load weights and tokenizer as `request` asks."""
        from ftp.lm.torch_weights import load

        files, fingerprint = self._checked(), self.fingerprint()
        # The commit that was looked at is the one that is loaded, should the branch move in between.
        commit = fingerprint.removeprefix("commit ") if fingerprint.startswith("commit ") else None
        return load(
            files.where,
            request,
            name=files.name,
            fingerprint=fingerprint,
            device=self.device,
            attention=self.attention,
            chat_template=self.chat_template,
            revision=commit or files.revision,
            trust_remote_code=files.trust_remote_code,
        )

    def _checked(self) -> ModelFiles:
        files = self.locate()
        if Path(files.where).is_dir():
            check_model_files(Path(files.where))
        return files


LOADED = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".spm", ".vocab")
"""What a file of a model ends in that is loaded: weights, configuration, tokenizer, templates, code."""
MOST_BYTES_OF_TEXT = 2**29
"""The largest configuration, vocabulary or template."""
LARGEST = {
    "num_hidden_layers": 2000,
    "n_layer": 2000,
    "num_layers": 2000,
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "n_embd": 10**6,
    "intermediate_size": 10**7,
    "num_attention_heads": 10**5,
    "num_experts": 10**4,
    "num_local_experts": 10**4,
    "n_routed_experts": 10**4,
}
"""Sizes in a config.json beyond which it is damaged: a model is built from it before a weight is read."""
MOST_FILES = 10_000
"""A directory with more of them is none of a model."""


def directory_fingerprint(directory: Path) -> str:
    """Return the SHA-256, in hex, over names and bytes of a model's files: weights, configuration, tokenizer.

    Files below it count too, as an index of weights may name them; hidden ones don't.

    Raises:
        ModelError: a file of them can't be read, or is no file but a pipe or a device.
    """
    lines = (f"{file.relative_to(directory).as_posix()} {kept_digest(file)}\n" for file in model_files(directory))
    try:
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except OSError as error:
        raise ModelError(f"{error.filename or directory}: can't be read: {error.strerror}") from None


def model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory that are loaded, in order.

    Raises:
        ModelError: one is no file, its link leads nowhere, or there are too many.
    """
    found: list[Path] = []
    for place, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith((".", "__pycache__")))
        found += [Path(place, name) for name in names if name.endswith(LOADED) and not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise ModelError(f"{directory}: has more than {MOST_FILES:,} files, so it is not the directory of a model")
    for file in found:
        if not file.is_file():  # links are usual: the hub's cache is made of them
            raise ModelError(f"{file}: not a plain file, and no link to one")
    return sorted(found)


def check_model_files(directory: Path) -> None:
    """Refuse a model directory whose files would be read without end or take memory without end.

    Raises:
        ModelError: which file, and what is wrong with it.
    """
    for file in model_files(directory):
        size = file.stat().st_size
        if file.suffix != ".safetensors":
            if size > MOST_BYTES_OF_TEXT:
                raise ModelError(f"{file}: has {size:,} bytes and may have {MOST_BYTES_OF_TEXT:,}")
            continue
        with file.open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        if size < 8 or header > min(size - 8, 100_000_000):  # the format allows no longer one
            raise ModelError(f"{file}: damaged: its header says that it has {header:,} bytes")
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except OSError:
        return  # whoever loads the model says so
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{directory / 'config.json'}: can't be read: {first_line(error)}") from None
    for part in (config, *(config.values() if isinstance(config, dict) else ())):
        for key, most in LARGEST.items():
            found = part.get(key) if isinstance(part, dict) else None
            if isinstance(found, int) and found > most:
                raise ModelError(f"{directory / 'config.json'}: {key}: {found:.3g} is more than any model has")


def hub_commit(id: str, revision: str | None = None) -> str:
    """Return the commit that a model of the hub is at: the hub's word, or where it can't be asked, the cache's.

    Raises:
        ModelError: there is no such model or revision, it is gated, or neither the hub nor the cache has it.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    where = id if revision is None else f"{id} at {revision}"
    try:
        file = Path(hf_hub_download(id, "config.json", revision=revision))
    except GatedRepoError:
        raise ModelError(
            f"{where}: the hub gives it only to those it knows: accept its terms there, and log in with "
            "`hf auth login` or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{where}: the model has no such revision on the hub") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{where}: no such model on the hub; if it is a private one, set HF_TOKEN") from None
    except (HfHubHTTPError, OSError, ValueError) as error:  # a lost connection is an OSError, a bad id a ValueError
        raise ModelError(f"{where}: can't be had from the hub: {first_line(error)}") from None
    return file.parent.name
