"""A check that the clauses an answer cites are in the prompt."""

from __future__ import annotations

import dataclasses
import re
from functools import cached_property
from typing import ClassVar

from pydantic import Field

import ftp

NUMBER = r"\d+[A-Za-z]?(?:\.\d+[A-Za-z]?)*(?![\w%]|\.\d)"
JOINT = r"\s*(?:,\s*(?:and|or)\b|,|;|/|&|-|\u2013|and\b|or\b|to\b)\s*(?:§+\s*)?"
HEADING = re.compile(rf"^[ \t]*({NUMBER})[.):]?[ \t]+(?=[^\W\d_])", re.MULTILINE)


class Citations(ftp.Evaluator):
    """1 when the answer cites a clause ("§ 4.2", "clause 4.2", "clauses 4.2 and 4.3") that is in the prompt; else 0.

    In the prompt a number at the start of a line ("4.2 Liability") counts too. "4.2(a)" counts as 4.2; 4 and 4.2 are
    different clauses.
    """

    requires: ClassVar[tuple[str, ...]] = ("scipy",)

    words: tuple[str, ...] = Field(default=("clause", "section"), min_length=1)
    """Words that announce a clause's number, in the singular (an s makes the plural); § always does."""
    every: bool = False
    """Require every clause that the answer cites to be in the prompt: one invented clause makes the score 0."""

    @cached_property
    def citation(self) -> re.Pattern[str]:
        words = "|".join(map(re.escape, self.words))
        # A list of numbers follows a plural only: in "clause 4.2, 30 days" the 30 is not a clause.
        plural = rf"(?:§§|\b(?:sub-?)?(?:{words})s\b)\s*(?P<several>{NUMBER}(?:{JOINT}{NUMBER})*)"
        singular = rf"(?:§|\b(?:sub-?)?(?:{words})\b)\s*(?P<one>{NUMBER})"
        return re.compile(rf"{plural}|{singular}", re.IGNORECASE)

    def cited(self, text: str) -> list[str]:
        """Return the numbers of the clauses that a text cites, in order, each once."""
        text = re.sub(r"\((?:[a-z]|[ivx]+|\d{1,2})\)", "", text)  # 4.2(a)(ii) is in 4.2
        found = [match["several"] or match["one"] for match in self.citation.finditer(text)]
        return list(dict.fromkeys(number.lower() for part in found for number in re.findall(NUMBER, part)))

    def given(self, example: ftp.Example) -> set[str]:
        """Return the numbers of the clauses that a prompt has: cited ones and those at the head of a line."""
        prompt = "\n\n".join(message.content for message in example.prompt)
        return {*self.cited(prompt), *(number.lower() for number in HEADING.findall(prompt))}

    def score(self, example: ftp.Example, answer: str) -> ftp.Score:
        cited, given = self.cited(answer), self.given(example)
        real = [number for number in cited if number in given]
        invented = [number for number in cited if number not in given]
        if not cited:
            return ftp.Score(0.0, "cites no clause")
        if invented and (self.every or not real):
            return ftp.Score(0.0, f"cites {', '.join(invented)}, not in the prompt")
        return ftp.Score(1.0, f"cites {', '.join(real)}")

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        evaluation = super().evaluate(view)
        bare = sum(not self.given(example) for example in view.examples)
        if not bare:
            return evaluation
        note = f"{bare} of {len(view.examples)} prompts have no clause: no answer to them can score"
        return dataclasses.replace(evaluation, notes=(*evaluation.notes, note))
