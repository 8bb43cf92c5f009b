"""Slices of splits and of files: datasets' own rows, in hub data sets and in files, and leaks between them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Pairs

from ftp.data.ledger import Ledger
from ftp.data.slices import Slice, overlap, parse_slice
from ftp.errors import DataError
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus, examples_of

ROWS = st.one_of(st.none(), st.integers(-12, 12))
PERCENT = st.one_of(st.none(), st.integers(-100, 100).map(lambda value: f"{value}%"))
FORWARD = st.one_of(st.none(), st.integers(0, 100).map(lambda value: f"{value}%"))
ENDS = st.one_of(st.tuples(ROWS, ROWS), st.tuples(PERCENT, PERCENT))


def written(start, stop):
    return f"train[{'' if start is None else start}:{'' if stop is None else stop}]"


def chosen(slice, rows):
    start, stop = slice.bounds(lambda: rows)
    return list(range(rows))[start:stop]


@settings(deadline=None)
@given(st.one_of(st.tuples(ROWS, ROWS), st.tuples(FORWARD, FORWARD)), st.integers(1, 11))
def test_a_slice_has_the_rows_that_datasets_takes(ends, rows):
    start, stop = ends
    from datasets import ReadInstruction

    expected = []
    try:
        for part in ReadInstruction.from_spec(written(start, stop)).to_absolute({"train": rows}):
            expected = list(range(rows))[part.from_ : part.to]
    except (ValueError, AssertionError):  # datasets refuses ends beyond the last row and such that are in wrong order
        return
    assert chosen(parse_slice(written(start, stop)), rows) == expected


@settings(deadline=None)
@given(ENDS, ENDS)
def test_slices_that_share_a_row_overlap(first, second):
    one, other = parse_slice(written(*first)), parse_slice(written(*second))
    shares = any(set(chosen(one, rows)) & set(chosen(other, rows)) for rows in range(1, 40))
    assert overlap(one, other) or not shares


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("train[:90%]", "train[90%:]", False),
        ("train[:90%]", "train[-10%:]", False),
        ("train[:100]", "train[100:]", False),
        ("train[:-100]", "train[-100:]", False),
        ("train[:91%]", "train[90%:]", True),
        ("train[:100]", "train[10%:]", True),
        ("train", "train[:1]", True),
    ],
)
def test_overlap(one, other, may):
    assert overlap(parse_slice(one), parse_slice(other)) is may


@pytest.mark.parametrize(
    "text", ["train[1]", "train[:1%", "train[a:b]", "train+test", "train[:1%]+train[2%:3%]", "x[:101%]"]
)
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        parse_slice(text)
    with pytest.raises(ValueError, match="must be"):
        Source(hub="a/b", split=text, format=Pairs())


def test_the_name_alone_is_the_whole_split():
    assert parse_slice("test") == Slice("test") and parse_slice("test").is_whole


def rows_file(directory, name, rows):
    path = directory / name
    path.write_text("".join(json.dumps({"instruction": f"q{n}", "response": f"a{n}"}) + "\n" for n in rows))
    return str(path)


def test_a_slice_of_files_is_one_of_all_their_rows(tmp_path):
    rows_file(tmp_path, "a.jsonl", range(6))
    rows_file(tmp_path, "b.jsonl", range(6, 10))
    source = Source(path=str(tmp_path), split="[50%:80%]", format=Pairs())
    found = [(place.name, row.line, example.messages[-1].content) for place, row, example in examples_of(source)]
    assert found == [("a.jsonl", 6, "a5"), ("b.jsonl", 1, "a6"), ("b.jsonl", 2, "a7")]
    source = Source(path=str(tmp_path), split="train[:2]", format=Pairs())
    assert [row.line for _, row, _ in examples_of(source)] == [1, 2]


def test_the_ledger_counts_the_rows_of_the_slice(tmp_path):
    path = rows_file(tmp_path, "a.jsonl", range(10))
    corpus, ledger = build_corpus(
        Data(train=[Source(path=path, split="[-4:]", format=Pairs())], validation=0.0), tmp_path / "d", tmp_path, seed=1
    )
    assert isinstance(ledger, Ledger) and [e.id for e in corpus.train] == [f"a.jsonl:{n}" for n in (7, 8, 9, 10)]


def test_a_slice_of_a_hub_data_set_keeps_the_numbers_of_its_rows(ftp_hub, tmp_path):
    (tmp_path / "set").mkdir()
    rows_file(tmp_path / "set", "train.jsonl", range(10))
    ftp_hub.add("acme/rows", tmp_path / "set", kind="datasets")
    source = Source(hub="acme/rows", split="train[20%:40%]", format=Pairs())
    found = [(place, row.line, example.messages[-1].content) for place, row, example in examples_of(source)]
    assert found == [("acme/rows/train", 3, "a2"), ("acme/rows/train", 4, "a3")]


@pytest.mark.parametrize(("trained", "held"), [("[:80%]", "[80%:]"), ("[-8:]", "[:-8]")])
def test_one_file_is_trained_and_evaluated_on_in_parts(tmp_path, trained, held):
    path = rows_file(tmp_path, "a.jsonl", range(10))
    other = rows_file(tmp_path, "b.jsonl", range(20, 23))
    data = Data(
        train=[Source(path=path, split=trained, format=Pairs()), Source(path=other, format=Pairs())],
        validation=0.0,
        evals={"held": Source(path=path, split=held, format=Pairs())},
    )
    corpus, ledger = build_corpus(data, tmp_path / "d", tmp_path, seed=1)
    assert len(corpus.train) == 11 and len(corpus.evals["held"]) == 2
    for split, examples in (("train", corpus.train), ("eval:held", corpus.evals["held"])):
        for example in examples:
            row = ledger.row(example.id)
            assert (row["id"], row["split"]) == (example.id, split)
    ledger.write(tmp_path / "ledger.parquet")
    assert Ledger.read(tmp_path / "ledger.parquet").row("a.jsonl:10") == ledger.row("a.jsonl:10")


@pytest.mark.parametrize("slices", [("[:6]", "[5:]"), ("[5:]", "[:6]")])
def test_parts_that_share_a_row_are_refused_when_they_are_read(tmp_path, slices):
    path = rows_file(tmp_path, "a.jsonl", range(10))
    sources = [Source(path=path, split=split, format=Pairs()) for split in slices]
    with pytest.raises(DataError, match=r"a\.jsonl:6: this row is read twice"):
        build_corpus(Data(train=sources, validation=0.0), tmp_path / "d", tmp_path, seed=1)
