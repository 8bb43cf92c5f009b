"""The engine for models in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

import ftp
from ftp.options import AnswerOptions


class Transformers(ftp.Engine):
    """Answers with the model in memory, many prompts at once: prompts are packed, and rows that end make room."""

    by_default: ClassVar[bool] = True

    batch_size: int = Field(default=64, ge=1)
    """Prompts answered at once."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """For sampling."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Price of an hour of this machine, in any currency, for the cost of an answer in the report."""
    fast: Literal["auto", "off"] = "auto"
    """auto: FTP's own decoding where the model allows it. off: always the model's own `generate`."""

    def problems(self) -> list[str]:
        if self.samples > 1 and self.temperature == 0:
            return ["samples: several answers to a prompt are the same without a `temperature:`"]
        if self.top_p < 1 and self.temperature == 0:
            return ["top_p: has no effect without a `temperature:`"]
        return []

    def answer(self, prompts: Sequence[ftp.Example], options: AnswerOptions) -> list[ftp.Answer]:
        from ftp_plugins.engines.torch_answers import answers

        self._check_model()
        began = time.perf_counter()
        found = answers(self.work, prompts, options, fast=self.fast == "auto")
        seconds = (time.perf_counter() - began) / max(1, len(found))
        cost = None if self.price_per_hour is None else seconds / 3600 * self.price_per_hour
        return [ftp.Answer(answer.text, answer.tokens, answer.stopped, seconds, cost) for answer in found]

    def sample(self, prompts: Sequence[ftp.Example], options: AnswerOptions) -> list[list[int]]:
        from ftp_plugins.engines.torch_answers import answer_ids

        self._check_model()
        return answer_ids(self.work, prompts, options, fast=self.fast == "auto")

    def _check_model(self) -> None:
        if self.work.model is None:
            raise ftp.ModelError(f"'{self.used_as}' answers with a model in memory, and there is none")
