"""Texts to keep out of training as hashed word n-grams: built, written and read.

One way for the eval sets of a recipe, for `against:` files, and for the index files that an organisation ships: a file
holds hashes, names of files and line numbers, and no text.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ftp
from ftp.data.files import files_of
from ftp.data.shingles import hash_words, ngrams
from ftp.files import first_line, new_file
from ftp_plugins.curators.entries import KINDS, Entry, entries_of_file

FORMAT = 2
"""Of index files; raised when an older reader would misread them."""
SUFFIX = ".ftpindex"
N = 4
"""Words in an n-gram."""
MIN_WORDS = 8
"""A field with fewer counted words is compared as a whole only."""
MIN_QUESTION = 3
"""Equal prompts of fewer words than this say nothing."""

_ARRAYS = {
    "row_source": "int32",
    "row_line": "int64",
    "question_row": "int32",
    "questions": "uint64",
    "whole_row": "int32",
    "wholes": "uint64",
    "answer_row": "int32",
    "answers": "uint64",
    "field_row": "int32",
    "field_kind": "uint8",
    "field_words": "int32",
    "grams": "uint64",
}


@dataclass(frozen=True)
class Index:
    """Rows as hashes: one eval set or file."""

    name: str
    sources: tuple[str, ...]
    row_source: Any
    """int32 [rows], into sources."""
    row_line: Any
    """int64 [rows]"""
    question_row: Any
    """int32 [questions]"""
    questions: Any
    """uint64 [questions], hashes of whole prompts of at least MIN_QUESTION words."""
    whole_row: Any
    """int32 [wholes]"""
    wholes: Any
    """uint64 [wholes], hashes of a prompt together with its answer."""
    answer_row: Any
    """int32 [answers]"""
    answers: Any
    """uint64 [answers], hashes of whole answers of at least MIN_WORDS words."""
    field_row: Any
    """int32 [fields]; fields of fewer than MIN_WORDS words are not among them."""
    field_kind: Any
    """uint8 [fields], into KINDS."""
    field_words: Any
    """int32 [fields]"""
    grams: Any
    """uint64, the n-grams of every field in order: field_words - N + 1 of each."""

    def __len__(self) -> int:
        return len(self.row_line)

    def id(self, row: int) -> str:
        return f"{self.sources[self.row_source[row]]}:{self.row_line[row]}"

    @cached_property
    def gram_field(self) -> Any:
        import numpy as np

        return np.repeat(np.arange(len(self.field_words)), self.field_words - (N - 1))


# --- build, write, read ---------------------------------------------------------------------------------------------


def build(name: str, entries: Iterable[Entry]) -> Index:
    """Hash rows; every text is read once and not kept."""
    import itertools

    import numpy as np

    sources: dict[str, int] = {}
    parts: dict[str, list[Any]] = {array: [np.empty(0, of)] for array, of in _ARRAYS.items()}
    rows = iter(entries)
    first = 0
    while batch := list(itertools.islice(rows, 1000)):
        named = [entry.id.rpartition(":") for entry in batch]
        parts["row_source"].append([sources.setdefault(source, len(sources)) for source, _, _ in named])
        parts["row_line"].append([int(line) for _, _, line in named])
        _add_fields(parts, batch, first)
        _add_keys(parts, batch, first)
        first += len(batch)
    arrays = {array: np.concatenate(parts[array]).astype(of) for array, of in _ARRAYS.items()}
    return Index(name, tuple(sources), **arrays)


def _add_fields(parts: dict[str, list[Any]], batch: Sequence[Entry], first: int) -> None:
    import numpy as np

    fields = [(row, KINDS.index(kind), text) for row, entry in enumerate(batch, first) for kind, text in entry.fields]
    hashes, offsets = hash_words([text for _, _, text in fields])
    lengths = np.diff(offsets)
    long = lengths >= MIN_WORDS
    of_long = np.repeat(long, lengths)
    starts = np.concatenate([[0], np.cumsum(lengths[long])])
    parts["grams"].append(ngrams(hashes[of_long], starts, N)[0])
    parts["field_words"].append(lengths[long])
    parts["field_row"].append(np.array([row for row, _, _ in fields], np.int32)[long])
    parts["field_kind"].append(np.array([kind for _, kind, _ in fields], np.uint8)[long])


def _add_keys(parts: dict[str, list[Any]], batch: Sequence[Entry], first: int) -> None:
    import numpy as np

    questions = [(row, text) for row, entry in enumerate(batch, first) for text in entry.questions]
    hashes, offsets = hash_words([text for _, text in questions])
    enough = np.diff(offsets) >= MIN_QUESTION
    parts["questions"].append(question_keys(sequence_hashes(hashes, offsets))[enough])
    parts["question_row"].append(np.array([row for row, _ in questions], np.int32)[enough])

    wholes = [(row, *pair) for row, entry in enumerate(batch, first) for pair in entry.wholes]
    hashes, offsets = hash_words([text for _, *pair in wholes for text in pair])
    sequences = sequence_hashes(hashes, offsets)
    some = np.diff(offsets)[1::2] > 0
    parts["wholes"].append(whole_keys(sequences[::2], sequences[1::2])[some])
    parts["whole_row"].append(np.array([row for row, _, _ in wholes], np.int32)[some])

    answers = [(row, entry.answer) for row, entry in enumerate(batch, first)]
    hashes, offsets = hash_words([text for _, text in answers])
    enough = np.diff(offsets) >= MIN_WORDS
    parts["answers"].append(answer_keys(sequence_hashes(hashes, offsets))[enough])
    parts["answer_row"].append(np.array([row for row, _ in answers], np.int32)[enough])


def sequence_hashes(hashes: Any, offsets: Any) -> Any:
    """Return one hash of all the words of every text, in order: uint64 [texts]; 0 for a text without words."""
    import numpy as np

    lengths = np.diff(offsets)
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(max(lengths.max(initial=0), 1), 0x9E3779B97F4A7C15, np.uint64))
        sums = np.concatenate([[np.uint64(0)], np.cumsum(hashes * powers[within(offsets)], dtype=np.uint64)])
        return sums[offsets[1:]] - sums[offsets[:-1]]


def within(offsets: Any) -> Any:
    """Return the position of every word in its own text."""
    import numpy as np

    return np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))


def question_keys(questions: Any) -> Any:
    """Return the keys to look up for a prompt, distinct from those for a whole row."""
    import numpy as np

    with np.errstate(over="ignore"):
        return (questions ^ np.uint64(0x5851F42D4C957F2D)) * np.uint64(0xBF58476D1CE4E5B9)


def whole_keys(questions: Any, answers: Any) -> Any:
    """Return the keys to look up for a prompt together with its answer."""
    import numpy as np

    with np.errstate(over="ignore"):
        return (questions * np.uint64(0x94D049BB133111EB) + answers) * np.uint64(0xD6E8FEB86659FD93)


def answer_keys(answers: Any) -> Any:
    """Return what is looked up for an answer by itself."""
    import numpy as np

    with np.errstate(over="ignore"):
        return (answers ^ np.uint64(0xD1342543DE82EF95)) * np.uint64(0xAEF17502108EF2D9)


def write(index: Index, file: Path) -> None:
    """Write an index file, whole or not at all: a compressed NumPy archive with a JSON header."""
    import numpy as np

    header = {"format": FORMAT, "n": N, "name": index.name, "sources": index.sources}
    with new_file(file) as aside, aside.open("wb") as stream:
        np.savez_compressed(
            stream,
            allow_pickle=False,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            **{array: getattr(index, array) for array in _ARRAYS},
        )


def read(file: Path) -> Index:
    """Read an index file.

    Raises:
        DataError: it is not there, not an index, damaged, or of another format.
    """
    import numpy as np

    again = "make it again: ftp data index FILE… -o " + file.name
    try:
        # Opened here: NumPy leaves a file open that it can't read.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(bytes(archive["header"]))
            if (header["format"], header["n"]) != (FORMAT, N):
                of = f"format {header['format']} with {header['n']}-grams"
                raise ftp.DataError([f"{file}: an index of {of}, and this version reads {FORMAT} with {N}; {again}"])
            arrays = {array: archive[array] for array in _ARRAYS}
        index = Index(str(header["name"]), tuple(map(str, header["sources"])), **arrays)
        _check(index)
    except FileNotFoundError:
        raise ftp.DataError([f"{file}: no such index file"]) from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ftp.DataError([f"{file}: not a readable index file ({first_line(error)}); {again}"]) from None
    return index


def _check(index: Index) -> None:
    """Raise ValueError where the arrays don't fit each other."""
    for array, of in _ARRAYS.items():
        found = getattr(index, array)
        if str(found.dtype) != of or found.ndim != 1:
            raise ValueError(f"'{array}' is not a list of {of}")
    for part, whole in (
        ((index.row_source,), len(index.sources)),
        ((index.question_row, index.whole_row, index.answer_row, index.field_row), len(index)),
        ((index.field_kind,), len(KINDS)),
    ):
        if any(len(of) and not 0 <= of.min() <= of.max() < whole for of in part):
            raise ValueError("it points outside itself")
    if len(index.field_words) and index.field_words.min() < MIN_WORDS:
        raise ValueError("a field is too short")
    fields = {len(index.field_row), len(index.field_kind), len(index.field_words)}
    grams = int((index.field_words.astype("int64") - (N - 1)).sum())
    if (
        len(fields) > 1
        or grams != len(index.grams)
        or len(index.row_source) != len(index)
        or len(index.questions) != len(index.question_row)
        or len(index.wholes) != len(index.whole_row)
        or len(index.answers) != len(index.answer_row)
    ):
        raise ValueError("its parts don't fit each other")


def index_files(paths: Sequence[str], out: Path) -> Index:
    """Index data files, directories or globs into one index file, in which files are identified by name alone.

    Raises:
        DataError: a file or a row can't be read, two files have the same name, or `out` lacks the suffix.
    """
    if out.suffix != SUFFIX:
        raise ftp.DataError([f"{out}: an index file is called {out.stem}{SUFFIX}"])
    files = [file for path in paths for file in files_of(path)]
    twins = sorted({str(file) for file in files if sum(other.name == file.name for other in files) > 1})
    if twins:
        raise ftp.DataError([f"{file}: another file has the same name; rows are known by it" for file in twins])
    index = build(out.stem, (entry for file in files for entry in entries_of_file(file, file.name)))
    write(index, out)
    return index
