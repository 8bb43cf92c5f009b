"""ROUGE against the reference."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import ftp
from ftp.data.words import words


class Rouge(ftp.Evaluator):
    """ROUGE-1, ROUGE-2 and ROUGE-L F1 against the reference (Lin 2004), by Google's rouge-score.

    Words are found in any script, also where no spaces are between them. For text in ASCII they are those of
    rouge-score, which knows no other letters.
    """

    requires: ClassVar[tuple[str, ...]] = ("rouge_score", "scipy", "regex", "icu4py")

    stem: bool = False
    """Reduce English words to their stems first."""

    @cached_property
    def scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Words(self.stem))

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        base = [self.scorer.score(e.reference, a.text) for e, a in zip(view.examples, view.base_answers, strict=True)]
        tuned = [self.scorer.score(e.reference, a.text) for e, a in zip(view.examples, view.tuned_answers, strict=True)]
        clusters = ftp.clusters_of(view.examples)
        metrics = tuple(
            ftp.paired_metric(
                name,
                [s[name].fmeasure for s in base],
                [s[name].fmeasure for s in tuned],
                clusters=clusters,
                limits=(0.0, 1.0),
                family="rouge",
            )
            for name in ("rouge1", "rouge2", "rougeL")
        )
        return ftp.Evaluation(metrics, n=len(view.examples))


class _Words:
    """A tokenizer for rouge-score; like its own, it leaves words of three letters and fewer unstemmed."""

    def __init__(self, stem: bool) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = PorterStemmer() if stem else None

    def tokenize(self, text: str) -> list[str]:
        found = words(text)
        if self._stemmer is None:
            return found
        return [self._stemmer.stem(word) if len(word) > 3 else word for word in found]
