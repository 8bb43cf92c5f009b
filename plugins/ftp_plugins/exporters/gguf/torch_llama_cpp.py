"""GGUF files opened with llama.cpp."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ftp
from ftp.lm.rendering import render
from ftp.lm.torch_parity import LONGEST_PROMPT
from ftp_plugins.exporters.gguf.llama_log import llama_errors


def with_llama(path: Path, like: Any, stops: Sequence[int], lora: Path | None = None) -> ftp.Exported:
    """Open a GGUF file with llama-cpp-python: its tokens, its predictions.

    Args:
        like: the run's tokenizer, which lends Jinja's surroundings to the template in the file.
        stops: the tokens that end an answer.
        lora: an adapter to put on it.

    Raises:
        ModelError: llama.cpp can't open it.
    """
    import llama_cpp

    errors = llama_errors()
    errors.clear()
    try:
        llama = llama_cpp.Llama(
            str(path),
            lora_path=str(lora) if lora else None,
            n_ctx=2 * LONGEST_PROMPT,
            n_batch=2 * LONGEST_PROMPT,
            logits_all=True,
            swa_full=True,  # otherwise what has left a sliding window can't be gone back to
            n_gpu_layers=0,
            n_threads=torch.get_num_threads(),
            n_threads_batch=torch.get_num_threads(),  # of its own accord, all cores
            verbose=False,
        )
    except (ValueError, RuntimeError) as error:
        raise ftp.ModelError(f"{path}: llama.cpp can't open it: {errors[-1] if errors else error}") from None
    found = _Opened(llama, like, stops)
    engine = f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})"
    return ftp.Exported(engine, found.encode, found.encode_text, found.logits, found.answer)


class _Opened:
    """A file in llama.cpp."""

    def __init__(self, llama: Any, like: Any, stops: Sequence[int]) -> None:
        self.llama, self.stops = llama, stops
        self.template = copy.deepcopy(like)
        self.template.chat_template = llama.metadata.get("tokenizer.chat_template", like.chat_template)

    def encode(self, example: ftp.Example) -> list[int]:
        text = render(self.template, example.prompt, answer_next=True, tools=example.tools)
        return list(self.llama.tokenize(text.encode(), add_bos=False, special=True))

    def encode_text(self, text: str) -> list[int]:
        return list(self.llama.tokenize(text.encode(), add_bos=True, special=True))

    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        self._read(ids)
        return torch.from_numpy(self.llama.scores[: len(ids)].copy())

    def answer(self, ids: Sequence[int], most: int) -> list[int]:
        self._read(ids)
        found: list[int] = []
        while len(found) < most:
            found.append(int(self.llama.scores[self.llama.n_tokens - 1].argmax()))
            if found[-1] in self.stops or len(found) == most:
                break
            self.llama.eval(found[-1:])
        return found

    def _read(self, ids: Sequence[int]) -> None:
        """Have llama.cpp compute the logits behind tokens; it keeps those that it has read last and are the same."""
        read = self.llama.input_ids[: self.llama.n_tokens].tolist()
        same = next((n for n, (a, b) in enumerate(zip(read, ids, strict=False)) if a != b), min(len(read), len(ids)))
        self.llama.n_tokens = same
        if same < len(ids):
            self.llama.eval(list(ids[same:]))
