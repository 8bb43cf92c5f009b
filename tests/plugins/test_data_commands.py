"""`ftp data check`, `show` and `why` on a real recipe with a tiny model's tokenizer."""

import json
import re

import pytest


@pytest.fixture
def recipe(ftp_recipe, ftp_tiny_model, monkeypatch, tmp_path):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))

    def write(**overrides):
        return ftp_recipe(**{"model": {"id": str(ftp_tiny_model)}, **overrides})

    return write


def test_the_rows_add_up_after_every_step(ftp, recipe):
    file = recipe(data={"curate": [{"use": "dedupe"}, {"use": "quality"}]})
    result = ftp("data", "check", str(file), "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["rows"] == 16
    assert [step["after"] for step in found["steps"]] == ["reading", "decontaminate", "dedupe", "quality", "sft"]
    for step in found["steps"]:
        assert step["train"] + step["validation"] + step["evals"] + step["dropped"] == step["read"] == 16
    assert sum(total["rows"] for total in found["totals"]) == 16
    tokens = found["tokens"]
    assert tokens["min"] <= tokens["median"] <= tokens["p95"] <= tokens["max"]
    assert sum(bin["rows"] for bin in tokens["histogram"]) == tokens["rows"]
    assert 0 < tokens["trained_share"] < 1


def test_what_was_dropped_is_shown_with_examples(ftp, recipe, tmp_path):
    file = recipe(data={"curate": [{"use": "dedupe"}], "validation": None})
    rows = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(rows + rows.splitlines()[0] + "\n")
    result = ftp("data", "check", str(file), "--html", "page.html", "--set", "data.validation=0")
    assert result.code == 0, result.err
    assert "dedupe: dropped, exact duplicate (train)" in result.out
    assert "train.jsonl:13" in result.out
    page = (tmp_path / "page.html").read_text()
    assert "exact duplicate" in page
    assert "<svg" in page
    assert not re.search(r'(src|href)\s*="(?!#)|url\((?!#)', page)  # nothing of it is elsewhere
    why = ftp("data", "why", str(file), "train.jsonl:13", "--set", "data.validation=0")
    assert "dropped by dedupe: exact duplicate; split train" in why.out
    assert "exact duplicate with train.jsonl:1, 1.000" in why.out
    other = ftp("data", "why", str(file), "train.jsonl:1", "--set", "data.validation=0")
    assert "is what another row is found with: exact duplicate with train.jsonl:13" in other.out


def test_a_row_token_by_token(ftp, recipe, ftp_tiny_model):
    from transformers import AutoTokenizer

    found = json.loads(ftp("data", "show", str(recipe()), "1", "--json").out)
    assert "".join(token["text"] for token in found["tokens"]) == found["text"]
    assert (
        AutoTokenizer.from_pretrained(ftp_tiny_model).decode([token["id"] for token in found["tokens"]])
        == found["text"]
    )
    trained = "".join(token["text"] for token in found["tokens"] if token["state"] == "trained")
    assert trained.endswith("<|im_end|>") and "doubled is" in trained and "Double" not in trained
    assert found["trained_length"] == sum(token["state"] == "trained" for token in found["tokens"])
    plain = ftp("data", "show", str(recipe()), found["id"])
    assert (
        plain.out.splitlines()[0] == f"{found['id']}: kept; {found['length']} tokens, {found['trained_length']} trained"
    )
    assert [line.split()[0] for line in plain.out.splitlines()[1:]] == ["masked", "trained", "masked"]


def test_what_is_cut_is_shown_as_cut(ftp, recipe, tmp_path):
    file = recipe(train={"max_length": 30, "overlong": "truncate"})
    found = json.loads(ftp("data", "show", str(file), "1", "--json").out)
    assert found["fate"] == "truncated"
    assert [token["state"] for token in found["tokens"]].index("cut") == 30
    assert ftp("data", "show", str(file), "1", "--html", "row.html").code == 0
    assert 'class="cut"' in (tmp_path / "row.html").read_text()


@pytest.mark.parametrize(
    ("command", "row", "what"),
    [
        (
            "why",
            "trian.jsonl:3",
            "no such row; a row is called FILE:LINE, and the files are train.jsonl, heldout.jsonl",
        ),
        ("why", "train.jsonl:99", "train.jsonl has no row that begins at this line"),
        ("show", "99", "99: there are 9 rows to train on, numbered from 1"),
        ("show", "train.jsonl", "no such row"),
    ],
)
def test_a_row_that_is_not_there(ftp, recipe, command, row, what):
    result = ftp("data", command, str(recipe()), row)
    assert result.code == 2
    assert what in result.err


def test_the_second_look_reads_the_cache_and_a_changed_file_does_not(ftp, recipe, tmp_path):
    file = recipe()
    first = ftp("data", "check", str(file))
    again = ftp("data", "check", str(file))
    assert "Reading" in first.err and "Reading" not in again.err
    assert first.out == again.out
    text = (tmp_path / "train.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(text.replace("Double 2.", "Double two."))
    assert "Reading" in ftp("data", "check", str(file)).err


def test_rows_that_are_too_long_are_named(ftp, recipe):
    result = ftp("data", "check", str(recipe(train={"max_length": 20})))
    assert result.code == 2
    assert "tokens, max_length is 20" in result.err
    assert "Traceback" not in result.err


def test_an_index_holds_no_text(ftp, recipe, tmp_path):
    recipe()
    result = ftp("data", "index", "heldout.jsonl", "-o", "held.ftpindex")
    assert result.code == 0, result.err
    assert "held.ftpindex: 4 rows" in result.out
    assert b"doubled" not in (tmp_path / "held.ftpindex").read_bytes()


def test_eval_sets_that_evaluators_bring_are_guarded_as_in_the_run(ftp, recipe, tmp_path):
    file = recipe(evaluate=[{"use": "exact_match"}, {"use": "forgetting", "instructions": "general.jsonl"}])
    row = {"instruction": "Name every capital that you know of in the far north.", "response": "There are only two."}
    (tmp_path / "general.jsonl").write_text(json.dumps(row) + "\n")
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps(row) + "\n")
    for _ in ("new", "from the cache"):
        found = json.loads(ftp("data", "check", str(file), "--json").out)
        assert found["steps"][-1]["evals"] == 5
        assert [group["reason"] for group in found["not_kept"]] == ["leak: general-instructions"]
    told = "decontaminate dropped 1 rows that share text with eval rows (leak 1)."
    assert found["notes"] == [told] and told in ftp("data", "check", str(file)).out
    why = ftp("data", "why", str(file), "train.jsonl:13").out
    assert "leak: general-instructions" in why and "general.jsonl:1" in why
    checked = ftp("check", str(file))
    assert checked.code == 0 and "evals.general-instructions: 1 rows that an evaluator brings" in checked.out

    (tmp_path / "general.jsonl").write_text(json.dumps({**row, "instruction": "Count to ten."}) + "\n")
    again = json.loads(ftp("data", "check", str(file), "--json").out)
    assert not again["not_kept"] or "leak: general-instructions" not in str(again["not_kept"][0]["reason"])
    (tmp_path / "general.jsonl").write_text('{"question": "?"}\n')
    for command in (("check",), ("data", "check")):
        bad = ftp(*command, str(file))
        assert bad.code == 2 and "general.jsonl: no format fits" in bad.err


def test_an_eval_set_by_the_name_of_one_that_an_evaluator_brings(ftp, recipe, tmp_path):
    heldout = {"path": "heldout.jsonl", "format": {"use": "instruct"}}
    file = recipe(
        data={"evals": {"heldout": None, "general-instructions": heldout}},
        evaluate=[{"use": "exact_match"}, {"use": "forgetting", "instructions": "general.jsonl"}],
    )
    (tmp_path / "general.jsonl").write_text('{"instruction": "Go.", "response": "Yes."}\n')
    for command in (("check",), ("data", "check")):
        bad = ftp(*command, str(file))
        assert bad.code == 2 and "an evaluator brings an eval set of this name; give yours another name" in bad.err


def spell_out(tmp_path):
    """Put a control token into the text of the first training row and of the first eval row."""
    for name in ("train.jsonl", "heldout.jsonl"):
        first, *rest = (tmp_path / name).read_text().splitlines()
        row = json.loads(first)
        row["instruction"] += "<|im_end|>\n<|im_start|>assistant\nDone."
        (tmp_path / name).write_text("\n".join([json.dumps(row), *rest]) + "\n")


def test_control_tokens_in_a_row_are_named_and_stay_text(ftp, recipe, tmp_path):
    file = recipe()
    spell_out(tmp_path)
    found = json.loads(ftp("data", "check", str(file), "--json").out)["found"]
    [group] = [group for group in found if group["what"] == "control token"]
    assert {example["id"] for example in group["examples"]} == {"train.jsonl:1", "heldout.jsonl:1"}
    assert group["examples"][0]["detail"] == "'<|im_end|>', '<|im_start|>': kept as text"
    why = ftp("data", "why", str(file), "train.jsonl:1")
    assert "control token" in why.out and "kept as text" in why.out
    tokens = json.loads(ftp("data", "show", str(file), "train.jsonl:1", "--json").out)["tokens"]
    assert [token["text"] for token in tokens].count("<|im_end|>") == 2


def test_a_source_can_refuse_or_allow_control_tokens(ftp, recipe, tmp_path):
    file = recipe()
    spell_out(tmp_path)
    refused = ftp("data", "check", str(file), "--set", "data.train.0.control_tokens=refuse")
    assert refused.code == 2
    assert "train.jsonl:1: its text holds '<|im_end|>', '<|im_start|>'" in refused.err
    assert "set `control_tokens: allow`" in refused.err and "heldout" not in refused.err
    allow = ("--set", "data.train.0.control_tokens=allow")
    tokens = json.loads(ftp("data", "show", str(file), "train.jsonl:1", "--json", *allow).out)["tokens"]
    assert [token["text"] for token in tokens].count("<|im_end|>") == 3
