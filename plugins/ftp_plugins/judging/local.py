"""A judge in this process: the probabilities that a local model gives to each verdict as its next token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import ftp
from ftp.files import file_digest
from ftp.lm.hf_loader import HuggingFaceFiles
from ftp.lm.rendering import render
from ftp.stages.load_model import load_base_model
from ftp_plugins.engines.client import CallFailed, Reply, ServiceError
from ftp_plugins.loaders.huggingface import HuggingFace

WEAKNESS = (
    "the judge is a local model read by its next-token probabilities: it gives no reasons, small models judge little "
    "better than chance, and a model likes answers in its own style; check it against a gold set (`calibrate:`)"
)


class LocalModel:
    """A causal language model that returns the probability of each of some verdicts.

    The score is the mean over the levels, weighted by their probabilities (G-Eval, Liu et al. 2023, arXiv:2303.16634,
    which samples them; here they are read from the distribution itself).
    """

    def __init__(self, model: str, loader: ftp.Loader | None = None) -> None:
        """Name the model.

        Args:
            model: a directory or a hub id, or with a loader a name. Nothing is loaded before the first call.
            loader: what loads it; None for Hugging Face's own.
        """
        self._model, self._loader = model, loader or HuggingFace(id=model)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the model's files; empty where the loader names no files."""
        if isinstance(self._loader, HuggingFaceFiles):
            return self._loader.fingerprint()
        file = Path(self._loader.describe().model)
        return file_digest(file) if file.is_file() else ""

    @cached_property
    def _loaded(self) -> ftp.LoadedModel:
        return load_base_model(self._loader, None, lambda note: None)

    async def ask(self, request: Mapping[str, Any]) -> Reply:
        """Return the probability of each of `request["choices"]` after prompt and `request["prefix"]`, as JSON text.

        Raises:
            ServiceError: the tokenizer doesn't make one token of each choice.
            CallFailed: the prompt is too long.
        """
        from ftp_plugins.judging.torch_next_token import next_token_odds

        tokenizer, model = self._loaded.tokenizer, self._loaded.model
        messages = [ftp.Message(m["role"], self.without_control_tokens(m["content"])) for m in request["messages"]]
        start = render(tokenizer, messages, answer_next=True) + request["prefix"]
        ids = tokenizer(start, add_special_tokens=False)["input_ids"]
        ends = [tokenizer(start + choice, add_special_tokens=False)["input_ids"] for choice in request["choices"]]
        if any(end[:-1] != ids for end in ends):
            raise ServiceError(
                f"{self._model}: its tokenizer doesn't make one token of each verdict; use another judge"
            )
        room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and len(ids) > room:
            raise CallFailed(f"a prompt of {len(ids)} tokens, and the model takes {room}", "refused")
        odds = next_token_odds(model, ids, [end[-1] for end in ends])
        return Reply(json.dumps(dict(zip(request["choices"], odds, strict=True))), "stop", len(ids), 0)

    def without_control_tokens(self, text: str) -> str:
        """Remove this tokenizer's control tokens from a text, since it would read them in any text."""
        for token in self._loaded.tokenizer.all_special_tokens:
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text


def expected_score(name: str, reply: str) -> dict[str, Any] | None:
    """Return the mean level by the probabilities in a reply: `{"scores": {name: float}, "reasons": {name: str}}`."""
    odds = json.loads(reply)
    score = sum(int(level) * probability for level, probability in odds.items())
    reason = ", ".join(f"P({level})={probability:.2f}" for level, probability in odds.items())
    return {"scores": {name: score}, "reasons": {name: reason}}


def likelier(reply: str) -> dict[str, Any] | None:
    """Return the likelier of A and B by the probabilities in a reply."""
    odds = json.loads(reply)
    winner = "tie" if odds["A"] == odds["B"] else max(odds, key=odds.get)
    return {"winner": winner, "reason": f"P(A)={odds['A']:.2f}"}
