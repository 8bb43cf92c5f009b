"""Rows that the built-in formatters refuse, and what `ftp check` says of each: the line, what is wrong, what to do."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftp import plugins
from ftp.errors import RecipeError
from ftp.recipe.read import read
from ftp_plugins.formatters.pairs import Instruct
from ftp_plugins.formatters.preference import Preference

RECIPE = """\
name: bad-data
model: {{use: huggingface, id: some/model}}
adapter: {{use: lora}}
data:
  train:
    - {{path: {path!r}, format: {{use: {format}}}{more}}}
train: {{use: {train}}}
"""
EVERY_KIND = """
from typing import ClassVar
import ftp

class EveryKind(ftp.Trainer):
    'Takes what the built-in trainer does not.'
    takes: ClassVar[tuple] = ("conversation", "preference", "feedback", "text")
    def train(self, job): raise NotImplementedError

@ftp.hookimpl
def ftp_trainers(): return {"every_kind": EveryKind}
"""
MEND = "Fix these rows, or set `on_bad_row: drop` on the source to drop bad rows and record them in the ledger."
GOOD = b'{"instruction": "a", "response": "b"}\n'


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def chat(*turns):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}).encode()


def line(**columns):
    return json.dumps(columns).encode() + b"\n"


def calling(*turns, arguments='{"city": "Paris"}'):
    """A conversation in which the assistant calls f; these turns follow."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return line(messages=[ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, *turns])


def tool(**more):
    return {"role": "tool", "content": "22", **more}


def flagged(**flags):
    return line(messages=[ASK, {**SAY, **flags}])


ASK = {"role": "user", "content": "a"}
SAY, NO = {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}
PAIR = line(prompt="a", chosen="b", rejected="c")


# file name, formatter, bytes, what is said after "FILE:"
BAD_ROWS = {
    # --- columns
    "no column": ("a.jsonl", "instruct", b'{"instruction": "a", "respons": "b"}', "1: 'response': missing column; "
        "did you mean 'respons'?"),
    "empty answer": ("a.jsonl", "instruct", GOOD + b'{"instruction": "a", "response": " \\n"}', "2: 'response': empty"),
    "answer is null": ("a.jsonl", "instruct", b'{"instruction": "a", "response": null}', "1: 'response': "
        "text is needed, this is null"),
    "answer is a number": ("a.jsonl", "alpaca", b'{"instruction": "a", "output": 7}', "1: 'output': "
        "text is needed, this is a number"),
    "context is a list": ("a.jsonl", "instruct", b'{"instruction": "a", "context": [], "response": "b"}',
        "1: 'context': "
        "text is needed, this is a list"),
    "text is null": ("a.jsonl", "text", b'{"text": null}', "1: 'text': text is needed, this is null"),
    "text of blanks": ("a.csv", "text", b'text\n"  "\n', "2: 'text': empty"),
    # --- conversations
    "unknown role": ("a.jsonl", "sharegpt", b'{"conversations": [{"from": "bot", "value": "a"}]}', "1: "
        "'conversations' turn 1: unknown role 'bot'; known: human, user, gpt, chatgpt, assistant, model, system, "
        "function_call, observation, tool"),
    "ends with the user": ("a.jsonl", "messages", chat(("user", "a"), ("assistant", "b"), ("user", "c")), "1: "
        "ends with the user's turn; an answer by the assistant is needed"),
    "begins with the assistant": ("a.jsonl", "messages", chat(("assistant", "b")), "1: 'messages': begins without "
        "a user's turn"),
    "empty turn": ("a.jsonl", "messages", chat(("user", "a"), ("assistant", "")), "1: 'messages' turn 2: "
        "'content' is empty"),
    "no turns": ("a.jsonl", "messages", chat(), "1: 'messages': empty"),
    "key of a turn missing": ("a.jsonl", "messages", b'{"messages": [{"rol": "user", "content": "a"}]}', "1: "
        "'messages' turn 1: 'role' is missing; did you mean 'rol'?"),
    # --- preference
    "nothing lost": ("a.jsonl", "preference", PAIR + line(prompt="a", chosen="b"), "2: 'rejected': missing column; "
        "known: chosen, prompt"),
    "both answers are one": ("a.jsonl", "preference", PAIR + line(prompt="a", chosen="b", rejected="b\n"), "2: "
        "'chosen' and 'rejected': are the same"),
    "no prompt": ("a.jsonl", "preference", line(chosen="b", rejected="c"), "1: 'prompt': there is none, and 'chosen' "
        "and 'rejected' are not whole conversations that contain it"),
    "other first turns": ("a.jsonl", "preference", line(chosen=[ASK, SAY], rejected=[{**ASK, "content": "A"}, NO]),
        "1: 'chosen' and 'rejected': differ before their last turn; they must be two answers to the same turns"),
    "a whole conversation against an answer": ("a.jsonl", "preference", line(prompt="a", chosen=[ASK, SAY],
        rejected="c"), "1: 'chosen' and 'rejected': differ before their last turn; they must be two answers to the "
        "same turns"),
    "another prompt than theirs": ("a.jsonl", "preference", line(prompt="A", chosen=[ASK, SAY], rejected=[ASK, NO]),
        "1: 'prompt': is not how the turns that 'chosen' and 'rejected' share end"),
    "the answer in the prompt": ("a.jsonl", "preference", line(prompt=[ASK, SAY], chosen="b", rejected="c"), "1: "
        "'prompt': ends with the assistant's turn; the answer belongs in a column of its own"),
    "HH that ends with the human": ("a.jsonl", "preference", line(chosen="\n\nHuman: a\n\nAssistant: b\n\nHuman: c",
        rejected="\n\nHuman: a\n\nAssistant: c"), "1: 'chosen': ends with the user's turn; an answer by the assistant "
        "is needed"),
    "HH without an answer": ("a.jsonl", "preference", line(chosen="\n\nHuman: a\n\nAssistant:",
        rejected="\n\nHuman: a\n\nAssistant: c"), "1: 'chosen' turn 2: 'content' is empty"),
    "unknown role in an answer": ("a.jsonl", "preference", line(prompt="a", chosen="b", rejected=[{"role": "gpt",
        "content": "c"}]), "1: 'rejected' turn 1: unknown role 'gpt'; known: system, developer, user, assistant, tool"),
    "an answer left out of training": ("a.jsonl", "preference", line(prompt="a", chosen=[{**SAY, "train": False}],
        rejected="c"), "1: 'chosen': its last turn is left out of training, and that is the answer to learn from"),
    "null in a preference in Parquet": ("a.parquet", "preference", parquet(prompt=["a"], chosen=["b"],
        rejected=pa.array([None], pa.string())), "1: 'rejected': text is needed, this is null"),
    # --- feedback
    "no label": ("a.jsonl", "feedback", line(prompt="a", completion="b", lable=True), "1: 'label': missing column; did "
        "you mean 'lable'?"),
    "label is null": ("a.jsonl", "feedback", line(prompt="a", completion="b", label=None), "1: 'label': true or false "
        "is needed, or the number 1 or 0"),
    "label is text": ("a.csv", "feedback", b"prompt,completion,label\na,b,true\n", "2: 'label': true or false is "
        "needed, or the number 1 or 0"),
    "label is a score": ("a.jsonl", "feedback", line(prompt="a", completion="b", label=1) + line(prompt="a",
        completion="b", label=0.7), "2: 'label': true or false is needed, or the number 1 or 0"),
    "feedback on a whole conversation": ("a.jsonl", "feedback", line(prompt="a", completion=[ASK, SAY], label=True),
        "1: 'completion': one assistant's turn is needed; the others are the prompt's"),
    # --- tool calls
    "a tool that nobody called": ("a.jsonl", "messages", line(messages=[ASK, tool(), SAY]), "1: 'messages' turn 2: a "
        "tool's turn must follow the assistant's call that it answers"),
    "a tool too many": ("a.jsonl", "messages", calling(tool(), tool()), "1: 'messages' turn 4: a tool's turn must "
        "follow the assistant's call that it answers"),
    "an unknown call": ("a.jsonl", "messages", calling(tool(tool_call_id="call_1"), SAY), "1: 'messages' turn 3: "
        "'tool_call_id' 'call_1' is not a call that waits for an answer; known: c1"),
    "arguments that are no JSON": ("a.jsonl", "messages", calling(arguments="city=Paris"), "1: 'messages' turn 2 call "
        "1 'arguments': not valid JSON"),
    "arguments in a list": ("a.jsonl", "messages", calling(arguments='["Paris"]'), "1: 'messages' turn 2 call 1: "
        "'arguments' must be an object, or the JSON text of one"),
    "half a character in arguments": ("a.jsonl", "messages", calling(arguments=r'{"city": "\ud83d"}'), "1: 'messages' "
        "turn 2 'tool_calls': holds a value that JSON can't (a date, bytes, NaN, half a character)"),
    "a call without a name": ("a.jsonl", "messages", line(messages=[ASK, {"role": "assistant", "tool_calls": [
        {"function": {"arguments": "{}"}}]}]),
        "1: 'messages' turn 2 call 1: 'name' of the function is missing or not text"),
    "a call of the old form": ("a.jsonl", "messages", line(messages=[ASK, {"role": "assistant", "content": None,
        "function_call": {"name": "f", "arguments": "{}"}}]), "1: 'messages' turn 2: 'function_call' is OpenAI's old "
        "form and not supported; write it as 'tool_calls'"),
    "a call by the user": ("a.jsonl", "messages", line(messages=[{**ASK, "tool_calls": [{}]}, SAY]), "1: 'messages' "
        "turn 1: 'tool_calls' belongs to the assistant's turn"),
    "ends with the tool": ("a.jsonl", "messages", calling(tool()), "1: ends with the tool's turn; an answer by the "
        "assistant is needed"),
    "tools that are no list": ("a.jsonl", "messages", line(messages=[ASK, SAY], tools='{"name": "f"}'), "1: 'tools': a "
        "list of tools is needed, or its JSON text"),
    "a tool without a name": ("a.jsonl", "messages", line(messages=[ASK, SAY], tools=[{"type": "function", "function":
        {"description": "d"}}]), "1: 'tools' tool 1: 'name' of the function is missing or not text"),
    "a ShareGPT call that is no JSON": ("a.jsonl", "sharegpt", line(conversations=[{"from": "human", "value": "a"},
        {"from": "function_call", "value": "f(1)"}]), "1: 'conversations' turn 2 'value': not valid JSON"),
    "an observation of nothing": ("a.jsonl", "sharegpt", line(conversations=[{"from": "human", "value": "a"},
        {"from": "observation", "value": "22"}]), "1: 'conversations' turn 2: a tool's turn must follow the "
        "assistant's call that it answers"),
    # --- turns left out of training
    "train is text": ("a.jsonl", "messages", flagged(train="false"), "1: 'messages' turn 2: 'train' must be true or "
        "false, or 1 or 0"),
    "half a weight": ("a.jsonl", "messages", flagged(weight=0.5), "1: 'messages' turn 2: 'weight' must be true or "
        "false, or 1 or 0"),
    "train and weight at odds": ("a.jsonl", "messages", flagged(train=True, weight=0), "1: 'messages' turn 2: 'train' "
        "and 'weight' say different things"),
    "nothing to train": ("a.jsonl", "messages", flagged(train=False), "1: 'messages': every assistant's turn is left "
        "out of training; there is nothing to learn"),
    "the user to be trained": ("a.jsonl", "messages", line(messages=[{**ASK, "train": True}, SAY]),
        "1: 'messages' turn 1: 'train' asks to train the user's turn; only the assistant's are trained"),
    # --- a format found by the data, and a bad row behind the rows that it was found by
    "a bad row later": ("a.jsonl", "auto", PAIR * 200 + line(prompt="a", chosen="b"), "201: 'rejected': missing "
        "column; known: chosen, prompt"),
    # --- Parquet
    "null in Parquet": ("a.parquet", "text", parquet(text=["a", None]), "2: 'text': text is needed, this is null"),
    "no column in Parquet": ("a.parquet", "text", parquet(txt=["a"]), "1: 'text': missing column; did you mean 'txt'?"),
}  # fmt: skip

# What `format: {use: auto}` says of rows that don't decide it
UNDECIDED = {
    "two formats": (line(prompt="a", completion="b", label=True) * 2, "more than one format fits; write "
        "`{use: feedback}` or `{use: prompt_completion}` (fit of the first 2 rows: feedback 2, prompt_completion 2)"),
    "one row that doesn't fit": (GOOD * 4 + b'{"instruction": "a"}\n', "no format fits all rows; instruct fits best, "
        "but not row 5: 'response': missing column; known: instruction (fit of the first 5 rows: instruct 4)"),
    "unknown columns": (line(question="a", answer="b"), "no format fits any of 1 row; name one and its columns; the "
        "rows have: question, answer"),
    "two kinds of row": (GOOD + line(text="a"), "no format fits all rows; instruct fits best, but not row 2: "
        "'instruction': missing column; known: text (fit of the first 2 rows: instruct 1, text 1)"),
    "no row": (b"\n", "there is no row to detect the format from; name the format"),
    "broken lines alone": (b"{\n[]\n", "there is no row to detect the format from; name the format"),
}  # fmt: skip


@pytest.fixture
def check(ftp, ftp_install, tmp_path):
    def check(path, format="instruct", more="", *arguments):
        train = "sft"
        if format in ("preference", "feedback", "auto"):
            ftp_install("acme-every-kind", EVERY_KIND)
            train = "every_kind"
        recipe = RECIPE.format(path=path, format=format, more=more, train=train)
        (tmp_path / "r.yaml").write_text(recipe)
        return ftp("check", "r.yaml", *arguments)

    return check


@pytest.mark.parametrize(("name", "format", "content", "said"), BAD_ROWS.values(), ids=list(BAD_ROWS))
def test_a_bad_row_is_named_by_file_and_line(check, tmp_path, name, format, content, said):
    (tmp_path / name).write_bytes(content)
    outcome = check(name, format)
    problem, what_to_do = outcome.err.splitlines()
    assert problem.removeprefix(f"{tmp_path}/") == f"{name}:{said}"
    assert what_to_do == MEND
    assert outcome.code == 2


FOUND_BY_AUTO = {
    "instruct": (GOOD, "columns instruction, response"),
    "alpaca": (line(id=1, instruction="a", output="b"), "columns instruction, output; not read: id"),
    "sharegpt": (line(conversations=[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]),
        "columns conversations"),
    "messages": (line(messages=[ASK, SAY], tools=[]), "columns messages, tools"),
    "prompt_completion": (line(prompt="a", completion="b"), "columns prompt, completion"),
    "text": (line(text="a"), "columns text"),
    "preference": (PAIR, "columns prompt, chosen, rejected"),
    "feedback": (line(prompt=[ASK], completion=[SAY], label=False), "columns prompt, completion, label"),
}  # fmt: skip


@pytest.mark.parametrize(("format", "content", "columns"), [(f, *found) for f, found in FOUND_BY_AUTO.items()])
def test_auto_finds_each_format_and_says_by_what(check, tmp_path, format, content, columns):
    (tmp_path / "a.jsonl").write_bytes(content * 3)
    finding = f"data.train.0: {format}: 3 of the first 3 rows fit; {columns}"
    outcome = check("a.jsonl", "auto")
    assert outcome.out.splitlines() == ["r.yaml: the recipe is valid", finding, "train: a.jsonl: 3 rows"], outcome.err
    assert check("a.jsonl", "auto", "", "--no-data").out.splitlines() == ["r.yaml: the recipe is valid", finding]


def test_auto_looks_at_the_first_200_rows_and_the_recipe_holds_what_it_found(check, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"{\n" + PAIR * 300)
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    check("a.jsonl", "auto", "}\n    - {path: b.jsonl, format: {use: auto}")
    found = read(tmp_path / "r.yaml", plugins.load())
    assert found.findings == (
        "data.train.0: preference: 200 of the first 200 rows fit; columns prompt, chosen, rejected",
        "data.train.1: instruct: 1 of 1 row fit; columns instruction, response",
    )
    formats = [source.format for source in found.data.train]
    assert [(type(format), format.used_as) for format in formats] == [
        (Preference, "preference"),
        (Instruct, "instruct"),
    ]
    resolved = found.resolved()["data"]
    options = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "tools": "tools"}
    assert resolved["train"][0]["format"] == {"use": "preference", **options}
    assert resolved["validation"] == 0.1


@pytest.mark.parametrize(("content", "said"), UNDECIDED.values(), ids=list(UNDECIDED))
def test_auto_refuses_in_one_sentence_at_its_place(check, tmp_path, content, said):
    (tmp_path / "a.jsonl").write_bytes(content)
    outcome = check("a.jsonl", "auto")
    [problem] = outcome.err.splitlines()
    place, path, what = problem.split(": ", 2)
    assert (place, path, what) == ("r.yaml:6:25", "data.train.0.format", said)
    assert outcome.code == 2


def test_auto_does_not_look_at_the_hub_before_the_run(check, tmp_path):
    check("a.jsonl", "auto")
    recipe = (tmp_path / "r.yaml").read_text().replace("path: 'a.jsonl'", "hub: some/rows")
    (tmp_path / "r.yaml").write_text(recipe)
    with pytest.raises(RecipeError, match="can't look at a hub data set before the run; name its format"):
        read(tmp_path / "r.yaml", plugins.load())
