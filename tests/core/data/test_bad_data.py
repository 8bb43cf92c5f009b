"""Data that can't be used, and what `ftp check` says of each: the file, the line, what is wrong, what to do."""

import gzip
import io
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import Pairs

from ftp.data.files import SUFFIXES, files_of, rows_of
from ftp.errors import DataError
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus

RECIPE = """\
name: bad-data
model: {{use: store, id: some/model}}
adapter: {{use: part}}
data:
  train:
    - {{path: {path!r}, format: {{use: {format}}}{more}}}
train: {{use: steps}}
"""
MEND = "Fix these rows, or set `on_bad_row: drop` on the source to drop bad rows and record them in the ledger."
KNOWN = f"{', '.join(SUFFIXES)}, each also as .gz or .zst"
GOOD = b'{"instruction": "a", "response": "b"}\n'
UTF16 = "text".encode("utf-16")


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def twin_parquet():
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), file)
    return file.getvalue()


# file name, formatter, bytes, what is said after "FILE:" ({dir} stands for the directory)
BAD_FILES = {
    # --- JSON Lines
    "broken JSON": ("a.jsonl", "pairs", GOOD + b'{"instruction" "a"}\n', "2: broken JSON: "
        "Expecting ':' delimiter at column 16"),
    "cut off": ("a.jsonl", "pairs", GOOD + GOOD[:20], "2: broken JSON: "
        "Expecting property name enclosed in double quotes at column 21"),
    "two objects in a line": ("a.jsonl", "pairs", b'{"instruction": "a"} {}', "1: broken JSON: "
        "something after the object, at column 21"),
    "single quotes": ("a.jsonl", "pairs", b"{'instruction': 'a'}", "1: broken JSON: "
        "Expecting property name enclosed in double quotes at column 2"),
    "a list in a line": ("a.jsonl", "pairs", b"[" + GOOD.strip() + b"]", "1: an object is needed, this is a list"),
    "null in a line": ("a.jsonl", "pairs", b"null", "1: an object is needed, this is null"),
    "a number in a line": ("a.jsonl", "pairs", b"\n\n7\n", "3: an object is needed, this is a number"),
    "a key twice": ("a.jsonl", "pairs", b'{"response": "a", "response": "b"}', "1: broken JSON: "
        "the key 'response' is given twice"),
    "NaN": ("a.jsonl", "pairs", b'{"instruction": NaN}', "1: broken JSON: NaN is not JSON"),
    "infinity": ("a.jsonl", "pairs", b'{"instruction": -Infinity}', "1: broken JSON: -Infinity is not JSON"),
    "nested deeply": ("a.jsonl", "pairs", b'{"a": ' + b"[" * 100_000, "1: broken JSON: nested too deeply"),
    "a number of 5000 digits": ("a.jsonl", "pairs", b'{"a": ' + b"9" * 5000 + b"}", "1: broken JSON: "
        "a number of more than 4300 digits"),
    "half a character": ("a.jsonl", "pairs", rb'{"instruction": "\ud83d\ude00", "response": "\ud83d"}', "1: "
        r"half a character: \ud83d without its other half"),
    "half a character in a key": ("a.jsonl", "pairs", rb'{"\uDE00": 1}', r"1: half a character: \ude00 "
        "without its other half"),
    "Latin-1": ("a.jsonl", "pairs", GOOD + '{"instruction": "größe'.encode() + b'\xfc"}', "2: "
        "not UTF-8: byte 0xfc at column 23"),
    "UTF-16": ("a.jsonl", "pairs", UTF16, "1: not UTF-8: byte 0xff at column 1"),
    "U+2028": ("a.jsonl", "pairs", '{"instruction": "a\u2028b", "response": "c"}'.encode(), "1: a raw U+2028 at "
        r"column 19: many tools end the line there; write it as \u2028 or as \n"),
    "U+2029": ("a.jsonl", "pairs", '{"instruction": "a\u2029b", "response": "c"}'.encode(), "1: a raw U+2029 at "
        r"column 19: many tools end the line there; write it as \u2029 or as \n"),
    "gzip with a bad row": ("a.jsonl.gz", "pairs", gzip.compress(GOOD + b"{\n"), "2: broken JSON: "
        "Expecting property name enclosed in double quotes at column 2"),
    # --- JSON
    "an object, not a list": ("a.json", "pairs", GOOD, "1: a .json file holds one list of objects; one object a "
        "line is JSON Lines: call the file .jsonl"),
    "a word": ("a.json", "pairs", b'"text"', "1: a .json file holds one list of objects"),
    "nothing": ("a.json", "pairs", b"", "1: a .json file holds one list of objects"),
    "a broken element": ("a.json", "pairs", b"[\n" + GOOD + b",\n{,\n]", "4: broken JSON: "
        "Expecting property name enclosed in double quotes at column 2"),
    "no comma": ("a.json", "pairs", b"[\n" + GOOD + GOOD + b"]",
        "3: broken JSON: a comma or the list's end is missing"),
    "a comma too many": ("a.json", "pairs", b"[\n" + GOOD + b",\n]", "4: broken JSON: Expecting value at column 1"),
    "no end": ("a.json", "pairs", b"[\n" + GOOD, "3: broken JSON: a comma or the list's end is missing"),
    "no end after a comma": ("a.json", "pairs", b"[" + GOOD + b",", "2: broken JSON: Expecting value at column 2"),
    "more after the list": ("a.json", "pairs", b"[" + GOOD + b"]\n[]", "3: broken JSON: something after the list"),
    "an element that is no object": ("a.json", "pairs", b"[\n" + GOOD + b",\n7]",
        "2: an object is needed, this is a number (line 4 of the file)"),
    "a key twice in a list": ("a.json", "pairs", b"[\n" + GOOD + b',\n{"a": 1,\n"a": 2}]', "4: broken JSON: "
        "the key 'a' is given twice"),
    "Latin-1 in a list": ("a.json", "pairs", b'[\n{"a": "\xfc"}]', "2: not UTF-8: byte 0xfc"),
    # --- CSV and TSV
    "cells missing": ("a.csv", "pairs", b"instruction,response\na,b\na\n", "3: 1 cell under 2 columns"),
    "cells too many": ("a.csv", "pairs", b'instruction,response\n"a\nb",b\na,b,c\n', "4: 3 cells under 2 columns"),
    "a column twice": ("a.csv", "pairs", b"\nresponse,response\na,b\n", "2: the column 'response' occurs twice"),
    "quote not closed": ("a.csv", "pairs", b'instruction,response\na,b\na,"b\nc\n',
        "3: broken CSV: unexpected end of data"),
    "quote within a cell": ("a.csv", "pairs", b'instruction,response\n"a"b,c\n',
        "2: broken CSV: ',' expected after '\"'"),
    "Latin-1 in a cell": ("a.csv", "pairs", "instruction,response\nü,ö\na,".encode() + b"\xfc\n",
        "3: not UTF-8: column 'response'"),
    "U+2028 in a cell": ("a.tsv", "pairs", "instruction\tresponse\na\tb\u2028c\n".encode(), "2: a raw U+2028 at "
        r"column 2: many tools end the line there; write it as \u2028 or as \n"),
}  # fmt: skip

# The same for files that can't be read as a whole
BAD_WHOLES = {
    "nothing in it": ("a.jsonl", b"", "{dir}/a.jsonl: no usable row"),
    "blank lines": ("a.jsonl", b"\n  \r\n", "{dir}/a.jsonl: no usable row"),
    "a list of nothing": ("a.json", b"[ ]", "{dir}/a.json: no usable row"),
    "a header alone": ("a.csv", b"instruction,response\n", "{dir}/a.csv: no usable row"),
    "Parquet without rows": ("a.parquet", parquet(text=pa.array([], pa.string())), "{dir}/a.parquet: no usable row"),
    "no gzip": ("a.jsonl.gz", GOOD, "{dir}/a.jsonl.gz: can't be read: Not a gzipped file (b'{{\"')"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(GOOD * 99)[:-9], "{dir}/a.jsonl.gz: can't be read: broken gzip: "
        "Compressed file ended before the end-of-stream marker was reached"),
    "gzip with a wrong byte": ("a.jsonl.gz", gzip.compress(GOOD)[:10] + b"\xff" * 20,
        "{dir}/a.jsonl.gz: can't be read: "
        "broken gzip: Error -3 while decompressing data: invalid block type"),
    "no Parquet": ("a.parquet", GOOD, "{dir}/a.parquet: not a readable Parquet file: Parquet magic bytes not found in "
        "footer. Either the file is corrupted or this is not a parquet file."),
    "a column twice in Parquet": ("a.parquet", twin_parquet(), "{dir}/a.parquet: the column 'text' occurs twice"),
    "unknown type": ("a.docx", b"PK", "{dir}/a.docx: not a data file; known are " + KNOWN),
    "no suffix": ("rows", GOOD, "{dir}/rows: not a data file; known are " + KNOWN),
    "no workbook": ("a.xlsx", b"PK", "{dir}/a.xlsx: not a readable Excel file: File is not a zip file"),
    "no Arrow": ("a.arrow", b"ARROW1 and no more", "{dir}/a.arrow: not a readable Arrow file: Not an Arrow file"),
    "no zstd": ("a.jsonl.zst", GOOD, "{dir}/a.jsonl.zst: can't be read: ZSTD decompress failed: Unknown frame "
        "descriptor"),
}  # fmt: skip


@pytest.fixture
def check(ftp, toys, tmp_path):
    def check(path, format="pairs", more="", *arguments):
        (tmp_path / "r.yaml").write_text(RECIPE.format(path=path, format=format, more=more))
        return ftp("check", "r.yaml", *arguments)

    return check


@pytest.mark.parametrize(("name", "format", "content", "said"), BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_bad_row_is_named_by_file_and_line(check, tmp_path, name, format, content, said):
    (tmp_path / name).write_bytes(content)
    outcome = check(name, format)
    problem, what_to_do = outcome.err.splitlines()
    assert problem.removeprefix(f"{tmp_path}/") == f"{name}:{said}"
    assert what_to_do == MEND
    assert outcome.code == 2


@pytest.mark.parametrize(("name", "content", "said"), BAD_WHOLES.values(), ids=list(BAD_WHOLES))
def test_a_file_that_is_not_one(check, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    outcome = check(name)
    assert outcome.err.splitlines()[0] == said.format(dir=tmp_path)
    assert outcome.code == 2


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none.jsonl", "{dir}/none.jsonl: no such file, and no file matches it as a glob"),
        ("none/*.jsonl", "{dir}/none/*.jsonl: no such file, and no file matches it as a glob"),
        ("empty", "{dir}/empty: no " + ", ".join(SUFFIXES) + " file in this directory"),
        ("mixed/*", "{dir}/mixed/notes.rst: not a data file; known are " + KNOWN),
    ],
)  # fmt: skip
def test_a_path_without_data(check, tmp_path, path, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "notes.rst").write_text("x")
    (tmp_path / "mixed" / "a.jsonl").write_bytes(GOOD)
    outcome = check(path)
    assert outcome.err.splitlines()[0] == said.format(dir=tmp_path)
    assert outcome.code == 2


def test_a_path_with_a_nul(tmp_path):
    with pytest.raises(DataError, match="can't hold a NUL"):
        files_of(f"{tmp_path}/a\0.jsonl")


def test_a_file_that_can_not_be_opened(tmp_path):
    with pytest.raises(DataError) as caught:
        list(rows_of(tmp_path))
    assert str(caught.value) == f"{tmp_path}: can't be read: Is a directory"


def test_many_bad_rows_are_counted(check, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" * 23)
    lines = check("a.jsonl").err.splitlines()
    assert lines[0] == "a.jsonl:1: instruction: missing column"
    assert lines[19:] == ["a.jsonl:20: instruction: missing column", "… and 3 more bad rows", MEND]


def test_dropped_rows_are_counted(check, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{}\n" + GOOD + b"[]\n")
    outcome = check("a.jsonl", more=", on_bad_row: drop")
    assert outcome.out.splitlines()[-1] == "train: a.jsonl: 1 rows, 2 bad rows will be dropped"
    assert outcome.code == 0


def test_to_drop_every_row_is_an_error(check, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\n{}\n[]\n")
    outcome = check("a.jsonl", more=", on_bad_row: drop")
    assert outcome.err.splitlines()[0] == (
        f"{tmp_path}/a.jsonl: no usable row; the first bad one is {tmp_path}/a.jsonl:2: instruction: missing column"
    )
    assert outcome.code == 2


def test_dropped_rows_are_in_the_ledger_with_the_reason(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 5 + b'{"instruction": "a"}\n{\n' + GOOD)
    (tmp_path / "b.csv").write_bytes(b"instruction,response\na,b\na\na,\n")
    (tmp_path / "held.jsonl").write_bytes(GOOD + b"7\n")

    def source(name):
        return Source(path=str(tmp_path / name), format=Pairs(), on_bad_row="drop")

    options = Data(train=[source("a.jsonl"), source("b.csv")], evals={"held": source("held.jsonl")}, validation=0.2)
    corpus, ledger = build_corpus(options, tmp_path / "data", tmp_path, seed=1)
    assert (len(corpus.train), len(corpus.validation), len(corpus.evals["held"])) == (6, 1, 1)
    ledger.write(tmp_path / "ledger.parquet")
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "ledger.parquet").to_pylist()}
    dropped = {id: (row["split"], row["by"], row["reason"]) for id, row in rows.items() if row["fate"] == "dropped"}
    json_error = "broken JSON: Expecting property name enclosed in double quotes at column 2"
    assert dropped == {
        "a.jsonl:6": ("train", "Pairs", "response: missing column"),
        "a.jsonl:7": ("train", "Pairs", json_error),
        "b.csv:3": ("train", "Pairs", "1 cell under 2 columns"),
        "b.csv:4": ("train", "Pairs", "response: empty"),
        "held.jsonl:2": ("eval:held", "Pairs", "an object is needed, this is a number"),
    }
    totals = ledger.totals()
    assert sum(total["rows"] for total in totals) == len(rows) == len(ledger) == 8 + 3 + 2
    assert sum(total["rows"] for total in totals if total["fate"] == "kept") == 8


def test_every_bad_row_of_every_source_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(GOOD + b"{\n")
    (tmp_path / "b.json").write_bytes(b"{}")
    (tmp_path / "held.jsonl").write_bytes(b"[]\n")

    def source(name):
        return Source(path=str(tmp_path / name), format=Pairs())

    options = Data(
        train=[source(name) for name in ("a.jsonl", "b.json", "none.jsonl")], evals={"held": source("held.jsonl")}
    )
    with pytest.raises(DataError) as caught:
        build_corpus(options, tmp_path / "data", tmp_path, seed=1)
    assert [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems] == [
        "a.jsonl:2: broken JSON: Expecting property name enclosed in double quotes at column 2",
        "b.json:1: a .json file holds one list of objects; one object a line is JSON Lines: call the file .jsonl",
        "none.jsonl: no such file, and no file matches it as a glob",
        "held.jsonl:1: an object is needed, this is a list",
        MEND,
    ]


TICKETS = """
import ftp

class Tickets(ftp.Formatter):
    '''Tickets.'''
    def format(self, row): return {}['subject'] if row['n'] == 1 else None

@ftp.hookimpl
def ftp_formatters(): return {'tickets': Tickets}
"""


def test_a_formatter_that_fails_is_named_with_the_row(check, ftp_install, tmp_path):
    ftp_install("acme-tickets", TICKETS)
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    assert check("a.jsonl", "tickets").err.splitlines()[:2] == [
        "a.jsonl:1: the formatter 'tickets' failed on this row: KeyError: 'subject'",
        "a.jsonl:2: the formatter 'tickets' returned NoneType, not an Example",
    ]


WITHOUT_PYARROW = """
import sys
from pathlib import Path
sys.modules["pyarrow"] = None
from ftp import errors
from ftp.data.files import rows_of
try:
    list(rows_of(Path("a.parquet")))
except errors.DataError as error:
    print(error)
"""


def test_parquet_without_pyarrow(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet(text=["a"]))
    done = subprocess.run([sys.executable, "-c", WITHOUT_PYARROW], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "a.parquet: Parquet files need pyarrow: pip install 'ftp-finetune[train]'\n", done.stderr
