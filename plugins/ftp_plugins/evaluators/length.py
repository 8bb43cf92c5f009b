"""The length of an answer."""

from __future__ import annotations

import ftp


class Length(ftp.Evaluator):
    """1 if the answer has a length within bounds; outside of them less, in proportion to how far.

    Below `min_words` the score is the share of them that is there. Above `max_words` it falls linearly and is 0 at
    twice as many.
    """

    max_words: int | None = None
    """Longest answer that scores 1, in words."""
    min_words: int | None = None
    """Shortest answer that scores 1, in words."""

    def problems(self) -> list[str]:
        if self.max_words is None and self.min_words is None:
            return ["has no bound; set max_words, min_words or both"]
        found = [
            f"{name}: must be at least 1"
            for name in ("max_words", "min_words")
            if (bound := getattr(self, name)) is not None and bound < 1
        ]
        if not found and self.max_words is not None and self.max_words < (self.min_words or 0):
            return [f"max_words: is smaller than min_words, {self.min_words}"]
        return found

    def score(self, example: ftp.Example, answer: str) -> ftp.Score:
        words = len(answer.split())
        if self.min_words is not None and words < self.min_words:
            return ftp.Score(words / self.min_words, f"{words} words")
        if self.max_words is not None and words > self.max_words:
            return ftp.Score(max(0.0, 2 - words / self.max_words), f"{words} words")
        return ftp.Score(1.0)
