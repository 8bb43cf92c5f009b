"""Sources to rows, rows to examples, examples to the corpus of a run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftp.components import Curator
from ftp.data.examples import BATCH, Corpus, Examples, read_examples, write_examples
from ftp.data.files import Row, files_of, rows_of
from ftp.data.held_out import hold_out
from ftp.data.ledger import Ledger
from ftp.data.split import carve
from ftp.errors import DataError, RowError, did_you_mean
from ftp.files import first_few, first_line, shown
from ftp.guard import call
from ftp.lm.tokens import token_counter
from ftp.recipe.model import Data, Recipe, Source
from ftp.stages.own_evals import bring_evals
from ftp.types import Example

SHOWN_PROBLEMS = 20


# --- examples -------------------------------------------------------------------------------------------------------


def examples_of(source: Source) -> Iterator[tuple[Path | str, Row, Example | str]]:
    """Read a source; yield for each row its file or hub name, the row, and the example or the problem with it."""
    name = source.path or _hub_split(source)
    good, bad = 0, ""
    for place, row in _rows_of_source(source):
        found = _format(source, row)
        if isinstance(found, Example):
            good += 1
        else:
            bad = bad or f"; the first bad one is {place}:{row.line}: {row.told(found)}"
        yield place, row, found
    if not good and (source.on_bad_row == "drop" or not bad):
        raise DataError([f"{name}: no usable row{bad}"])


def _rows_of_source(source: Source) -> Iterator[tuple[Path | str, Row]]:
    """Yield the rows of a source, or of the slice that is meant, each with its file or hub name."""
    if source.slice.is_whole:
        return _all_rows(source)
    start, stop = source.slice.bounds(lambda: sum(1 for _ in _all_rows(source)))
    return itertools.islice(_all_rows(source), start, stop)


def _all_rows(source: Source) -> Iterator[tuple[Path | str, Row]]:
    if source.path is None:
        for row in _hub_rows(source):
            yield _hub_split(source), row
    else:
        for file in files_of(source.path):
            for row in rows_of(file, source.reading):
                yield file, row


def _hub_split(source: Source) -> str:
    return f"{source.hub}/{source.slice.name}"


def _hub_rows(source: Source) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_dataset(source.hub, split=source.slice.name, revision=source.revision)
    except Exception as error:  # the library raises many kinds; the user needs the name and the reason
        raise DataError([f"{source.hub}: can't be loaded from the hub: {first_line(error)}"]) from None
    for number, values in enumerate(found, 1):
        yield Row(number, values)


def _format(source: Source, row: Row) -> Example | str:
    if row.values is None:
        return row.problem
    try:
        example = source.format.format(row.values)
    except RowError as error:
        return str(error)
    except Exception as error:  # a plugin's own code may raise anything; the row and the plugin are named
        return f"the formatter '{source.format.used_as}' failed on this row: {type(error).__name__}: {error}"
    if not isinstance(example, Example):
        return f"the formatter '{source.format.used_as}' returned {type(example).__name__}, not an Example"
    if source.group is not None:
        if source.group not in row.values:
            return f"'{source.group}': missing column{did_you_mean(source.group, map(str, row.values))}"
        group = row.values[source.group]
        if isinstance(group, bool) or not isinstance(group, str | int):
            return f"'{source.group}': a group must be text or a whole number"
        example = replace(example, group=str(group))
    if example.kind == "text":
        return example if example.text.strip() else "empty text"
    if example.messages[-1].role != "assistant":
        return f"ends with the {example.messages[-1].role}'s turn; an answer by the assistant is needed"
    # An answer may be a call without a word.
    return example if example.reference.strip() or example.messages[-1].tool_calls else "empty answer"


# --- the whole data stage -------------------------------------------------------------------------------------------


def prepare_data(
    recipe: Recipe,
    place: Path,
    home: Path,
    progress: Callable[[int], None] = lambda rows: None,
    own_evals: Mapping[str, Sequence[Example]] | None = None,
) -> tuple[Corpus, Ledger]:
    """Run the data stage of a recipe: read the sources, hold out eval rows, split off validation, run the curators.

    Args:
        place: the directory for `read_prepared` to read: `train.arrow`, `validation.arrow`, `eval-NAME.arrow`.
        home: the recipe's directory; the ids of rows name files relative to it.
        progress: called with the number of rows read since the last call.
        own_evals: the eval sets that evaluators bring; None to get them from the evaluators.

    Raises:
        DataError: bad rows, each named by file and line, or nothing left to train on.
    """
    own = bring_evals(recipe.evaluate) if own_evals is None else own_evals
    counter = token_counter(recipe.model)
    corpus, ledger = build_corpus(recipe.data, place, home, recipe.seed, progress, counter, own)
    write_examples(place / "train.arrow", corpus.train)
    write_examples(place / "validation.arrow", corpus.validation)
    for name, examples in corpus.evals.items():
        write_examples(place / _eval_file(name), examples)
    return corpus, ledger


def notes_on_evals(ledger: Ledger, curators: Iterable[Curator]) -> list[str]:
    """Return what the curators that guard the eval sets found, in rows: a sentence of each that found something."""
    notes = []
    for curator in curators:
        found: dict[str, set[str]] = {}
        for finding in ledger.findings() if curator.guards_evals else ():
            if finding["by"] == curator.used_as:
                found.setdefault(finding["what"], set()).add(finding["id"])
        by_us = {id for ids in found.values() for id in ids if _dropped_by(ledger.row(id), curator.used_as)}
        dropped = Counter(ledger.row(id)["reason"].partition(":")[0] for id in by_us)
        noted = Counter({what: len(ids - by_us) for what, ids in found.items()})
        parts = [
            f"{do} {counts.total():,} rows that share text with eval rows ({_spelt(counts)})"
            for do, counts in (("dropped", dropped), ("kept and noted", +noted))
            if counts.total()
        ]
        if parts:
            notes.append(f"{curator.used_as} {' and '.join(parts)}.")
    return notes


def _dropped_by(row: Mapping[str, Any], curator: str) -> bool:
    return (row["fate"], row["by"]) == ("dropped", curator)


def _spelt(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {rows:,}" for what, rows in counts.most_common())


def read_prepared(place: Path, evals: Iterable[str]) -> Corpus:
    """Open the rows that `prepare_data` wrote, with the named eval sets."""
    sets = {name: read_examples(place / _eval_file(name)) for name in evals}
    return Corpus(read_examples(place / "train.arrow"), read_examples(place / "validation.arrow"), sets)


def build_corpus(
    data: Data,
    directory: Path,
    home: Path,
    seed: int,
    progress: Callable[[int], None] = lambda rows: None,
    count_tokens: Callable[[Sequence[str]], list[int]] | None = None,
    own_evals: Mapping[str, Sequence[Example]] | None = None,
) -> tuple[Corpus, Ledger]:
    """Read every source, hold out eval rows, split off validation, run the curators.

    Without training sources, read the eval sets with sources of their own alone.

    Args:
        directory: where the examples are written.
        home: the recipe's directory; the ids of rows name files relative to it.
        progress: called with the number of rows read since the last call.
        count_tokens: passed to the curators; see `Corpus`.
        own_evals: the eval sets that evaluators bring; the id of a row is its source and its number there.

    Raises:
        DataError: bad rows, each named by file and line, or nothing left to train on.
    """
    reader = _Reader(directory, home, progress)
    rows = reader.read(data.train, "train", "rows.arrow")
    validation = data.validation
    watched = reader.read([validation], "validation", "watched.arrow") if isinstance(validation, Source) else None
    evals = {name: reader.read([of], f"eval:{name}", _eval_file(name)) for name, of in data.eval_sources.items()}
    if reader.problems:
        raise DataError(summary(reader.problems))
    for name, examples in evals.items():
        if not len(examples):
            raise DataError([f"data.evals.{name}: has no usable row"])
    for name, own in (own_evals or {}).items():
        if name in data.evals:
            raise DataError(
                [f"data.evals.{name}: an evaluator brings an eval set of this name; give yours another name"]
            )
        evals[name] = reader.take_in(own, f"eval:{name}", _eval_file(name))
    for name, size in data.held_out.items() if data.train else ():
        rows, evals[name] = hold_out(rows, name, size, reader.ledger)
    evals = {name: evals[name] for name in (*data.evals, *evals) if name in evals}  # in the order of the recipe
    if watched is None:
        assert not isinstance(validation, Source)
        rows, watched = carve(rows, validation or 0, seed, reader.ledger)
    reader.ledger.step("reading")
    corpus = _curated(Corpus(rows, watched, evals, count_tokens), data.curate, reader.ledger)
    if data.train and not len(corpus.train):
        raise DataError(["data.train: no row is left to train on"])
    return corpus, reader.ledger


def _eval_file(name: str) -> str:
    return f"eval-{name}.arrow"


class _Reader:
    """Reads rows into Arrow files in a directory, records each in a ledger, and collects the problems with rows.

    Args:
        directory: where the examples are written.
        home: the ids of rows name files relative to it.
        progress: called with the number of rows read since the last call.
    """

    def __init__(self, directory: Path, home: Path, progress: Callable[[int], None]) -> None:
        self.directory, self.home, self.progress = directory, home, progress
        self.ledger = Ledger()
        self.problems: list[str] = []

    def read(self, sources: Iterable[Source], split: str, file: str) -> Examples:
        """Read the rows of sources into a file."""
        return write_examples(self.directory / file, self._rows(sources, split))

    def take_in(self, examples: Iterable[Example], split: str, file: str) -> Examples:
        """Write the examples that an evaluator brings to a file."""
        return write_examples(self.directory / file, self._with_ids(examples, split))

    def _rows(self, sources: Iterable[Source], split: str) -> Iterator[Example]:
        for source in sources:
            try:
                yield from self._rows_of(source, split)
            except DataError as error:  # a file that can't be read at all; continue, to report all of them together
                self.problems.extend(error.problems)

    def _rows_of(self, source: Source, split: str) -> Iterator[Example]:
        number = 0
        names: dict[Path | str, str] = {}
        origin = source.name or shown(Path(source.path) if source.path else str(source.hub), self.home)
        for number, (place, row, found) in enumerate(examples_of(source), 1):
            if number % BATCH == 0:
                self.progress(BATCH)
            name = names.get(place) or names.setdefault(place, shown(place, self.home))
            if isinstance(found, Example):
                id = self.ledger.add(name, row.line, split, source.role)
                yield replace(
                    found, id=id, source=name, role=source.role, origin=origin,
                    control_tokens=source.control_tokens, weight=source.weight,
                )  # fmt: skip
            elif source.on_bad_row == "drop":
                id = self.ledger.add(name, row.line, split, source.role)
                self.ledger.drop(id, by=source.format.used_as, reason=found)
            else:
                self.problems.append(f"{shown(place, Path.cwd())}:{row.line}: {row.told(found)}")
        self.progress(number % BATCH)

    def _with_ids(self, examples: Iterable[Example], split: str) -> Iterator[Example]:
        for number, example in enumerate(examples, 1):
            source = shown(Path(example.source), self.home)
            yield replace(example, id=self.ledger.add(source, number, split, example.role), source=source)


def _curated(corpus: Corpus, curators: Iterable[Curator], ledger: Ledger) -> Corpus:
    """Run the curators one after the other."""
    for curator in curators:
        corpus = call(Corpus, curator.curate, corpus, ledger)
        _check_recorded(curator, corpus, ledger)
        ledger.step(curator.used_as)
    return corpus


def _check_recorded(curator: Curator, corpus: Corpus, ledger: Ledger) -> None:
    """Check that the ledger lists exactly the rows of the corpus as kept, after a curator."""
    for split, examples in (("train", corpus.train), ("validation", corpus.validation)):
        if len(examples) == ledger.count_kept(split):
            continue
        ids, kept = set(examples.column("id")), ledger.kept(split)
        for rows, what in ((kept - ids, "removed without recording it"), (ids - kept, "kept and recorded as removed")):
            if rows:
                where = f"{curator.used_as}: {len(rows)} rows of {split}, {min(rows)} among them, were"
                raise DataError([f"{where} {what} in the ledger"])


def summary(problems: Sequence[str]) -> list[str]:
    """Return the first bad rows, how many more there are, and what to do."""
    return [
        *first_few(problems, SHOWN_PROBLEMS, "more bad rows"),
        "Fix these rows, or set `on_bad_row: drop` on the source to drop bad rows and record them in the ledger.",
    ]
