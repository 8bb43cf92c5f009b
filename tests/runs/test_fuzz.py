"""Random recipes, settings, data files and command lines: each ends well or with an error of ours, and soon.

Seeded, so that a bad end comes again. `FTP_FUZZ_SEED` and `FTP_FUZZ_INPUTS` try others: the slow test takes 8,000.
"""

import contextlib
import gzip
import io
import json
import os
import random
import sys
import time

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ftp import plugins, recipe
from ftp.cli import main
from ftp.data.files import ReadOptions, files_of, notes_on, rows_of
from ftp.errors import FtpError

SEED = int(os.environ.get("FTP_FUZZ_SEED", "0"))
INPUTS = int(os.environ.get("FTP_FUZZ_INPUTS", "8000"))
SECONDS = 10
"""For one input: it has to bear a busy machine, and to catch what takes minutes."""
LONGEST_MESSAGE = 20_000
SIGNS = """😀 ../.. / ~x ~ a.b * { } [ ] ' " : - ? &a *a !!python/name:os % # | > --- ... null true 1e309 -1 0 .nan
1e-4 10% 100% -5% 0x use path format train data evals lora sft instruct"""
WORDS = [
    *SIGNS.split(),
    *("", " ", "\0", "\x1b[2J\x1b]0;x\x07", "\u202e", "\ud800", "\n", "\t", '"\\U00110000"', "'\\ud83d'"),
    *("a" * 5000, "9" * 400, "a." * 1000 + "a", "[" * 900, "{a: " * 300),
]


@pytest.fixture(scope="module")
def installed():
    return plugins.load()


@contextlib.contextmanager
def ends_well(what):
    """Nothing but an error of ours comes out, in time, and with a message that can be read."""
    began = time.monotonic()
    try:
        yield
    except FtpError as error:
        assert len(str(error)) < LONGEST_MESSAGE, what
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} for {what!r:.2000}") from error
    assert time.monotonic() - began < SECONDS, what


def mutated(rng, text):
    """A text with some places of it replaced, taken out, doubled or filled with words."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.choice((0, 1, 5, 20)))
        new = rng.choice(WORDS) if rng.random() < 0.8 else text[rng.randrange(len(text) + 1) :][: rng.randint(1, 200)]
        text = text[:start] + new + text[end:]
    return text


def mutated_bytes(rng, raw):
    found = bytearray(raw)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(found) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(found):
            found[at] = rng.randrange(256)
        elif kind == 1:
            found[at:at] = rng.choice(WORDS).encode("utf-8", "surrogatepass")
        elif kind == 2:
            del found[at : at + rng.choice((1, 8, 100))]
        else:
            found[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 20)))
    return bytes(found)


def fuzz_recipes(rng, count, place, installed, write):
    good = write().read_text()
    for _ in range(count):
        text = mutated(rng, good)
        (place / "fuzzed.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        with ends_well(text):
            recipe.read(place / "fuzzed.yaml", installed)


def paths_in(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_in(item, (*path, key))


def fuzz_settings(rng, count, place, installed, write):
    file = write()
    paths = [".".join(map(str, path)) for path in paths_in(yaml.safe_load(file.read_text()))]
    for _ in range(count):
        path = rng.choice(paths) if rng.random() < 0.8 else mutated(rng, rng.choice(paths))
        value = rng.choice(WORDS) if rng.random() < 0.7 else mutated(rng, rng.choice(("{use: x}", "[a, b]", "1", "x")))
        setting = f"{path}={value}"
        with ends_well(setting):
            recipe.read(file, installed, [setting])


def good_files():
    rows = [{"instruction": f"wörd {n}, x", "response": "b;c\td" * n, "n": n, "l": [n], "t": None} for n in range(20)]
    flat = [{key: str(value) for key, value in row.items()} for row in rows]
    table = "\n".join([";".join(flat[0]), *(";".join(f'"{cell}"' for cell in row.values()) for row in flat)])
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    columns, parquet, arrow, workbook = pa.Table.from_pylist(rows), io.BytesIO(), io.BytesIO(), io.BytesIO()
    columns = columns.append_column("d", pa.array([2**40 * n for n in range(20)], pa.duration("s")))
    pq.write_table(columns, parquet)
    with pa.ipc.new_stream(arrow, columns.schema) as writer:
        writer.write_table(columns)
    book = openpyxl.Workbook()
    for row in (flat[0], *flat):
        book.active.append(list(row.values()))
    book.save(workbook)
    packed = io.BytesIO()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(lines)
        stream.flush()
        zstd = packed.getvalue()
    return {
        "a.jsonl": lines,
        "a.json": json.dumps(rows, indent=1).encode(),
        "a.csv": table.encode("cp1252"),
        "a.tsv": table.replace(";", "\t").encode(),
        "b.csv": table.encode("utf-16"),
        "a.parquet": parquet.getvalue(),
        "a.arrow": arrow.getvalue(),
        "a.xlsx": workbook.getvalue(),
        "a.md": table.encode(),
        "a.jsonl.gz": gzip.compress(lines),
        "a.jsonl.zst": zstd,
    }


def fuzz_files(rng, count, place):
    files = good_files()
    options = [ReadOptions(), ReadOptions(delimiter=","), ReadOptions(encoding="cp932"), ReadOptions(sample_by="line")]
    for number in range(count):
        name = list(files)[number % len(files)]
        raw = mutated_bytes(rng, files[name])
        (place / name).write_bytes(raw)
        how = rng.choice(options)
        with ends_well((name, how, raw)):
            notes_on(place / name, how)
            for row in rows_of(place / name, how):
                assert row.values is not None or row.problem


def fuzz_paths(rng, count, place):
    for _ in range(count):
        path = mutated(rng, f"{place}/a.jsonl")
        if not path.strip("/.~ *"):
            continue  # the whole disk
        with ends_well(path):
            files_of(path)


def fuzz_command_lines(rng, count, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    flags = ["-p", "--plugin", "--no-plugin", "--set", "--no-data", "--json", "-x", "--help", "--"]
    for _ in range(count):
        command = rng.choice((["check"], ["plugins"], ["plugins", "show"], ["schema", "-o"], ["report"], ["x"], []))
        rest = [rng.choice((*WORDS, *flags, "small.yaml", "recipe.yaml")) for _ in range(rng.randint(0, 3))]
        line = [word.replace("\0", "").encode("utf-8", "replace").decode() for word in (*command, *rest)]
        monkeypatch.setattr(sys, "argv", ["ftp", *line])
        began = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert ended.value.code in (0, None, 1, 2), line
        assert "Traceback" not in out + err, line
        assert not set(out + err) & set("\x1b\x07\u202e"), line
        assert len(err) < LONGEST_MESSAGE, line
        assert time.monotonic() - began < SECONDS, line


@pytest.fixture
def fuzz(tmp_path, ftp_recipe, installed, monkeypatch, capsys):
    def fuzz(seed, count):
        rng = random.Random(seed)
        fuzz_recipes(rng, count * 3 // 10, tmp_path, installed, ftp_recipe)
        fuzz_settings(rng, count * 2 // 10, tmp_path, installed, ftp_recipe)
        fuzz_files(rng, count * 35 // 100, tmp_path)
        fuzz_paths(rng, count // 10, tmp_path)
        fuzz_command_lines(rng, count // 20, tmp_path, monkeypatch, capsys)

    return fuzz


@pytest.mark.parametrize(
    ("id", "said"), [("a" * 5000, "4096 characters at most"), ("~nobody-here/x", "home directory")]
)
def test_a_model_path_that_can_not_be(ftp, ftp_recipe, id, said):
    outcome = ftp("check", "--no-data", str(ftp_recipe(model={"id": id})))
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err) < 1200


def test_hundreds_of_inputs_end_well(fuzz):
    fuzz(SEED, 1000)


@pytest.mark.slow
def test_thousands_of_inputs_end_well(fuzz):
    fuzz(SEED + 1, INPUTS)
