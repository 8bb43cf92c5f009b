"""The files that people have, each from one file to a report, by the recipe that the README gives for it."""

import json
import re
from pathlib import Path

import datasets
import openpyxl
import pytest
import yaml

README = Path(__file__).parents[2] / "README.md"
ROWS = [(f"Double {n}, please.", f"{n} doubled is {2 * n}.", f"Case {n}") for n in range(2, 62)]


def csv_table(place):
    text = "Frage;Notiz;Antwort\n" + "".join(f'"{q}";größe {n};"{a}"\n' for q, a, n in ROWS)
    (place / "faq.csv").write_bytes(text.encode("cp1252"))


def workbook(place):
    book = openpyxl.Workbook()
    for cells in (("question", "note", "answer"), *((q, n, a) for q, a, n in ROWS)):
        book.active.append(cells)
    book.save(place / "faq.xlsx")


def json_list(place):
    rows = [{"instruction": q, "input": n, "output": a} for q, a, n in ROWS]
    (place / "alpaca.json").write_text(json.dumps(rows))  # all in one line


def chats(place):
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a, _ in ROWS]
    (place / "chats.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in turns))


def notes(place):
    (place / "notes").mkdir()
    for number, (question, answer, _) in enumerate(ROWS[:20]):
        (place / "notes" / f"{number:02}.md").write_text(f"# {question}\n\n{answer}\n" * (20 if number == 3 else 2))


def saved_data_set(place):
    columns = {"prompt": [q for q, _, _ in ROWS], "completion": [a for _, a, _ in ROWS]}
    datasets.Dataset.from_dict(columns).save_to_disk(place / "saved")


FILES = {
    "faq.csv": csv_table,
    "faq.xlsx": workbook,
    "alpaca.json": json_list,
    "chats.jsonl": chats,
    "notes": notes,
    "saved": saved_data_set,
}


def what_to_write():
    """The `train:` entries of the table in the README, by the path that each names."""
    table = README.read_text(encoding="utf-8").split("| My file is", 1)[1].split("\n\n", 1)[0]
    entries = [yaml.safe_load(block) for block in re.findall(r"`(\{.*?\})` \|", table)]
    return {entry.get("path", entry.get("hub")): entry for entry in entries}


def test_the_table_names_every_file():
    assert set(FILES) <= set(what_to_write())


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_from_ones_own_file_to_a_report(ftp, tmp_path, ftp_tiny_model, name):
    FILES[name](tmp_path)
    text = name == "notes"
    recipe = {
        "name": "mine",
        "model": {"use": "huggingface", "id": str(ftp_tiny_model), "device": "cpu"},
        "adapter": {"use": "lora", "r": 4},
        "data": {"train": [what_to_write()[name]], "evals": {"heldout": "20%"}},
        "train": {"use": "sft", "epochs": 1, "max_length": 256, **({"overlong": "split"} if text else {})},
        "answers": {"max_new_tokens": 16},
        "evaluate": [{"use": "loss"}, *([] if text else [{"use": "rouge"}])],
    }
    if text:
        recipe.pop("answers")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    outcome = ftp("run", "recipe.yaml")
    assert outcome.code == 0, outcome.err
    report = Path(outcome.out.splitlines()[-1])
    assert report.name == "report.html"
    assert report.stat().st_size > 10_000
    assert re.search(r"evals\.heldout: \d+ rows? held out of the training rows", outcome.err)
    evaluation = json.loads((report.parent / "evaluation.json").read_text())
    assert {found["evals"] for found in evaluation} == {"heldout"} if isinstance(evaluation, list) else True
    if name == "faq.csv":
        assert "faq.csv: detected delimiter semicolon, encoding cp1252" in outcome.err
    if text:
        assert re.search(r"sft: \d+ rows? of (train|validation) split", outcome.err) or "held out" in outcome.err
