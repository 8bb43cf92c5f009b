"""Exact match with the reference, or of a pattern's match in both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import ftp
from ftp_plugins.evaluators.numbers import number


class ExactMatch(ftp.Evaluator):
    """1 if the answer equals the reference, or if the matches of `pattern` in both are equal; else 0."""

    requires: ClassVar[tuple[str, ...]] = ("scipy",)

    pattern: str | None = None
    """Regular expression; its first group (or the whole match) is compared, using the last match in each text."""
    ignore_case: bool = True
    """Compare without regard to case."""
    numbers: bool = False
    """Compare numbers by their value: 1,200 is 1200 and 1.2e3, $18 is 18.0, 1/2 is 0.5, ($5) is -5; signs of money and
    per cent don't count. What is not one number is compared as text."""

    def problems(self) -> list[str]:
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            return [f"pattern: not a regular expression: {error}"]
        return []

    def check(self, examples: Sequence[ftp.Example]) -> None:
        without = [example.id for example in examples if self._extract(example.reference) is None]
        if without:
            more = f" and in {len(without) - 1} more" if len(without) > 1 else ""
            what = f"the pattern {self.pattern!r} finds nothing in the reference{more}"
            raise ftp.DataError([f"{without[0]}: {self.used_as}: {what}; fix the pattern or the rows"])

    def score(self, example: ftp.Example, answer: str) -> ftp.Score:
        expected, found = self._extract(example.reference), self._extract(answer)
        if found is None:
            return ftp.Score(0.0, "the pattern finds nothing in the answer")
        same = found == expected
        if self.numbers and not same and expected is not None:
            value = number(found)
            same = value is not None and value == number(expected)
        return ftp.Score(float(same), "" if same else f"{found!r}, expected {expected!r}")

    def _extract(self, text: str) -> str | None:
        if self.pattern is not None:
            matches = list(re.finditer(self.pattern, text, re.MULTILINE | re.IGNORECASE * self.ignore_case))
            if not matches:
                return None
            text = matches[-1].group(1) if matches[-1].re.groups else matches[-1].group()
            if text is None:
                return None
        text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text
