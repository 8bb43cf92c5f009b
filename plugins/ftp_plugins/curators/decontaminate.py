"""Removal of training rows that overlap with the eval sets: whole, in part or paraphrased."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

import ftp
from ftp.data.examples import BATCH, Examples
from ftp.data.files import files_of
from ftp.files import first_few
from ftp_plugins.curators import ngram_index
from ftp_plugins.curators.boilerplate import Boilerplate
from ftp_plugins.curators.entries import entries_of, entries_of_file
from ftp_plugins.curators.matching import Batch, Match, Matcher
from ftp_plugins.curators.ngram_index import Index
from ftp_plugins.curators.paraphrases import named_engine, nearest, question_of, same

SHOWN = 20
WHOLE = {"prompt": "the same prompt", "row": "the same prompt and answer"}


def _place(value: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("directory")
    return str(Path(base, Path(value).expanduser())) if base and not value.startswith("package:") else value


class Decontaminate(ftp.Curator):
    """Keeps eval rows out of training: a model is not to be trained on what it is measured on.

    Training rows are compared with the validation and eval sets and with any `against` files, validation rows with the
    eval sets; eval sets stay as they are. The prompt and the reference of an eval row are compared with each training
    row by the 4-word n-grams that they share: the row is a leak when these cover enough of the words of one of them
    (`coverage`) with 8 words in a row among them, or enough words in a row (`run`). One shared 8-gram, the usual rule
    (after Brown et al. 2020, arXiv:2005.14165), flags 6% of GSM8K's clean test rows. This one, on the 1,319 test rows
    of GSM8K against its 7,473 training rows with `run: 20` (edited: case, punctuation, one word in ten replaced):

        coverage   clean flagged   verbatim caught   edited caught   edited, another answer
        0.4        1.44%           100%              99.92%          99.01%
        0.5        0.53%           100%              99.92%          98.94%
        0.6        0.38%           100%              99.85%          98.79%
        0.7        0.15%           100%              99.39%          96.29%
        0.8        0.08%           100%              97.35%          84.00%

    With `run: 15` at 0.6, 0.61% of the clean rows are flagged; with 25 as many as with 20.

    A training row that has an eval row's answer and not its question is a class of its own, `same answer`. A passage of
    an answer, found by `run` alone, is noted as `shared passage` and drops nothing.

    When an eval prompt has a document beside its question (see `entries.question_and_document`), the question is
    compared by itself as well: it is a leak without its document, too. A row that asks something else about the
    document is a class of its own, `same document`. With the document, questions and answers count by the words that
    they don't quote from it. On 1,159 documents of MedQuAD with five questions each, a tenth of the questions held out,
    dropping such rows would take 47% of the training rows; without, 3% go. So they are kept unless an option says
    otherwise: the document is before the model in evaluation anyway.

    What does not count: n-grams that more than 10 rows of an eval set have (in a small set more than 5%, and at least
    4 rows) or more than 1% of the training and validation rows (at least 6), such as an instruction that every prompt
    has; in documents, those of more than 20% of the rows on either side; in answers, passages of 12 words or more that
    two eval rows and two of up to 8,000 training and validation rows have, such as a standard reply. Such an answer is
    noted as `common answer` where a training row has it. A prompt or reference with fewer than 8 other words is
    compared as a whole only: a prompt of 3 words or more is a leak when a training prompt or one of the user's turns is
    equal to it, a shorter one only together with its answer, and an answer alone never. A whole prompt that
    many rows have counts only together with its answer, too.

    Paraphrases are found by the words of the prompts, and by numbers above all: on GSM8K's test set reworded by a
    language model, 77% are found at 1% false positives (with the n-grams alone 0.4%). Prompts of fewer than 8 words
    outside of common n-grams are left out, so that questions of one template aren't taken for one another, and so are
    `against` files.
    """

    requires: ClassVar[tuple[str, ...]] = ("numpy", "pyarrow", "scipy", "sklearn", "regex", "icu4py")
    guards_evals: ClassVar[bool] = True
    leaks: ClassVar[tuple[str, ...]] = ("leak", "same answer", "paraphrase")

    policy: Literal["drop", "fail", "report"] = "drop"
    """What to do with a leak: drop the row, stop the run and list the rows, or only record it."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the words of an eval prompt or reference that a training row must share with it to be a leak."""
    run: Annotated[int, Field(ge=ngram_index.MIN_WORDS)] = 20
    """Words in a row that a training row must share with an eval prompt to be a leak, however little of it that is."""
    same_answer: Literal["drop", "keep"] = "drop"
    """What to do with a training row that has an eval row's answer and not its question: treat it as a leak, or keep it
    and note it."""
    same_document: Literal["drop", "keep"] = "keep"
    """What to do with a training row that asks something else about the document of an eval row: treat it as a leak, or
    keep it and note it."""
    against: list[Annotated[str, Field(min_length=1), AfterValidator(_place)]] = Field(default_factory=list)
    """More rows to keep out of training: data files, directories or globs, of which every text in every column is
    compared (no format is needed), and index files made by `ftp data index`: FILE.ftpindex, or
    `package:MODULE/FILE.ftpindex` in an installed package."""
    paraphrases: Literal["ignore", "report", "drop"] = "report"
    """What to do with training prompts that paraphrase an eval prompt: nothing, record them, or drop the rows. With a
    judge, the rows that it confirms follow `policy` instead."""
    similarity: Annotated[float, Field(gt=0, le=1)] = 0.61
    """Cosine similarity of the weighted words of two prompts from which they count as paraphrases. Without a judge."""
    judge: ftp.Engine | None = None
    """An engine whose model confirms paraphrases, such as `openai`. It is sent the prompts of both rows. It has to be a
    capable model: SmolLM2-135M denies every one of 100 reworded questions of GSM8K."""
    judge_threshold: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Similarity from which the judge is asked about a pair. At the default it can confirm 1,247 of the 1,319 reworded
    questions of GSM8K at most."""
    judge_calls: Annotated[int, Field(ge=1)] = 1000
    """Maximum number of pairs to ask about, the most similar ones first. The others are recorded as not confirmed."""

    @model_validator(mode="before")
    @classmethod
    def _judge_of_0_1(cls, options: Any) -> Any:
        return named_engine(options)

    @model_validator(mode="after")
    def _judge_is_used(self) -> Decontaminate:
        if self.judge and self.paraphrases == "ignore":
            raise ValueError("with `paraphrases: ignore` the judge is never asked; remove one of the two")
        return self

    def problems(self) -> list[str]:
        if self.judge and not self.judge.own_model:
            return [f"judge: '{self.judge.used_as}' has no model of its own; name another engine"]
        found = [f"judge: {problem}" for problem in self.judge.problems()] if self.judge else []
        for path in self.against:
            try:
                self._files(path)
            except ftp.DataError as error:
                found += [f"against: {problem}" for problem in error.problems]
        return found

    def _files(self, path: str) -> list[Path]:
        """Return the files behind one item of `against`."""
        if path.startswith("package:"):
            module, _, name = path.removeprefix("package:").partition("/")
            # find_spec imports nothing of a top-level package.
            spec = importlib.util.find_spec(module) if module.isidentifier() else None
            if spec is None or not spec.submodule_search_locations:
                name = module.replace("_", "-")
                raise ftp.DataError([f"{path}: the package '{module}' is not installed: pip install {name}"])
            path = str(Path(next(iter(spec.submodule_search_locations)), name))
        if not path.endswith(ngram_index.SUFFIX):
            return files_of(path)
        if not Path(path).is_file():
            raise ftp.DataError([f"{path}: no such index file"])
        return [Path(path)]

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        evals = [ngram_index.build(name, entries_of(rows)) for name, rows in corpus.evals.items()]
        others = [index for path in self.against for file in self._files(path) for index in [_index_of(file)]]
        leaks: list[str] = []
        usual = Boilerplate([corpus.train, corpus.validation])
        validation = self._checked(corpus.validation, evals, usual, ledger, leaks)
        watched = ngram_index.build("validation", entries_of(validation))
        train = self._checked(corpus.train, [*evals, *others, watched], usual, ledger, leaks)
        self._fail_on(leaks)
        if self.paraphrases != "ignore":
            for index, examples in zip(evals, corpus.evals.values(), strict=True):
                train = self._without_paraphrases(train, index, examples, usual.of_prompts(index), ledger, leaks)
            self._fail_on(leaks)
        return dataclasses.replace(corpus, train=train, validation=validation)

    def _fail_on(self, leaks: Sequence[str]) -> None:
        if leaks:
            advice = "Remove these rows, or set `policy: drop` to have it done, or `policy: report` to train on them."
            rows = "row is" if len(leaks) == 1 else "rows are"
            raise ftp.DataError(
                [f"{self.used_as}: {len(leaks)} {rows} also in the eval sets", *first_few(leaks, SHOWN), advice]
            )

    def _checked(
        self, rows: Examples, indexes: Sequence[Index], usual: Boilerplate, ledger: ftp.Ledger, leaks: list[str]
    ) -> Examples:
        """Return the rows that match none of the indexes.

        The others are recorded in the ledger, and in `leaks` if the policy is to fail.
        """
        matchers = [Matcher(index, usual.among(index), usual.of_prompts(index)) for index in indexes if len(index)]
        out: list[int] = []
        if not matchers:
            return rows
        for number, table in enumerate(rows.batches(Batch.COLUMNS)):
            batch = Batch(table)
            reasons: dict[int, str] = {}
            for matcher in matchers:
                index = matcher.index
                for match in self._noted(matcher, batch, ledger):
                    if match.row not in reasons:
                        reasons[match.row] = f"{match.what}: {index.name}"
                        if self.policy == "fail":
                            at = f"{batch.ids[match.row]} ~ {index.id(match.other)} ({index.name})"
                            leaks.append(f"{at}: {match.coverage:.0%}, {_detail(match, batch)}")
            if self.policy == "drop":
                for row, reason in sorted(reasons.items()):
                    ledger.drop(batch.ids[row], by=self.used_as, reason=reason)
                out += [number * BATCH + row for row in reasons]
        return _without(rows, out)

    def _noted(self, matcher: Matcher, batch: Batch, ledger: ftp.Ledger) -> list[Match]:
        """Tell the ledger what a batch shares with an index; return what is to be treated as a leak.

        What is seldom a leak is noted once for each training row: many rows on both sides may share it.
        """
        index, leaks, known = matcher.index, [], set()
        dropped = {"leak": "drop", "same answer": self.same_answer, "same document": self.same_document}
        for match in matcher.matches(batch, self.coverage, self.run):
            if dropped.get(match.what) == "drop":
                leaks.append(match)
            elif match.row in known:
                continue
            known.add(match.row)
            id, score = batch.ids[match.row], round(match.coverage, 3)
            ledger.find(id, self.used_as, match.what, index.id(match.other), score, _detail(match, batch))
        for row, other in matcher.same_answers(batch):
            if row not in known:
                detail = f"an answer that many rows have, {batch.quote_answer(row)}"
                ledger.find(batch.ids[row], self.used_as, "common answer", index.id(other), 1.0, detail)
        return leaks

    def _without_paraphrases(
        self, train: Examples, index: Index, examples: Examples, usual: Any, ledger: ftp.Ledger, leaks: list[str]
    ) -> Examples:
        if not len(train) or not len(examples):
            return train
        prompts = [question_of(example) for example in examples]
        rows, others, scores = nearest(train, prompts, usual, self.judge_threshold if self.judge else self.similarity)
        known = set()
        if self.policy == "report":  # the leaks are still among the rows
            known = {(found["id"], found["other"]) for found in ledger.findings() if found["what"] in self.leaks}
        out: dict[int, None] = {}
        for call, at in enumerate((-scores).argsort(kind="stable").tolist()):
            row, example = train[int(rows[at])], examples[int(others[at])]
            if (row.id, example.id) in known:
                continue
            what, verdict = self._judged(prompts[int(others[at])], question_of(row), call)
            detail = f"{verdict}{_shortened(question_of(row))} ~ {_shortened(prompts[int(others[at])])}"
            ledger.find(row.id, self.used_as, what, example.id, round(float(scores[at]), 3), detail)
            if what == "paraphrase" and (self.policy if self.judge else self.paraphrases) != "report":
                out[int(rows[at])] = None
                if self.judge and self.policy == "fail":
                    leaks.append(f"{row.id} ~ {example.id} ({index.name}): reworded, {detail}")
        if leaks:
            return train
        for position in sorted(out):
            ledger.drop(train[position].id, by=self.used_as, reason=f"paraphrase: {index.name}")
        return _without(train, list(out))

    def _judged(self, prompt: str, question: str, call: int) -> tuple[str, str]:
        """Return the name of a pair's finding in the ledger, and the judge's part of the evidence."""
        if self.judge is None:
            return "paraphrase", ""
        if call >= self.judge_calls:
            return "paraphrase unconfirmed", f"judge: not asked after {self.judge_calls} calls; "
        agrees, answer = same(self.judge, prompt, question)
        if agrees is None:
            return "paraphrase unconfirmed", f"judge: neither yes nor no, {answer[:40]!r}; "
        return ("paraphrase", "judge: yes; ") if agrees else ("paraphrase denied", "judge: no; ")


def _index_of(file: Path) -> Index:
    if file.suffix == ngram_index.SUFFIX:
        return ngram_index.read(file)
    return ngram_index.build(file.name, entries_of_file(file, str(file)))


def _detail(match: Match, batch: Batch) -> str:
    if match.gram is None:
        return f"{WHOLE[match.kind]}, {batch.quote(match.row)}"
    return f"{match.kind}: {match.run} words in a row, {batch.quote(match.row, match.gram, match.length)}"


def _shortened(text: str) -> str:
    found = text.split()
    return f'"{" ".join(found[:12])}{" …" if len(found) > 12 else ""}"'


def _without(rows: Examples, out: Sequence[int]) -> Examples:
    gone = set(out)
    return rows.take([index for index in range(len(rows)) if index not in gone]) if gone else rows
