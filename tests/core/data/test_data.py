"""Files to rows, rows to examples on disk, the ledger, and the split into training and validation."""

import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import Lines, Pairs

from ftp.data.examples import read_examples, write_examples
from ftp.data.files import files_of, rows_of
from ftp.data.ledger import Ledger
from ftp.errors import DataError
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus, examples_of
from ftp.types import Example, Message

ROWS = [
    {"instruction": "What is “it”?", "response": "A, b\tand “c”"},
    {"instruction": "two\nlines", "response": "größe 😀"},
    {"instruction": 'a "quote"', "response": "\\n is no line end"},
]


def jsonl(lines="\n", start=""):
    return (start + "".join(json.dumps(row, ensure_ascii=False) + lines for row in ROWS)).encode()


def table(delimiter, lines="\n", start=""):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=lines)
    writer.writerow(ROWS[0])
    writer.writerows(row.values() for row in ROWS)
    return (start + text.getvalue()).encode()


def parquet():
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file)
    return file.getvalue()


BOM = "\ufeff"
# file name, bytes, the lines on which the three rows start, or the numbers of the rows
FILES = {
    "JSON Lines": ("a.jsonl", jsonl(), [1, 2, 3]),
    "JSON Lines by another name": ("a.ndjson", jsonl(), [1, 2, 3]),
    "JSON Lines with Windows line ends": ("a.jsonl", jsonl("\r\n"), [1, 2, 3]),
    "JSON Lines with a byte order mark": ("a.jsonl", jsonl(start=BOM), [1, 2, 3]),
    "JSON Lines with empty lines": ("a.jsonl", jsonl("\n\n \t\r\n", start="\n"), [2, 5, 8]),
    "JSON Lines without a last line end": ("a.jsonl", jsonl().rstrip(b"\n"), [1, 2, 3]),
    "JSON Lines in upper case": ("A.JSONL", jsonl(), [1, 2, 3]),
    "JSON in one line": ("a.json", json.dumps(ROWS).encode(), [1, 2, 3]),
    "JSON over many lines": ("a.json", json.dumps(ROWS, indent=1).encode(), [1, 2, 3]),
    "JSON with Windows line ends": ("a.json", json.dumps(ROWS, indent=1).replace("\n", "\r\n").encode(), [1, 2, 3]),
    "JSON with a byte order mark": ("a.json", (BOM + json.dumps(ROWS)).encode(), [1, 2, 3]),
    "CSV": ("a.csv", table(","), [2, 3, 5]),
    "CSV with a byte order mark": ("a.csv", table(",", start=BOM), [2, 3, 5]),
    "CSV with Windows line ends": ("a.csv", table(",", "\r\n"), [2, 3, 5]),
    "CSV with empty lines": ("a.csv", table(",", "\n\n", start="\n"), [4, 6, 9]),
    "TSV": ("a.tsv", table("\t"), [2, 3, 5]),
    "Parquet": ("a.parquet", parquet(), [1, 2, 3]),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("name", "content", "lines"), FILES.values(), ids=list(FILES))
def test_every_type_of_file_gives_the_same_rows(tmp_path, name, content, lines, zipped):
    file = tmp_path / (f"{name}.gz" if zipped else name)
    file.write_bytes(gzip.compress(content) if zipped else content)
    rows = list(rows_of(file))
    assert [row.values for row in rows] == ROWS
    assert [row.line for row in rows] == lines
    assert not any(row.problem for row in rows)


def test_nested_columns_of_parquet_are_lists_of_objects(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet")
    assert (row.line, row.values) == (1, {"messages": turns})


def test_a_separator_as_an_escape_is_fine(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(rb'{"text": "a\u2028b"}')
    (row,) = rows_of(tmp_path / "a.jsonl")
    assert row.values == {"text": "a\u2028b"}


def test_form_feeds_and_next_lines_do_not_end_a_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\u0085b"}\n{"text": "c"}\n', encoding="utf-8")
    assert [row.values["text"] for row in rows_of(tmp_path / "a.jsonl")] == ["a\u0085b", "c"]


def test_directories_and_globs_are_read_in_order_of_name(tmp_path):
    for name in ("b.jsonl", "a.json", "sub/c.csv.gz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(path):
        return [str(file.relative_to(tmp_path)) for file in files_of(str(path))]

    assert names(tmp_path) == ["a.json", "b.jsonl", "sub/c.csv.gz"]
    assert names(tmp_path / "*.json*") == ["a.json", "b.jsonl"]
    assert names(tmp_path / "**" / "*.gz") == ["sub/c.csv.gz"]
    assert names(tmp_path / "b.jsonl") == ["b.jsonl"]
    (tmp_path / "x[1].jsonl").write_bytes(b"")
    assert names(tmp_path / "x[1].jsonl") == ["x[1].jsonl"]  # a name before it is a glob


# --- examples on disk ----------------------------------------------------------------------------------------------


def conversation(index):
    messages = (Message("system", "s"), Message("user", f"question {index}"), Message("assistant", f"answer {index}"))
    return Example(messages, "", f"f.jsonl:{index}", "f.jsonl", "replay" if index % 3 == 0 else "domain")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """More than two batches of them."""
    file = tmp_path_factory.mktemp("examples") / "e.arrow"
    return write_examples(file, map(conversation, range(2500)))


def test_examples_are_a_sequence(examples):
    assert len(examples) == 2500
    assert examples[0] == conversation(0)
    assert examples[-1] == conversation(2499)
    assert list(examples) == [conversation(index) for index in range(2500)]
    with pytest.raises(IndexError):
        examples[2500]


@pytest.mark.parametrize(
    "part",
    [slice(3, 7), slice(-3, None), slice(None, None, 7), slice(None, None, -1), slice(1100, 900, -3), slice(5, 5)],
)
def test_slices(examples, part):
    wanted = [conversation(index) for index in range(2500)[part]]
    assert list(examples[part]) == wanted
    assert examples[part].column("id") == [example.id for example in wanted]
    assert examples[part].column("role") == [example.role for example in wanted]


def test_take_chooses_and_orders(examples):
    chosen = examples.take([2400, 7, 7, 1001])
    assert list(chosen) == [conversation(index) for index in (2400, 7, 7, 1001)]
    assert chosen.take([3, 0]).column("id") == ["f.jsonl:1001", "f.jsonl:2400"]
    assert list(chosen[1:].take([1])) == [conversation(7)]
    assert list(examples.take([])) == []
    assert examples.take([]).column("id") == []


def test_a_shuffle_reads_every_example_once(examples):
    order = random.Random(0).sample(range(2500), 2500)
    assert [example.id for example in examples.take(order)] == [f"f.jsonl:{index}" for index in order]


def test_no_examples(tmp_path):
    nothing = write_examples(tmp_path / "e.arrow", [])
    assert len(nothing) == 0
    assert list(nothing) == []
    assert nothing.column("id") == []


def test_examples_stay_on_disk(tmp_path):
    write_examples(tmp_path / "e.arrow", (Example(text="x" * 10_000, id=str(i)) for i in range(2000)))
    before = pa.total_allocated_bytes()
    examples = read_examples(tmp_path / "e.arrow")
    assert pa.total_allocated_bytes() - before < 100_000  # of 20 million
    assert examples[1999].text == "x" * 10_000


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def breaks_off():
        yield conversation(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_examples(tmp_path / "e.arrow", breaks_off())
    assert not (tmp_path / "e.arrow").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6), ascii=st.booleans())
def test_any_text_survives_json_lines_and_arrow(tmp_path, texts, ascii):
    def line(text):
        found = json.dumps({"text": text}, ensure_ascii=ascii)
        return found.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

    (tmp_path / "a.jsonl").write_bytes("".join(line(text) + "\n" for text in texts).encode())
    source = Source(path=str(tmp_path / "a.jsonl"), format=Lines())
    found = [example for _, _, example in examples_of(source)]
    assert [example.text for example in found] == texts
    assert [example.text for example in write_examples(tmp_path / "a.arrow", found)] == texts


# --- the ledger ----------------------------------------------------------------------------------------------------


def test_the_ledger_adds_up_and_reads_back(tmp_path):
    ledger = Ledger()
    for line in range(1, 7):
        ledger.add("a", line, "train", "domain")
    ledger.drop("a:1", by="dedupe", reason="same as another row")
    ledger.drop("a:2", by="dedupe", reason="same as another row")
    ledger.truncate("a:3", by="sft", reason="cut to 8 tokens")
    ledger.move("a:4", "validation")
    for line in (3, 4, 5, 6):
        ledger.count_tokens(f"a:{line}", 10, line, lost=5 if line == 3 else 0)

    def total(split, fate, by, reason, rows, tokens, trained, lost=0):
        return {"split": split, "role": "domain", "fate": fate, "by": by, "reason": reason, "rows": rows,
                "tokens": tokens, "trained_tokens": trained, "lost_tokens": lost}  # fmt: skip

    wanted = [
        total("train", "dropped", "dedupe", "same as another row", 2, 0, 0),
        total("train", "kept", "", "", 2, 20, 11),
        total("train", "truncated", "sft", "cut to 8 tokens", 1, 10, 3, 5),
        total("validation", "kept", "", "", 1, 10, 4),
    ]
    assert ledger.totals() == wanted
    ledger.write(tmp_path / "ledger.parquet")
    again = Ledger.read(tmp_path / "ledger.parquet")
    assert again.totals() == wanted
    assert len(again) == len(ledger) == 6
    again.drop("a:5", by="quality", reason="short")
    assert sum(group["rows"] for group in again.totals()) == 6


def test_an_empty_ledger_reads_back(tmp_path):
    Ledger().write(tmp_path / "ledger.parquet")
    assert Ledger.read(tmp_path / "ledger.parquet").totals() == []


def test_a_row_is_entered_once_and_dropped_once():
    ledger = Ledger()
    ledger.add("a", 1, "train", "domain")
    with pytest.raises(DataError, match="a:1: this row is read twice; name each file once"):
        ledger.add("a", 1, "eval:held", "domain")
    ledger.drop("a:1", by="dedupe", reason="twin")
    with pytest.raises(ValueError, match="a:1 was dropped already, by dedupe: twin"):
        ledger.truncate("a:1", by="sft", reason="long")


# --- the data stage ------------------------------------------------------------------------------------------------


def write_rows(file, count, word="row"):
    file.write_text("".join(json.dumps({"instruction": f"{word} {n}", "response": "x"}) + "\n" for n in range(count)))


@pytest.fixture
def build(tmp_path):
    """Build a corpus of 50 domain rows and 20 for replay."""
    write_rows(tmp_path / "domain.jsonl", 50)
    (tmp_path / "more").mkdir()
    write_rows(tmp_path / "more" / "general.jsonl", 20)

    def build(validation=0.1, seed=1, **more):
        train = [
            Source(path=str(tmp_path / "domain.jsonl"), format=Pairs()),
            Source(path=str(tmp_path / "more" / "general.jsonl"), format=Pairs(), role="replay"),
        ]
        options = Data(**{"train": train, "validation": validation, **more})
        return build_corpus(options, tmp_path / "data", tmp_path, seed)

    return build


def test_ids_name_file_and_line_beside_the_recipe(build):
    corpus, _ = build(validation=0)
    ids = corpus.train.column("id")
    assert ids[:2] == ["domain.jsonl:1", "domain.jsonl:2"]
    assert ids[-1] == "more/general.jsonl:20"
    assert len(set(ids)) == 70
    assert set(corpus.train.column("source")) == {"domain.jsonl", "more/general.jsonl"}


def test_validation_is_carved_out_of_the_domain_rows(build):
    corpus, ledger = build()
    carved, rest = corpus.validation.column("id"), corpus.train.column("id")
    assert len(carved) == 5
    assert set(corpus.validation.column("role")) == {"domain"}
    assert not set(carved) & set(rest)
    assert len({*carved, *rest}) == 70
    by_split = {(total["split"], total["role"]): total["rows"] for total in ledger.totals()}
    assert by_split == {("train", "domain"): 45, ("train", "replay"): 20, ("validation", "domain"): 5}


def test_the_seed_decides_which(build):
    first, again, other = (build(seed=seed)[0].validation.column("id") for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("share", "rows"), [(0, 0), (0.001, 1), (0.1, 5), (0.5, 25), (0.999, 49)])
def test_one_row_at_least_goes_and_one_stays(build, share, rows):
    corpus, _ = build(validation=share)
    assert len(corpus.validation) == rows
    assert corpus.train.column("role").count("domain") == 50 - rows
    assert corpus.validation.column("id") == [example.id for example in corpus.validation]


def test_a_single_row_is_trained_on(build, tmp_path):
    write_rows(tmp_path / "one.jsonl", 1)
    corpus, _ = build(train=[Source(path=str(tmp_path / "one.jsonl"), format=Pairs())])
    assert (len(corpus.train), len(corpus.validation)) == (1, 0)


def test_a_source_of_its_own_is_watched(build, tmp_path):
    write_rows(tmp_path / "watched.jsonl", 3)
    corpus, ledger = build(validation=Source(path=str(tmp_path / "watched.jsonl"), format=Pairs()))
    assert corpus.validation.column("id") == ["watched.jsonl:1", "watched.jsonl:2", "watched.jsonl:3"]
    assert len(corpus.train) == 70
    assert sum(total["rows"] for total in ledger.totals() if total["split"] == "validation") == 3


def test_one_file_read_twice_is_refused(build, tmp_path):
    twin = Source(path=str(tmp_path / "domain.jsonl"), format=Pairs())
    with pytest.raises(DataError, match=r"domain\.jsonl:1: this row is read twice; name each file once"):
        build(evals={"held": twin})


def test_progress_counts_rows(build, tmp_path):
    write_rows(tmp_path / "many.jsonl", 2300)
    seen = []
    options = Data(train=[Source(path=str(tmp_path / "many.jsonl"), format=Pairs())])
    build_corpus(options, tmp_path / "data", tmp_path, 1, progress=seen.append)
    assert sum(seen) == 2300
