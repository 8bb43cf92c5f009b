"""Paraphrased eval questions: the most similar training prompts by TF-IDF, and a judge that may confirm them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import ftp
from ftp.data.examples import BATCH, Examples, decode
from ftp.data.shingles import hash_words, ngrams
from ftp.data.words import words
from ftp.guard import call
from ftp_plugins.curators.boilerplate import sample
from ftp_plugins.curators.entries import question_and_document
from ftp_plugins.curators.ngram_index import MIN_WORDS, N

COLUMNS = 2**20
NUMBERS = 3
"""How much more a number weighs than another word: a reworded question keeps its numbers, a new one has others."""
NEAREST = 20
"""Training rows noted as paraphrases of one eval row."""
USUAL = 0.8
"""A word in more than this share of the prompts is ignored."""


class _Columns(dict[str, int]):
    """The column of each word seen so far: odd columns are numbers."""

    def __missing__(self, word: str) -> int:
        import zlib

        if len(self) >= COLUMNS:
            self.clear()
        spread = zlib.crc32(word.encode("utf-8", "surrogatepass")) * 0x9E3779B1 >> 7
        column = self[word] = (spread % (COLUMNS // 2)) * 2 + word.isdecimal()
        return column


_columns = _Columns()


class Retriever:
    """Finds texts that paraphrase one of some eval prompts, by the cosine similarity of their weighted words.

    TF-IDF with sublinear counts (Salton & Buckley 1988). Retrieval followed by a judge on the candidates is the method
    of Yang et al. 2023, arXiv:2311.04850 (llm-decontaminator).
    """

    def __init__(self, prompts: Sequence[str], sample: Sequence[str]) -> None:
        """Prepare to find texts similar to some prompts.

        Args:
            prompts: of the eval rows; an empty one is similar to nothing.
            sample: some of the training prompts, to learn which words are usual.
        """
        import numpy as np
        from scipy.sparse import vstack
        from sklearn.feature_extraction.text import TfidfTransformer

        counts, sampled = _counts(prompts), _counts(sample)
        self._weights = TfidfTransformer(sublinear_tf=True, norm=None).fit(vstack([counts, sampled]))
        self._saying = np.ones(COLUMNS, np.float32)
        self._saying[1::2] = NUMBERS
        for rows in (counts, sampled):
            having = np.bincount(rows.indices, minlength=COLUMNS)
            self._saying[having > max(3, USUAL * rows.shape[0])] = 0
        self._prompts = self._vectors(counts).T.tocsr()

    def _vectors(self, counts: Any) -> Any:
        from sklearn.preprocessing import normalize

        weighted = self._weights.transform(counts)
        weighted.data *= self._saying[weighted.indices]
        return normalize(weighted, copy=False)

    def similar(self, texts: Sequence[str], threshold: float) -> tuple[Any, Any, Any]:
        """Return which text is how similar to which prompt.

        Returns:
            Texts int64, prompts int64 and cosines float32, of all pairs at `threshold` or above.
        """
        found = (self._vectors(_counts(texts)) @ self._prompts).tocoo()
        near = found.data >= threshold
        return found.row[near].astype("int64"), found.col[near].astype("int64"), found.data[near]

    def cosines(self, left: Sequence[str], right: Sequence[str]) -> Any:
        """Return how similar the texts of each pair are, float32 [pairs]."""
        import numpy as np

        both = self._vectors(_counts(left)).multiply(self._vectors(_counts(right)))
        return np.asarray(both.sum(axis=1), np.float32).ravel()


def nearest(train: Examples, prompts: Sequence[str], usual: Any, threshold: float) -> tuple[Any, Any, Any]:
    """Return the training rows most like each prompt, at most NEAREST of each: rows, prompts and cosines.

    Two questions of one template are alike by the template alone. So prompts of fewer than MIN_WORDS words outside of
    the n-grams that many rows have are left out, and what is outside has to be as similar as the whole is.

    Args:
        usual: hashes of the n-grams that many rows have.
    """
    import numpy as np

    telling = _telling(prompts, usual)
    asked = [prompt if len(words(rest)) >= MIN_WORDS else "" for prompt, rest in zip(prompts, telling, strict=True)]
    retriever = Retriever(asked, next(_questions(sample(train, BATCH))))
    rows, others, scores = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    for number, texts in enumerate(_questions(train)):
        row, other, score = retriever.similar(texts, threshold)
        if not len(row):
            continue
        which, of = np.unique(row, return_inverse=True)
        rests = _telling([texts[at] for at in which], usual)
        near = retriever.cosines([rests[at] for at in of], [telling[at] for at in other]) >= threshold
        row, other, score = row[near], other[near], score[near]
        rows, others = np.append(rows, row + number * BATCH), np.append(others, other)
        scores = np.append(scores, score)
        order = np.lexsort((rows, -scores, others))
        rows, others, scores = rows[order], others[order], scores[order]
        first = np.searchsorted(others, others, "left")
        keep = np.arange(len(others)) - first < NEAREST
        rows, others, scores = rows[keep], others[keep], scores[keep]
    return rows, others, scores


def question_of(example: ftp.Example) -> str:
    """Return what the user says, without the document that it is about; or the running text."""
    said = "\n".join(message.content for message in example.prompt if message.role == "user")
    if "\n" in said:
        question, document = question_and_document(example)
        said = question if document else said
    return said or example.text


def _questions(rows: Examples) -> Iterator[list[str]]:
    for table in rows.batches(("text", "messages")):
        yield [question_of(example) for example in decode(table)]


def _telling(texts: Sequence[str], usual: Any) -> list[str]:
    """Return the words of every text that are in no usual n-gram, with spaces between them."""
    import numpy as np

    hashes, offsets = hash_words(texts)
    grams, starts = ngrams(hashes, offsets, N)
    of = np.repeat(np.arange(len(texts)), np.diff(starts))
    begin = np.arange(len(grams)) - starts[of] + offsets[of]
    covered = np.zeros(len(hashes) + N + 1, np.int64)
    found = begin[np.isin(grams, usual)]
    np.add.at(covered, found, 1)
    np.add.at(covered, found + N, -1)
    telling = (np.cumsum(covered) == 0).tolist()
    return [
        " ".join(word for at, word in enumerate(words(text), int(start)) if telling[at])
        for text, start in zip(texts, offsets[:-1], strict=True)
    ]


def _counts(texts: Sequence[str]) -> Any:
    """Count how often each word occurs in each text: a sparse matrix, float32 [texts, COLUMNS]."""
    import numpy as np
    from scipy.sparse import csr_matrix

    flat: list[int] = []
    ends = np.zeros(len(texts) + 1, np.int64)
    for at, text in enumerate(texts, 1):
        flat.extend(map(_columns.__getitem__, words(text)))
        ends[at] = len(flat)
    matrix = csr_matrix((np.ones(len(flat), np.float32), np.array(flat, np.int32), ends), (len(texts), COLUMNS))
    matrix.sum_duplicates()
    return matrix


PROMPT = """\
Is the second question the first one reworded, so that the same answer is right for both?
Questions that only have the same subject, or other numbers, are not the same.

First question:
{first}

Second question:
{second}

Answer yes or no."""


def named_engine(options: Any) -> Any:
    """Return the options of a curator with the judge as FTP 0.1 had it turned into an engine.

    There `judge:` named no engine, and held the threshold and the number of calls too.
    """
    judge = options.get("judge") if isinstance(options, dict) else None
    if not isinstance(judge, dict) or "use" in judge:
        return options
    moved = {f"judge_{name}": judge[name] for name in ("threshold", "calls") if name in judge}
    engine = {name: value for name, value in judge.items() if name not in ("threshold", "calls")}
    return {**moved, **options, "judge": {"use": "openai", "timeout": 60, "max_retries": 3, **engine}}


def same(judge: ftp.Engine, first: str, second: str) -> tuple[bool | None, str]:
    """Ask an engine about one pair; return the verdict (None if the answer can't be read) and the answer.

    Raises:
        DataError: the engine can't be asked.
    """
    prompt = PROMPT.format(first=first.strip(), second=second.strip())
    example = ftp.Example((ftp.Message("user", prompt), ftp.Message("assistant", "")), id="paraphrase")
    options = judge.options.model_copy(update={"temperature": 0.0, "samples": 1})
    try:
        [answer] = call(Sequence, judge.answer, [example], options)
    except ftp.FtpError as error:
        raise ftp.DataError([f"judge: '{judge.used_as}' can't be asked: {error}; fix it or remove `judge`"]) from None
    return verdict(answer.text), answer.text


def verdict(answer: str) -> bool | None:
    """Return the last yes or no in an answer."""
    found = re.findall(r"\b(yes|no)\b", answer.casefold())
    return found[-1] == "yes" if found else None
