"""Paraphrased eval questions: the most similar training prompts by TF-IDF, and a judge that may confirm them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

import ftp
from ftp.data.examples import BATCH, Examples, decode
from ftp.data.shingles import hash_words, ngrams
from ftp.data.words import words
from ftp.options import Options
from ftp_plugins.curators.boilerplate import sample
from ftp_plugins.curators.entries import question_and_document
from ftp_plugins.curators.ngram_index import MIN_WORDS, N
from ftp_plugins.engines.client import CallFailed, Reply, Server, ServiceError

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


class Judge(Options):
    """A chat model behind an OpenAI-compatible server that decides whether one question is a rewording of another.

    It has to be a capable model: SmolLM2-135M denies every one of 100 reworded questions of GSM8K. The most that any
    judge can confirm at the default threshold is 1,247 of the 1,319.
    """

    model: str = Field(min_length=1)
    """The name of the model on its server."""
    base_url: str | None = None
    """Address of the server, such as http://localhost:8000/v1. Default: OpenAI's own."""
    api_key_env: str = Field(default="OPENAI_API_KEY", min_length=1)
    """The environment variable with the key. A server on this machine needs none."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Similarity from which the judge is asked about a pair."""
    calls: Annotated[int, Field(ge=1)] = 1000
    """Maximum number of pairs to ask about, the most similar ones first. The others are recorded as not confirmed."""
    timeout: Annotated[float, Field(gt=0)] = 60
    """Seconds to wait for an answer."""

    @property
    def _server(self) -> Server:
        return Server(self.model, self.base_url, self.api_key_env, self.timeout, max_retries=3)

    def problems(self) -> list[str]:
        """Return what is missing on this machine."""
        return [f"judge: {problem}" for problem in self._server.problems()]

    def same(self, first: str, second: str) -> tuple[bool | None, str]:
        """Ask about one pair; return the verdict (None if the answer can't be read) and the answer.

        Raises:
            DataError: the judge can't be asked.
        """
        prompt = PROMPT.format(first=first.strip(), second=second.strip())
        try:
            answer = asyncio.run(self._ask(prompt)).text
        except (ServiceError, CallFailed) as error:
            at = f"{self.model} at {self._server.address}"
            raise ftp.DataError([f"judge: {at} can't be asked: {error}; fix it or remove `judge`"]) from None
        return verdict(answer), answer

    async def _ask(self, prompt: str) -> Reply:
        async with self._server.connect() as connection:
            return await connection.ask([{"role": "user", "content": prompt}], {"temperature": 0, "max_tokens": 256})


def verdict(answer: str) -> bool | None:
    """Return the last yes or no in an answer."""
    found = re.findall(r"\b(yes|no)\b", answer.casefold())
    return found[-1] == "yes" if found else None
