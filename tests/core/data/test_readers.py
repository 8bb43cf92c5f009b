"""The files that people have: tables with any delimiter and encoding, workbooks, texts, Arrow, saved data sets."""

import datetime
import io
import json

import datasets
import openpyxl
import pyarrow as pa
import pytest
from pyarrow import feather

from ftp.data.files import ReadOptions, files_of, notes_on, rows_of
from ftp.errors import DataError

# ruff: noqa: RUF001
TABLES = {
    "German": ("Frage;Antwort\nWie groß ist die Prüfung?;Sie ist, für Schüler, übergroß – „sehr“.\n", "cp1252"),
    "French": ("Question;Réponse\nOù est l’école ?;À côté de la mairie, très près\n", "cp1252"),
    "Swedish": ("fråga;svar\nVad är på ön?;En å och en gås\n", "cp1252"),
    "a name": ("q,a\nname?,Jürgen\n", "cp1252"),
    "one euro sign": ("q,a\nHow much?,10 €\n", "cp1252"),
    "Polish": ("pytanie;odpowiedź\nJak się masz?;Bardzo dobrze, dziękuję, żółw źle śpi\n", "cp1250"),
    "Russian": ("вопрос;ответ\nКак дела?;Хорошо, спасибо, а у вас?\n", "cp1251"),
    "Japanese": ("質問,回答\n元気ですか,はい、元気です。ありがとう\n", "cp932"),
    "Chinese": ("问题,回答\n你好吗,我很好谢谢你\n", "gb18030"),
    "Excel's Unicode text": ("Frage\tAntwort\nWie groß?\tSehr, sehr\n", "utf-16"),
    "UTF-16 without its mark": ("question|answer\nhow, many?|ten\n", "utf-16-le"),
}


@pytest.mark.parametrize(("text", "encoding"), TABLES.values(), ids=list(TABLES))
def test_delimiter_and_encoding_are_found_and_named(tmp_path, text, encoding):
    file = tmp_path / "a.csv"
    file.write_bytes(text.encode(encoding))
    delimiter = next(character for character in ";\t|," if character in text.split("\n")[0])
    header, cells = (line.split(delimiter) for line in text.splitlines()[:2])
    assert [row.values for row in rows_of(file)] == [dict(zip(header, cells, strict=True))]
    said = {";": "delimiter semicolon, ", "\t": "delimiter tab, ", "|": "delimiter pipe, ", ",": ""}[delimiter]
    assert notes_on(file) == f"{said}encoding {encoding}"


DIALECTS = {
    "semicolons, commas in the text": ("q;a\nWhat, if, so?;Yes, no\nAnd, this?;That, one\n", ";"),
    "commas, semicolons in the text": ('q,a\n"a; b; c","d; e"\nx; y,p; q; r\n', ","),
    "decimal commas": ("q;n\n1,5;2,5\n3,5;4,5\n", ";"),
    "a line end in quotes": ('q;a\n"a\nb, c";"d, e\nf"\nx;y\n', ";"),
    "pipes in the text": ("q,a\na|b,c|d\ne|f,g|h\n", ","),
    "one column of prose": ("text\nHello; world\nAnother line\n", ","),
    "a header alone": ("q;a\n", ";"),
}


@pytest.mark.parametrize(("text", "delimiter"), DIALECTS.values(), ids=list(DIALECTS))
def test_the_delimiter_that_the_rows_agree_on(tmp_path, text, delimiter):
    file = tmp_path / "a.csv"
    file.write_text(text)
    assert list(rows_of(file)) == list(rows_of(file, ReadOptions(delimiter=delimiter)))


def test_what_the_recipe_says_is_not_guessed(tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes("q;a\nwie?;schön\n".encode("cp1252"))
    options = ReadOptions(delimiter=",", encoding="cp1250")
    assert [row.values for row in rows_of(file, options)] == [{"q;a": "wie?;schön"}]
    assert notes_on(file, options) == ""


def test_a_large_packed_table_is_looked_at_once(tmp_path):
    text = "q;a\n" + "frage, eins;größe\n" * 200_000
    file = tmp_path / "a.csv.zst"
    with pa.CompressedOutputStream(str(file), "zstd") as stream:
        stream.write(text.encode("cp1252"))
    assert sum(row.values == {"q": "frage, eins", "a": "größe"} for row in rows_of(file)) == 200_000


def test_a_workbook(tmp_path):
    book = openpyxl.Workbook()
    sheet = book.active
    for cells in (["q", "a", "good"], ["how many?", 7.0, True], [], [datetime.datetime(2024, 5, 1), 2.5, False]):
        sheet.append(cells)
    other = book.create_sheet("Other")
    other.append(["q"])
    other.append(["x"])
    book.save(tmp_path / "a.xlsx")
    rows = list(rows_of(tmp_path / "a.xlsx"))
    assert [(row.line, row.values) for row in rows] == [
        (2, {"q": "how many?", "a": "7", "good": True}),
        (4, {"q": "2024-05-01", "a": "2.5", "good": False}),
    ]
    assert [row.values for row in rows_of(tmp_path / "a.xlsx", ReadOptions(sheet="Other"))] == [{"q": "x"}]
    with pytest.raises(DataError, match=r"a\.xlsx: no sheet 'Othr'; did you mean 'Other'\?"):
        list(rows_of(tmp_path / "a.xlsx", ReadOptions(sheet="Othr")))


def test_texts(tmp_path):
    (tmp_path / "a.md").write_bytes("\ufeff# Title\r\n\r\nOne.\r\nTwo.\r\n\r\n\r\nThree.\r\n".encode())
    whole = "# Title\n\nOne.\nTwo.\n\n\nThree.\n"

    def rows(by):
        return [(row.line, row.values["text"]) for row in rows_of(tmp_path / "a.md", ReadOptions(sample_by=by))]

    assert rows(None) == rows("document") == [(1, whole)]
    assert rows("paragraph") == [(1, "# Title"), (3, "One.\nTwo."), (7, "Three.")]
    assert rows("line") == [(1, "# Title"), (3, "One."), (4, "Two."), (7, "Three.")]


def test_a_text_in_no_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("größe\n".encode() + b"gr\xf6\xdfe")
    [row] = rows_of(tmp_path / "a.txt", ReadOptions(encoding="utf-8"))
    assert row.problem == "not UTF-8: byte 0xf6 in line 2"


def test_texts_of_a_directory_count_where_nothing_else_is_in_it(tmp_path):
    (tmp_path / "README.md").write_text("about")
    assert [file.name for file in files_of(str(tmp_path))] == ["README.md"]
    (tmp_path / "rows.jsonl").write_text("{}")
    assert [file.name for file in files_of(str(tmp_path))] == ["rows.jsonl"]


@pytest.mark.parametrize("kind", ["feather", "file", "stream"])
def test_arrow(tmp_path, kind):
    table = pa.table({"text": [f"row {n}" for n in range(2500)]})
    file = tmp_path / ("a.feather" if kind == "feather" else "a.arrow")
    if kind == "feather":
        feather.write_feather(table, file)
    else:
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with pa.OSFile(str(file), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table)
    assert [(row.line, row.values) for row in rows_of(file)] == list(enumerate(table.to_pylist(), 1))


def test_a_saved_data_set(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["one", "two", "three"]})
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    assert [row.values["text"] for file in files_of(str(tmp_path / "saved")) for row in rows_of(file)] == [
        *("one", "two", "three")
    ]
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"has the splits train, test; name one: .*splits/train"):
        files_of(str(tmp_path / "splits"))
    assert len(files_of(str(tmp_path / "splits" / "train"))) == 1


def test_a_parquet_value_out_of_range_is_a_problem_of_its_row(tmp_path):
    import pyarrow.parquet as pq

    times = pa.array([1, 2**62, 3], pa.duration("s"))
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b", "c"], "took": times}), file)
    (tmp_path / "a.parquet").write_bytes(file.getvalue())
    rows = list(rows_of(tmp_path / "a.parquet"))
    assert [row.line for row in rows if row.values] == [1, 3]
    assert rows[1].problem.startswith("a value that can't be read: ")


def test_millions_of_blanks_in_a_list(tmp_path):
    blanks = " " * 3_000_000
    (tmp_path / "a.json").write_text(f"[{blanks}{json.dumps({'a': 1})}{blanks},{blanks}{{}}{blanks}]")
    assert [row.values for row in rows_of(tmp_path / "a.json")] == [{"a": 1}, {}]


def test_an_encoding_without_its_detector_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "chardet", None)
    (tmp_path / "a.csv").write_bytes("q,a\nwer?,Jürgen\n".encode("cp1252"))
    with pytest.raises(DataError, match="not UTF-8; write its `encoding:` into the recipe"):
        list(rows_of(tmp_path / "a.csv"))
