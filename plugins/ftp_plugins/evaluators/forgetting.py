"""A test of whether the tuned model has forgotten general data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

import ftp
from ftp.types import Kind
from ftp_plugins.evaluators.general_instructions import INSTRUCTIONS, format_problems, read_instructions
from ftp_plugins.evaluators.loss import loss_metrics
from ftp_plugins.formatters.auto import Auto

TEXT = "general-text"


class Forgetting(ftp.Evaluator, ftp.BringsEvals):
    """Measures what training cost elsewhere: the loss of both models on general text and on general instructions.

    Both are eval sets of its own. Training rows similar to them are dropped as for any eval set, so general data can
    be the held-out part of a replay file, in a file of its own. The verdict is in the notes: forgot, or no evidence
    of forgetting and the smallest loss that this many examples would have shown. To also have a judge compare the
    answers to the instructions, add `pairwise` with the same `instructions:`.
    """

    requires: ClassVar[tuple[str, ...]] = ("scipy",)
    takes: ClassVar[tuple[Kind, ...]] = ("conversation", "text")
    reads_answers: ClassVar[bool] = False
    reads_losses: ClassVar[bool] = True

    text: ftp.FilePath | None = None
    """A file of general text in UTF-8. It is cut into consecutive windows whose losses are compared."""
    window: Annotated[int, Field(ge=20)] = 200
    """Words in a window of the text."""
    max_windows: Annotated[int, Field(ge=2)] = 500
    """Maximum number of windows; from a longer text this many are taken, evenly spread."""
    instructions: ftp.FilePath | None = None
    """A data file of general instructions with answers."""
    format: ftp.Formatter = Auto()
    """How a row of `instructions` becomes an example."""

    def problems(self) -> list[str]:
        if self.text is None and self.instructions is None:
            return ["needs `text:` or `instructions:`, a file of general data"]
        given = {"text": self.text, "instructions": self.instructions}
        missing = [f"{name}: {file}: no such file" for name, file in given.items() if file and not Path(file).is_file()]
        return missing + format_problems(self.instructions, self.format)

    def files(self) -> Sequence[Path]:
        return [Path(file) for file in (self.text, self.instructions) if file is not None]

    def own_evals(self) -> Mapping[str, Sequence[ftp.Example]]:
        sets: dict[str, Sequence[ftp.Example]] = {}
        if self.text is not None:
            sets[TEXT] = self._windows(Path(self.text))
        if self.instructions is not None:
            sets[INSTRUCTIONS] = list(read_instructions(self.instructions, self.format, self.takes))
        return sets

    def _windows(self, file: Path) -> list[ftp.Example]:
        try:
            windows = list(_cut(file.read_text(encoding="utf-8"), self.window))
        except (OSError, UnicodeDecodeError) as error:
            raise ftp.DataError([f"{file}: can't be read as UTF-8 text: {error}"]) from None
        if len(windows) < 2:
            words = f"{2 * self.window} words are needed for two windows"
            raise ftp.DataError([f"{file}: too little text for the evaluator '{self.used_as}': {words}"])
        if len(windows) > self.max_windows:
            windows = [windows[at * len(windows) // self.max_windows] for at in range(self.max_windows)]
        return [ftp.Example(text=window, source=str(file)) for window in windows]

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        nll, perplexity = loss_metrics(view)
        return ftp.Evaluation((nll, perplexity), (f"{sum(nll.weights):.0f} tokens",), n=len(view.base_losses))

    def conclude(self, evaluation: ftp.Evaluation) -> Sequence[str]:
        return [in_words(evaluation.metrics[0])]


def in_words(nll: ftp.Metric) -> str:
    """Explain what a rise of the loss on general data shows, or what it can't show."""
    verdict, _, why = ftp.verdict_in_words(nll).partition(" (")
    if verdict.startswith("no evidence"):
        return "no evidence of forgetting" + (f" ({why}" if why else "")
    assert nll.difference is not None
    found = f"{nll.difference.mean:+.3f} nats per token [{nll.difference.low:+.3f}, {nll.difference.high:+.3f}]"
    if verdict == "worse":
        return f"forgot: the loss went up by {found}"
    return f"no evidence of forgetting: the loss went down, {found}"


def _cut(text: str, words: int) -> Iterator[str]:
    """Cut a text into windows of whole lines with at least so many words; the remainder at the end is dropped.

    A single line that is longer is cut between words.
    """
    window: list[str] = []
    count = 0
    for line in text.splitlines():
        for piece in _pieces(line.split(" "), words):
            window.append(piece)
            count += len(piece.split())
            if count >= words:
                yield "\n".join(window).strip()
                window, count = [], 0


def _pieces(words: Sequence[str], most: int) -> Iterator[str]:
    if len(words) <= most:
        yield " ".join(words)
        return
    for start in range(0, len(words), most):
        yield " ".join(words[start : start + most])
