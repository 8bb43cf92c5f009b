"""Removal of rows that would teach the wrong thing, by rules on a single row."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

import ftp
from ftp.data.examples import Examples, decode
from ftp.data.words import words
from ftp.errors import did_you_mean
from ftp_plugins.curators import rules
from ftp_plugins.curators.pii import KINDS, PII, mask_example

AT_ONCE = 10_000
"""Masked rows held as objects before they go into the table."""
COMPARED_WORDS = 10
"""Answers with fewer words may be given to any number of prompts: labels, names, numbers."""
ECHO_WORDS = 4
"""Words below which an answer may equal its question: a greeting is answered by a greeting."""
LANGUAGE_BYTES = 100
"""Bytes of letters (in UTF-8) below which no language is guessed: 100 Latin letters, 34 Chinese ones."""

_CODE = re.compile(r"```.*?(?:```|\Z)|https?://\S+", re.DOTALL)


class Fault(NamedTuple):
    reason: str
    detail: str


class Quality(ftp.Curator):
    """Drops rows that teach the wrong thing and masks personal data, in training and validation rows.

    Rules apply to the answers that are trained on, for preference data to the chosen one; answers labelled bad are
    checked for broken encoding, length and personal data only. A row is dropped for the first rule that it breaks; all
    broken rules are recorded.
    """

    requires: ClassVar[tuple[str, ...]] = (
        *("numpy", "pyarrow", "ftfy", "phonenumbers", "py3langid", "stdnum", "regex", "icu4py"),
    )

    min_tokens: int | None = Field(default=None, ge=1)
    """Minimum number of tokens. Default: no limit."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of tokens. Default: no limit."""
    tokens_of: Literal["answer", "row"] = "answer"
    """What `min_tokens` and `max_tokens` count: the last answer, or all turns; never the chat template's own tokens."""
    repeats: bool = True
    """Drop answers in which over 40% are repeated runs of ten words: loops, and passages pasted twice."""
    gopher: bool = False
    """Drop answers that break the repetition rules of Rae et al. 2021. The rules are meant for web pages: terse
    solutions, lists and tables break them too, including one in eight of GSM8K's."""
    refusals: bool = True
    """Drop answers that decline or speak as an AI ("I'm sorry, but I can't assist with that"). Turn it off for safety
    data."""
    boilerplate: bool = True
    """Drop answers that are only an opening ("Sure! Here is the list:") or a placeholder ("<nooutput>")."""
    unwanted: list[str] = []
    """More phrases that no answer may have: regular expressions, found anywhere, in any case."""
    echoes: bool = True
    """Drop answers that equal the question."""
    same_answer: int | None = Field(default=None, ge=1)
    """Maximum number of different prompts with the same answer of ten words or more; the first ones are kept. Default:
    no limit, since labels and standard clauses repeat legitimately."""
    languages: list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] = []
    """Allowed languages of answers, such as `[en, de]` (ISO 639-1). Default: any. Short texts are not checked."""
    language_confidence: float = Field(default=0.9, ge=0, le=1)
    """How sure it has to be that an answer is in none of `languages` for the row to be dropped."""
    broken_encoding: bool = True
    """Drop rows with lost characters or with bytes read in the wrong encoding, such as `schÃ¶n`."""
    code_fences: bool = True
    """Drop answers with a code fence that is never closed, which are usually cut off."""
    pii: Literal["mask", "drop", "keep"] = "mask"
    """Personal data and keys: replace each by its kind, such as [EMAIL]; drop the row; or ignore them."""
    pii_kinds: list[PII] = list(KINDS)
    """The kinds to look for."""
    phone_region: str | None = Field(default=None, pattern="^[A-Z]{2}$")
    """Country whose phone numbers are also found without a country code, such as `US`. Default: only `+` numbers."""

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Quality:
        if self.min_tokens and self.max_tokens and self.min_tokens > self.max_tokens:
            limits = f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}"
            raise ValueError(f"{limits}; no row can satisfy both")
        return self

    def problems(self) -> list[str]:
        found = []
        for pattern in self.unwanted:
            try:
                re.compile(pattern)
            except re.error as error:
                found.append(f"unwanted: {pattern!r} is not a regular expression: {error}")
        return found

    def curate(self, corpus: ftp.Corpus, ledger: ftp.Ledger) -> ftp.Corpus:
        counter = corpus.count_tokens
        if (self.min_tokens or self.max_tokens) and counter is None:
            what = (
                "min_tokens and max_tokens need the model's tokenizer, and this loader can't give it before the model"
            )
            raise ftp.DataError([f"{self.used_as}: {what}; remove them"])
        if self.languages:
            for language in self.languages:
                if language not in self._identifier.labels:
                    hint = did_you_mean(language, self._identifier.labels)
                    raise ftp.DataError([f"{self.used_as}: languages: no language '{language}' is known{hint}"])
        train, validation = (self._clean(rows, counter, ledger) for rows in (corpus.train, corpus.validation))
        return dataclasses.replace(corpus, train=train, validation=validation)

    def _clean(
        self, examples: Examples, count_tokens: Callable[[Sequence[str]], list[int]] | None, ledger: ftp.Ledger
    ) -> Examples:
        kept, said = array("q"), _Answers()
        masked: dict[int, ftp.Example] = {}
        result, at = examples, -1
        for table in examples.batches():
            rows = decode(table)
            lengths = self._lengths(rows, count_tokens)
            for example, length in zip(rows, lengths, strict=True):
                at += 1
                faults = list(self._faults(example, length))
                for fault in faults:
                    ledger.find(example.id, self.used_as, fault.reason, detail=fault.detail)
                if faults:
                    ledger.drop(example.id, self.used_as, faults[0].reason)
                    continue
                kept.append(at)
                if self.same_answer:
                    said.add(example)
                changed, found = self._without_pii(example)
                if found:
                    masked[at] = changed
                    ledger.mask(example.id, self.used_as, f"masked: {', '.join(found)}")
            if len(masked) >= AT_ONCE:
                result, masked = result.changed(masked), {}
        result = (result.changed(masked) if masked else result).take(kept)
        return self._limit_same_answers(result, said, ledger) if self.same_answer else result

    # The rules, in the order in which they give the reason.

    def _faults(self, example: ftp.Example, length: int) -> Iterator[Fault]:
        texts = [example.text, *(message.content for message in example.messages + example.rejected)]
        answers = _answers(example)
        if self.broken_encoding:
            yield from _hits("broken encoding", rules.broken_encoding, texts)
        if self.languages:
            yield from _hits("wrong language", self._wrong_language, answers)
        if self.min_tokens and length < self.min_tokens:
            yield Fault(f"{self.tokens_of} shorter than {self.min_tokens} tokens", f"{length} tokens")
        if self.max_tokens and length > self.max_tokens:
            yield Fault(f"{self.tokens_of} longer than {self.max_tokens} tokens", f"{length} tokens")
        if self.refusals:
            yield from _hits("refusal or talk of being an AI", rules.refusal, answers)
        if self.boilerplate:
            yield from _hits("boilerplate", rules.boilerplate, answers)
        if self._unwanted:
            yield from _hits("unwanted phrase", self._unwanted_phrase, answers)
        if self.echoes and _is_echo(example):
            yield Fault("answer equals question", "")
        if self.repeats:
            yield from _hits("answer repeats itself", rules.loop, answers)
        if self.gopher:
            yield from _hits("answer breaks Gopher's repetition rules", rules.gopher, answers)
        if self.code_fences:
            yield from _hits("unclosed code fence", rules.open_fence, answers)
        if self.pii == "drop":
            _, found = mask_example(example, self.pii_kinds, self.phone_region)
            if found:
                counts = ", ".join(f"{found[kind]} {kind}" for kind in KINDS if found[kind])
                yield Fault("personal data or keys", counts)  # never the data themselves

    def _without_pii(self, example: ftp.Example) -> tuple[ftp.Example, list[str]]:
        if self.pii != "mask":
            return example, []
        changed, found = mask_example(example, self.pii_kinds, self.phone_region)
        return changed, [kind for kind in KINDS if found[kind]]

    def _lengths(
        self, rows: Sequence[ftp.Example], count_tokens: Callable[[Sequence[str]], list[int]] | None
    ) -> Sequence[int]:
        if count_tokens is None or not (self.min_tokens or self.max_tokens):
            return [0] * len(rows)
        if self.tokens_of == "answer":
            return count_tokens([example.reference for example in rows])
        return count_tokens(["\n".join([e.text, *(m.content for m in e.messages)]).strip() for e in rows])

    @cached_property
    def _unwanted(self) -> list[re.Pattern[str]]:
        return [re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in self.unwanted]

    def _unwanted_phrase(self, answer: str) -> str:
        return next((pattern.pattern for pattern in self._unwanted if pattern.search(answer)), "")

    @cached_property
    def _identifier(self) -> Any:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def _wrong_language(self, answer: str) -> str:
        prose = _CODE.sub(" ", answer)[:2000]
        if len("".join(filter(str.isalpha, prose)).encode("utf-8", "surrogatepass")) < LANGUAGE_BYTES:
            return ""
        # Close relatives share the probability (zh, wuu and yue), so the best guess alone is never sure of any.
        guesses = self._identifier.rank(prose)
        other = 1 - sum(chance for language, chance in guesses if language in self.languages)
        wrong = guesses[0][0] not in self.languages and other >= self.language_confidence
        return f"{guesses[0][0]}, {other:.0%} sure that it is none of {', '.join(self.languages)}" if wrong else ""

    def _limit_same_answers(self, examples: Examples, said: _Answers, ledger: ftp.Ledger) -> Examples:
        assert self.same_answer is not None
        over = said.beyond(self.same_answer)
        if not over:
            return examples
        reason = f"same answer to more than {self.same_answer} prompts"
        kept = array("q")
        for at, id in enumerate(examples.column("id")):
            if at in over:
                ledger.find(id, self.used_as, reason, detail=f"{over[at]} prompts")
                ledger.drop(id, self.used_as, reason)
            else:
                kept.append(at)
        return examples.take(kept)


def _answers(example: ftp.Example) -> list[str]:
    """Return the texts of an example that are learned as good ones."""
    if example.label is False:
        return []
    turns = [message.content for message in example.messages if message.role == "assistant" and message.train]
    return [text for text in (*turns, example.text) if text]


def _hits(reason: str, rule: Callable[[str], str], texts: Sequence[str]) -> Iterator[Fault]:
    """Return the first text that breaks a rule."""
    for text in texts:
        detail = rule(text)
        if detail:
            yield Fault(reason, detail)
            return


def _is_echo(example: ftp.Example) -> bool:
    if len(example.messages) < 2 or example.label is False:
        return False
    question, answer = example.messages[-2].content, example.messages[-1].content
    # Lengths first: texts of very different length are never equal, and most are.
    if not 0.5 < (len(question) + 1) / (len(answer) + 1) < 2 or len(words(answer)) < ECHO_WORDS:
        return False
    return rules.normalised(question) == rules.normalised(answer)


class _Answers:
    """Finds rows with the same answer, by two hashes per row."""

    def __init__(self) -> None:
        self.answers, self.pairs = array("Q"), array("Q")

    def add(self, example: ftp.Example) -> None:
        answer = rules.normalised(example.reference)
        counts = bool(example.messages) and len(words(answer)) >= COMPARED_WORDS
        prompt = "\n".join(rules.normalised(message.content) for message in example.prompt) if counts else ""
        self.answers.append(_hash(answer) if counts else 0)
        self.pairs.append(_hash(f"{answer}\0{prompt}") if counts else 0)

    def beyond(self, limit: int) -> dict[int, int]:
        """Yield rows whose answer was already given to `limit` other prompts, each with the number of its prompts."""
        import numpy as np

        answers, pairs = np.array(self.answers, np.uint64), np.array(self.pairs, np.uint64)
        _, first = np.unique(pairs, return_index=True)  # a prompt that occurs twice counts once
        said, prompts = np.unique(answers[first], return_counts=True)
        often = {int(answer): int(n) for answer, n in zip(said, prompts, strict=True) if n > limit and answer}
        seen: dict[int, set[int]] = {answer: set() for answer in often}
        over = {}
        for at in np.flatnonzero(np.isin(answers, list(often))).tolist() if often else ():
            before = seen[self.answers[at]]
            if len(before) < limit:
                before.add(self.pairs[at])
            elif self.pairs[at] not in before:
                over[at] = often[self.answers[at]]
        return over


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1
