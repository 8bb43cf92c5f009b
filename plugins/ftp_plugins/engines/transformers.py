"""The engine for models in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

import ftp
from ftp.options import AnswerOptions


class Transformers(ftp.Engine):
    """Answers with the model in memory, several prompts at once."""

    by_default: ClassVar[bool] = True

    batch_size: int = Field(default=32, ge=1)
    """Prompts answered at once."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """For sampling."""

    def answer(self, prompts: Sequence[ftp.Example], options: AnswerOptions) -> list[ftp.Answer]:
        from ftp.lm.torch_generate import generate

        assert self.work.model is not None
        return generate(self.work.model, prompts, options, self.work.progress)
