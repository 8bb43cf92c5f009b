"""The built-in formatters: what becomes of a good row, and what is said of a bad one."""

import datetime
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftp.data.examples import write_examples
from ftp.errors import DataError, RowError
from ftp.testing import assert_component_ok
from ftp.types import Example, Message
from ftp_plugins.formatters import ftp_formatters
from ftp_plugins.formatters.auto import Auto
from ftp_plugins.formatters.chat import OPENAI_ROLES, SHAREGPT_ROLES, Messages, ShareGPT
from ftp_plugins.formatters.pairs import Alpaca, Instruct, PromptCompletion
from ftp_plugins.formatters.preference import Feedback, Preference
from ftp_plugins.formatters.text import Text


def talk(*contents, system="", roles="uaua"):
    """An example of turns, user first where `roles` doesn't say otherwise."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    turns = [Message(names[role], content) for role, content in zip(roles, contents, strict=False)]
    return Example(((Message("system", system),) if system else ()) + tuple(turns))


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def share(*turns):
    return {"conversations": [{"from": role, "value": content} for role, content in turns]}


def said(*turns):
    """A list of turns, `role: content`."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


def call(name="f", id="c1", arguments='{"city": "Paris"}', **more):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def caller(*calls, content=None, **more):
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def tool(content="22", id="c1", **more):
    return {"role": "tool", "content": content, "tool_call_id": id, **more}


def with_calls(*turns):
    """A row whose user asked for the weather; these turns follow."""
    return {"messages": [*said("user: q"), *turns]}


def written(*calls):
    return json.dumps(list(calls), ensure_ascii=False)


def two(chosen, rejected, *prompt):
    return Example((*prompt, Message("assistant", chosen)), rejected=(Message("assistant", rejected),))


F = {"type": "function", "function": {"name": "f", "arguments": {"city": "Paris"}}}
CALLED = written({"id": "c1", **F})
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ASKED, ANSWERED = Message("user", "q"), Message("assistant", "It is 22.")


GOOD = [
    (Instruct(), {"instruction": "a", "context": "b", "response": "c"}, talk("a\n\nb", "c")),
    (Instruct(), {"instruction": "a", "context": "", "response": "c"}, talk("a", "c")),
    (Instruct(), {"instruction": "a", "context": None, "response": "c", "more": 1}, talk("a", "c")),
    (Instruct(), {"instruction": "a", "response": " c\n"}, talk("a", " c\n")),  # whitespace is the row's own
    (Instruct(system="s"), {"instruction": "a", "response": "c"}, talk("a", "c", system="s")),
    (Instruct(instruction="q", context="doc", response="gold"), {"q": "a", "doc": "b", "gold": "c"}, talk("a\n\nb",
        "c")),
    (Instruct(context=None), {"instruction": "a", "context": 7, "response": "c"}, talk("a", "c")),
    (Alpaca(), {"instruction": "a", "input": "b", "output": "c"}, talk("a\n\nb", "c")),
    (Alpaca(), {"instruction": "a", "input": "", "output": "c"}, talk("a", "c")),
    (Alpaca(output="answer", input=None, system="s"), {"instruction": "a", "answer": "c"}, talk("a", "c", system="s")),
    (PromptCompletion(), {"prompt": "a", "completion": "b"}, talk("a", "b")),
    (PromptCompletion(prompt="q", completion="a", system="s"), {"q": "a", "a": "b"}, talk("a", "b", system="s")),
    (Text(), {"text": "a\n"}, Example(text="a\n")),
    (Text(text="body"), {"body": "a", "text": None}, Example(text="a")),
    (Messages(), chat(("user", "a"), ("assistant", "b")), talk("a", "b")),
    (Messages(), chat(("system", "s"), ("user", "a"), ("assistant", "b")), talk("a", "b", system="s")),
    (Messages(), chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), talk("a", "b", "c", "d")),
    (Messages(), chat(("user", "a"), ("assistant", "b"), ("assistant", "c")), talk("a", "b", "c", roles="uaa")),
    (Messages(), chat(("system", ""), ("user", "a"), ("assistant", "b")), talk("", "a", "b", roles="sua")),
    (Messages(messages="turns"), {"turns": chat(("user", "a"), ("assistant", "b"))["messages"]}, talk("a", "b")),
    (ShareGPT(), share(("human", "a"), ("gpt", "b")), talk("a", "b")),
    (ShareGPT(), share(("system", "s"), ("user", "a"), ("model", "b")), talk("a", "b", system="s")),
    (ShareGPT(), share(("human", "a"), ("chatgpt", "b"), ("human", "c"), ("assistant", "d")), talk("a", "b", "c", "d")),
    (ShareGPT(conversations="c"), {"c": share(("human", "a"), ("gpt", "b"))["conversations"]}, talk("a", "b")),
    # --- OpenAI's newer word, keys that are null because other turns have them, and turns that are context only
    (Messages(), chat(("developer", "s"), ("user", "a"), ("assistant", "b")), talk("a", "b", system="s")),
    (Messages(), {"messages": [{**turn, "tool_calls": None, "name": None, "tool_call_id": None, "train": None,
        "weight": None, "function_call": None} for turn in said("user: a", "assistant: b")]}, talk("a", "b")),
    (Messages(), {"messages": [*said("user: a"), {"role": "assistant", "content": "b", "train": False},
        *said("user: c", "assistant: d")]}, Example((Message("user", "a"), Message("assistant", "b", train=False),
        Message("user", "c"), Message("assistant", "d")))),
    (Messages(), {"messages": [{"role": "user", "content": "a", "train": False},
        {"role": "assistant", "content": "b", "weight": 1}, {"role": "assistant", "content": "c", "weight": 0.0}]},
        Example((Message("user", "a"), Message("assistant", "b"), Message("assistant", "c", train=False)))),
    (Messages(), {"messages": [*said("user: a"), {"role": "assistant", "content": "b", "train": True, "weight": 1}]},
        talk("a", "b")),
    (ShareGPT(), {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "train": 0},
        {"from": "gpt", "value": "c"}]}, Example((Message("user", "a"), Message("assistant", "b", train=False),
        Message("assistant", "c")))),
    # --- tool calls
    (Messages(), with_calls(caller(call()), tool(name="f"), *said("assistant: It is 22.")),
        Example((ASKED, Message("assistant", "", tool_calls=CALLED),
            Message("tool", "22", name="f", tool_call_id="c1"), ANSWERED))),
    (Messages(), with_calls(caller(call(arguments={"city": "Paris"}, id=None), content="")),
        Example((ASKED, Message("assistant", "", tool_calls=written(F))))),
    (Messages(), with_calls({"role": "assistant", "tool_calls": [{"function": F["function"]}]}),
        Example((ASKED, Message("assistant", "", tool_calls=written(F))))),
    (Messages(), with_calls(caller(call(), content="Let me see."), {"role": "tool", "content": ""},
        *said("assistant: It is 22.")), Example((ASKED, Message("assistant", "Let me see.", tool_calls=CALLED),
            Message("tool", ""), ANSWERED))),
    (Messages(), with_calls(caller(call(), call(id="c2")), tool(id="c2"), tool(), *said("assistant: It is 22.")),
        Example((ASKED, Message("assistant", "", tool_calls=written({"id": "c1", **F}, {"id": "c2", **F})),
            Message("tool", "22", tool_call_id="c2"), Message("tool", "22", tool_call_id="c1"), ANSWERED))),
    (Messages(), with_calls(caller(call(), train=False), tool(), *said("assistant: It is 22.")),
        Example((ASKED, Message("assistant", "", False, CALLED), Message("tool", "22", tool_call_id="c1"), ANSWERED))),
    (Messages(), with_calls(caller(call(arguments='{"city": "Zürich 🏔"}', id=None))), Example((ASKED, Message(
        "assistant", "", tool_calls=written({"type": "function", "function": {"name": "f",
        "arguments": {"city": "Zürich 🏔"}}}))))),
    (ShareGPT(), share(("human", "q"), ("function_call", '{"name": "f", "arguments": {"city": "Paris"}}'),
        ("observation", "22"), ("gpt", "It is 22.")), Example((ASKED, Message("assistant", "", tool_calls=written(F)),
        Message("tool", "22"), ANSWERED))),
    (ShareGPT(), share(("human", "q"), ("function_call", json.dumps([F["function"]] * 2)), ("tool", "22"),
        ("observation", "23"), ("gpt", "It is 22.")),
        Example((ASKED, Message("assistant", "", tool_calls=written(F, F)), Message("tool", "22"),
            Message("tool", "23"), ANSWERED))),
    # --- tools
    (Messages(), {**chat(("user", "q"), ("assistant", "It is 22.")), "tools": [TOOL]},
        Example((ASKED, ANSWERED), tools=written(TOOL))),
    (Messages(), {**chat(("user", "q"), ("assistant", "It is 22.")), "tools": json.dumps([TOOL["function"]])},
        Example((ASKED, ANSWERED), tools=written(TOOL))),
    (Messages(tools="functions"), {**chat(("user", "q"), ("assistant", "It is 22.")), "functions": [
        {"function": TOOL["function"], "strict": True}]},
        Example((ASKED, ANSWERED), tools=written({**TOOL, "strict": True}))),
    (Messages(tools="functions"), {**chat(("user", "q"), ("assistant", "It is 22.")), "functions": ""},
        Example((ASKED, ANSWERED))),
    (Messages(tools=None), {**chat(("user", "q"), ("assistant", "It is 22.")), "tools": 7}, Example((ASKED, ANSWERED))),
    (ShareGPT(), {**share(("human", "q"), ("gpt", "It is 22.")), "tools": "[]"}, Example((ASKED, ANSWERED))),
    (ShareGPT(), {**share(("human", "q"), ("gpt", "It is 22.")), "tools": None}, Example((ASKED, ANSWERED))),
    (ShareGPT(), {**share(("human", "q"), ("gpt", "It is 22.")), "tools": json.dumps([TOOL])},
        Example((ASKED, ANSWERED), tools=written(TOOL))),
    # --- preference
    (Preference(), {"prompt": "q", "chosen": "a", "rejected": "b", "score": 1}, two("a", "b", ASKED)),
    (Preference(prompt="q", chosen="+", rejected="-"), {"q": "q", "+": "a", "-": "b"}, two("a", "b", ASKED)),
    (Preference(), {"prompt": said("system: s", "user: q"), "chosen": "a", "rejected": said("assistant: b")},
        two("a", "b", Message("system", "s"), ASKED)),
    (Preference(), {"prompt": said("user: q", "assistant: a", "user: q"), "chosen": "a", "rejected": "b"},
        two("a", "b", *talk("q", "a", "q").messages)),
    (Preference(), {"chosen": said("user: q", "assistant: a"), "rejected": said("user: q", "assistant: b")},
        two("a", "b", ASKED)),
    (Preference(), {"prompt": "q", "chosen": said("system: s", "user: q", "assistant: a"),
        "rejected": said("system: s", "user: q", "assistant: b")}, two("a", "b", Message("system", "s"), ASKED)),
    (Preference(prompt=None), {"prompt": 7, "chosen": said("user: q", "assistant: a"),
        "rejected": said("user: q", "assistant: b")}, two("a", "b", ASKED)),
    (Preference(), {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q\n\nAssistant: It is\n\n22. ",
        "rejected": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q\n\nAssistant: b"},
        two("It is\n\n22.", "b", *talk("q", "a", "q").messages)),
    (Preference(), {"prompt": "q", "chosen": "Human: q\n\nAssistant: a", "rejected": "Human: q\n\nAssistant: b"},
        two("a", "b", ASKED)),
    (Preference(), {"prompt": "q", "chosen": "Human: I am one", "rejected": "b"}, two("Human: I am one", "b", ASKED)),
    (Preference(), {"prompt": None, "chosen": [*said("user: q"), caller(call())],
        "rejected": said("user: q", "assistant: b"), "tools": [TOOL]}, Example(
        (ASKED, Message("assistant", "", tool_calls=CALLED)), rejected=(Message("assistant", "b"),),
        tools=written(TOOL))),
    # --- feedback
    (Feedback(), {"prompt": "q", "completion": "It is 22.", "label": True}, Example((ASKED, ANSWERED), label=True)),
    (Feedback(), {"prompt": "q", "completion": "It is 22.", "label": 0}, Example((ASKED, ANSWERED), label=False)),
    (Feedback(), {"prompt": "q", "completion": "It is 22.", "label": 1.0}, Example((ASKED, ANSWERED), label=True)),
    (Feedback(prompt="q", completion="a", label="up"), {"q": said("system: s", "user: q"),
        "a": said("assistant: It is 22."), "up": False},
        Example((Message("system", "s"), ASKED, ANSWERED), label=False)),
    (Feedback(), {"prompt": "q", "completion": [caller(call())], "label": 1, "tools": [TOOL]},
        Example((ASKED, Message("assistant", "", tool_calls=CALLED)), label=True, tools=written(TOOL))),
]  # fmt: skip


@pytest.mark.parametrize(("formatter", "row", "example"), GOOD)
def test_good_rows(formatter, row, example):
    assert formatter.format(row) == example


BAD = [
    (Instruct(), {"response": "c"}, "'instruction': missing column; known: response"),
    (Instruct(), {"Instruction": "a", "response": "c"}, "'instruction': missing column; did you mean 'Instruction'?"),
    (Instruct(), {}, "'instruction': missing column"),
    (Instruct(), {"instruction": " \n", "response": "c"}, "'instruction': empty"),
    (Instruct(), {"instruction": "a", "response": ""}, "'response': empty"),
    (Instruct(), {"instruction": "a", "response": 7}, "'response': text is needed, this is a number"),
    (Instruct(), {"instruction": "a", "response": True}, "'response': text is needed, this is a boolean"),
    (Instruct(), {"instruction": "a", "response": {}}, "'response': text is needed, this is an object"),
    (Instruct(), {"instruction": "a", "response": b"x"}, "'response': text is needed, this is bytes"),
    (Instruct(), {"instruction": "a", "context": ["b"], "response": "c"}, "'context': text is needed, this is a list"),
    (Instruct(response="gold"), {"instruction": "a", "response": "c"},
        "'gold': missing column; known: instruction, response"),
    (Alpaca(), {"instruction": "a", "input": 1.5, "output": "c"}, "'input': text is needed, this is a number"),
    (Alpaca(), {"instruction": "a", "outputs": "c"}, "'output': missing column; did you mean 'outputs'?"),
    (PromptCompletion(), {"prompt": "a", "completion": None}, "'completion': text is needed, this is null"),
    (Text(), {"texts": "a"}, "'text': missing column; did you mean 'texts'?"),
    (Text(), {"text": "\u3000\n"}, "'text': empty"),
    (Messages(), {}, "'messages': missing column"),
    (Messages(), {"messages": "hi"}, "'messages': a list is needed, this is text"),
    (Messages(), {"messages": None}, "'messages': a list is needed, this is null"),
    (Messages(), {"messages": []}, "'messages': empty"),
    (Messages(), {"messages": ["hi"]}, "'messages' turn 1: an object is needed"),
    (Messages(), {"messages": [{"role": "user", "text": "a"}]},
        "'messages' turn 1: 'content' is missing; known: role, text"),
    (Messages(), chat(("User", "a")),
        "'messages' turn 1: unknown role 'User'; known: system, developer, user, assistant, tool"),
    (Messages(), chat((None, "a")),
        "'messages' turn 1: unknown role None; known: system, developer, user, assistant, tool"),
    (Messages(), chat(("user", "a"), ("function", "b")),
        "'messages' turn 2: unknown role 'function'; known: system, developer, user, assistant, tool"),
    (Messages(), chat(("user", "a"), ("tool", "b")),
        "'messages' turn 2: a tool's turn must follow the assistant's call that it answers"),
    (Messages(), chat(("user", "a"), ("assistant", None)), "'messages' turn 2: 'content' must be text"),
    (Messages(), chat(("user", ["a"]), ("assistant", "b")), "'messages' turn 1: 'content' must be text"),
    (Messages(), chat(("user", "a"), ("assistant", " ")), "'messages' turn 2: 'content' is empty"),
    (Messages(), chat(("user", "a"), ("system", "s"), ("assistant", "b")),
        "'messages' turn 2: a system turn can only come first"),
    (Messages(), chat(("assistant", "b")), "'messages': begins without a user's turn"),
    (Messages(), chat(("system", "s"), ("assistant", "b")), "'messages': begins without a user's turn"),
    (Messages(), chat(("system", "s"), ("assistant", "a"), ("user", "b"), ("assistant", "c")),
        "'messages': begins without "
        "a user's turn"),
    (Messages(), chat(("system", "s")), "'messages': begins without a user's turn"),
    (ShareGPT(), {"conversation": []}, "'conversations': missing column; did you mean 'conversation'?"),
    (ShareGPT(), share(("human", "a"), ("bot", "b")), "'conversations' turn 2: unknown role 'bot'; known: "
        "human, user, gpt, chatgpt, assistant, model, system, function_call, observation, tool"),
    (ShareGPT(), share(("human", "")), "'conversations' turn 1: 'value' is empty"),
    # --- turns that are context only
    *[(Messages(), {"messages": [*said("user: a"), {"role": "assistant", "content": "b", key: value}]},
        f"'messages' turn 2: '{key}' must be true or false, or 1 or 0")
        for key in ("train", "weight") for value in ("false", "", 2, 0.5, -1, float("nan"), [], {})],
    (Messages(), {"messages": [{"role": "user", "content": "a", "train": True}]},
        "'messages' turn 1: 'train' asks to train the user's turn; only the assistant's are trained"),
    (Messages(), {"messages": [*said("user: a"), {"role": "assistant", "content": "b", "train": True, "weight": 0}]},
        "'messages' turn 2: 'train' and 'weight' say different things"),
    (Messages(), {"messages": [*said("user: a"), {"role": "assistant", "content": "b", "train": False}]},
        "'messages': every assistant's turn is left out of training; there is nothing to learn"),
    (ShareGPT(), {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]},
        "'conversations': every assistant's turn is left out of training; there is nothing to learn"),
    # --- tool calls
    (Messages(), with_calls(tool()),
        "'messages' turn 2: a tool's turn must follow the assistant's call that it answers"),
    (Messages(), with_calls(caller(call()), tool(), tool()),
        "'messages' turn 4: a tool's turn must follow the assistant's call that it answers"),
    (Messages(), with_calls(caller(call()), *said("user: c"), tool()),
        "'messages' turn 4: a tool's turn must follow the assistant's call that it answers"),
    (Messages(), with_calls(caller(call()), tool(id="c11")),
        "'messages' turn 3: 'tool_call_id' 'c11' is not a call that waits for an answer; did you mean 'c1'?"),
    (Messages(), with_calls(caller(call(id=None)), tool()),
        "'messages' turn 3: 'tool_call_id' 'c1' is not a call that waits for an answer"),
    (Messages(), with_calls(caller(call(), call(id="c2")), tool(), tool()),
        "'messages' turn 4: 'tool_call_id' 'c1' is not a call that waits for an answer; known: c2"),
    (Messages(), with_calls(caller(call()), tool(id=7)), "'messages' turn 3: 'tool_call_id' must be text"),
    (Messages(), with_calls(caller(call()), tool(name=7)), "'messages' turn 3: 'name' must be text"),
    (Messages(), with_calls(caller(call()), tool(content=None)), "'messages' turn 3: 'content' must be text"),
    (Messages(), with_calls({"role": "assistant", "content": None, "tool_calls": []}),
        "'messages' turn 2: 'content' must be text"),
    (Messages(), with_calls({"role": "assistant", "content": "b", "tool_calls": {}}),
        "'messages' turn 2: 'tool_calls' must be a list"),
    (Messages(), {"messages": [{"role": "user", "content": "a", "tool_calls": [call()]}]},
        "'messages' turn 1: 'tool_calls' belongs to the assistant's turn"),
    (Messages(), with_calls({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}),
        "'messages' turn 2: 'function_call' is OpenAI's old form and not supported; write it as 'tool_calls'"),
    (Messages(), with_calls(caller("f")), "'messages' turn 2 call 1: an object is needed"),
    (Messages(), with_calls(caller(call(), call(type="code"))),
        "'messages' turn 2 call 2: unknown type 'code'; known: function"),
    (Messages(), with_calls(caller({"name": "f", "arguments": {}})),
        "'messages' turn 2 call 1: 'function' must be an object with a 'name'"),
    (Messages(), with_calls(caller(call(name=" "))),
        "'messages' turn 2 call 1: 'name' of the function is missing or not text"),
    (Messages(), with_calls(caller({"function": {"name": "f", "args": {}}})),
        "'messages' turn 2 call 1: 'arguments' is missing; did you mean 'args'?"),
    (Messages(), with_calls(caller(call(id=7))), "'messages' turn 2 call 1: 'id' must be text"),
    *[(Messages(), with_calls(caller(call(arguments=arguments))),
        "'messages' turn 2 call 1 'arguments': not valid JSON")
        for arguments in ("", "{'a': 1}", "{", "[" * 100_000, "9" * 5000)],
    *[(Messages(), with_calls(caller(call(arguments=arguments))),
        "'messages' turn 2 call 1: 'arguments' must be an object, or the JSON text of one")
        for arguments in ("[]", "null", [], None, 7)],
    *[(Messages(), with_calls(caller(call(arguments=arguments))),
        "'messages' turn 2 'tool_calls': holds a value that JSON can't (a date, bytes, NaN, half a character)")
        for arguments in ('{"a": NaN}', r'{"a": "\ud83d"}', {"on": datetime.date(2026, 1, 1)}, {"a": b"x"})],
    (ShareGPT(), share(("human", "q"), ("function_call", "f(1)")),
        "'conversations' turn 2 'value': not valid JSON"),
    (ShareGPT(), share(("human", "q"), ("function_call", "[]")), "'conversations' turn 2: 'value' is empty"),
    (ShareGPT(), share(("human", "q"), ("function_call", '"f"')),
        "'conversations' turn 2 'value' call 1: 'function' must be an object with a 'name'"),
    (ShareGPT(), share(("human", "q"), ("function_call", '{"name": "f"}')),
        "'conversations' turn 2 'value' call 1: 'arguments' is missing; known: name"),
    (ShareGPT(), {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "val": "{}"}]},
        "'conversations' turn 2: 'value' is missing; did you mean 'val'?"),
    (ShareGPT(), share(("human", "q"), ("observation", "22")),
        "'conversations' turn 2: a tool's turn must follow the assistant's call that it answers"),
    # --- tools
    *[(Messages(), {**with_calls(*said("assistant: b")), "tools": value}, f"'tools'{what}") for value, what in (
        ("{", ": not valid JSON"),
        ("{}", ": a list of tools is needed, or its JSON text"),
        (7, ": a list of tools is needed, or its JSON text"),
        (["f"], " tool 1: an object is needed"),
        ([TOOL, {}], " tool 2: 'function' must be an object with a 'name'"),
        ([{"type": "web_search"}], " tool 1: unknown type 'web_search'; known: function"),
        ([{"type": "function", "function": {"parameters": {}}}],
            " tool 1: 'name' of the function is missing or not text"),
        ([{"name": "f", "since": datetime.date(2026, 1, 1)}],
            ": holds a value that JSON can't (a date, bytes, NaN, half a character)"))],
    (Messages(tools="functions"), with_calls(*said("assistant: b")),
        """'functions': missing column (write null or "" where a row has none); known: messages"""),
    # --- preference
    (Preference(), {}, "'chosen': missing column"),
    (Preference(), {"prompt": "q", "chosen": "a"}, "'rejected': missing column; known: chosen, prompt"),
    (Preference(), {"prompt": "q", "chosen": "a", "rejected": " "}, "'rejected': empty"),
    (Preference(), {"prompt": "q", "chosen": [], "rejected": "b"}, "'chosen': empty"),
    (Preference(), {"prompt": "q", "chosen": {"content": "a"}, "rejected": "b"},
        "'chosen': text is needed, this is an object"),
    (Preference(), {"prompt": 7, "chosen": "a", "rejected": "b"}, "'prompt': text is needed, this is a number"),
    (Preference(prompt="q"), {"prompt": "q", "chosen": "a", "rejected": "b"},
        "'q': missing column; known: chosen, prompt, rejected"),
    (Preference(prompt="q"), {"q": None, "chosen": "a", "rejected": "b"}, "'q': text is needed, this is null"),
    (Preference(), {"chosen": "a", "rejected": "b"},
        "'prompt': there is none, and 'chosen' and 'rejected' are not whole conversations that contain it"),
    (Preference(prompt=None), {"prompt": "q", "chosen": said("assistant: a"), "rejected": "b"},
        "'prompt': there is none, and 'chosen' and 'rejected' are not whole conversations that contain it"),
    (Preference(), {"prompt": "q", "chosen": "a", "rejected": "a\n"}, "'chosen' and 'rejected': are the same"),
    (Preference(), {"chosen": said("user: q", "assistant: a"), "rejected": said("user: q", "assistant: a")},
        "'chosen' and 'rejected': are the same"),
    (Preference(), {"chosen": said("user: q", "assistant: a"), "rejected": said("user: Q", "assistant: b")},
        "'chosen' and 'rejected': differ before their last turn; they must be two answers to the same turns"),
    (Preference(), {"prompt": "q", "chosen": said("user: q", "assistant: a"), "rejected": "b"},
        "'chosen' and 'rejected': differ before their last turn; they must be two answers to the same turns"),
    (Preference(), {"prompt": "Q", "chosen": said("user: q", "assistant: a"),
        "rejected": said("user: q", "assistant: b")},
        "'prompt': is not how the turns that 'chosen' and 'rejected' share end"),
    (Preference(), {"prompt": said("user: q", "assistant: a"), "chosen": "a", "rejected": "b"},
        "'prompt': ends with the assistant's turn; the answer belongs in a column of its own"),
    (Preference(), {"prompt": said("system: s"), "chosen": "a", "rejected": "b"},
        "'prompt': begins without a user's turn"),
    (Preference(), {"chosen": said("system: s", "assistant: a"), "rejected": said("system: s", "assistant: b")},
        "'chosen': begins without a user's turn"),
    (Preference(), {"chosen": said("user: q"), "rejected": said("user: q", "assistant: b")},
        "'chosen': ends with the user's turn; an answer by the assistant is needed"),
    (Preference(), {"prompt": "q", "chosen": "a", "rejected": [{"role": "bot", "content": "b"}]},
        "'rejected' turn 1: unknown role 'bot'; known: system, developer, user, assistant, tool"),
    (Preference(), {"prompt": "q", "chosen": "a", "rejected": [{"role": "assistant", "content": "b", "train": False}]},
        "'rejected': its last turn is left out of training, and that is the answer to learn from"),
    (Preference(), {"chosen": "\n\nHuman: q\n\nAssistant:", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        "'chosen' turn 2: 'content' is empty"),
    (Preference(), {"chosen": "\n\nHuman: q\n\nAssistant: a\n\nHuman: c", "rejected": "\n\nHuman: q"},
        "'chosen': ends with the user's turn; an answer by the assistant is needed"),
    # --- feedback
    (Feedback(), {"prompt": "q", "completion": "a"}, "'label': missing column; known: completion, prompt"),
    *[(Feedback(), {"prompt": "q", "completion": "a", "label": label},
        "'label': true or false is needed, or the number 1 or 0")
        for label in (None, "true", "1", "", 2, 0.5, -1, float("nan"), [True], {})],
    (Feedback(), {"prompt": "q", "completion": said("user: q", "assistant: a"), "label": True},
        "'completion': one assistant's turn is needed; the others are the prompt's"),
    (Feedback(), {"prompt": "q", "completion": said("user: q"), "label": True},
        "'completion': ends with the user's turn; an answer by the assistant is needed"),
    (Feedback(), {"completion": "a", "label": True}, "'prompt': missing column; known: completion, label"),
    (Auto(), {"text": "a"}, "`auto` chooses a format when a recipe is read, and formats no row by itself"),
]  # fmt: skip


@pytest.mark.parametrize(("formatter", "row", "said"), BAD)
def test_bad_rows(formatter, row, said):
    with pytest.raises(RowError) as caught:
        formatter.format(row)
    assert str(caught.value) == said


TEMPLATE = Instruct(template="{question}\n\nNotes ({Case no.}): {notes}", response="answer")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Why?", "Case no.": 7, "notes": "n", "answer": "a"}, "Why?\n\nNotes (7): n"),
        ({"question": "{why}", "Case no.": "", "notes": None, "answer": "a"}, "{why}\n\nNotes ():"),
    ],
)
def test_a_template_writes_several_columns_into_one_prompt(row, said):
    assert TEMPLATE.format(row) == talk(said, "a")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Why?", "Case no": 7, "notes": "n"}, "'Case no.': missing column; did you mean 'Case no'?"),
        ({"question": "", "Case no.": " ", "notes": None}, "'question', 'Case no.', 'notes': empty"),
        ({"question": ["Why?"], "Case no.": 1, "notes": ""}, "'question': text or a number is needed, this is a list"),
    ],
)
def test_rows_that_do_not_fill_a_template(row, said):
    with pytest.raises(RowError) as caught:
        TEMPLATE.format({**row, "answer": "a"})
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"template": "{question"}, "not a template: expected '}' before end of string; write a brace itself twice"),
        ({"template": "none"}, "names no column"),
        ({"template": "{}"}, "names no column"),
        ({"template": "{a!r}"}, "braces hold the name of a column"),
        ({"template": "{a}", "context": None}, "'template' takes the place of context"),
    ],
)
def test_templates_that_are_none(options, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        Instruct(**options)


def test_each_says_what_it_makes():
    made = {name: formatter.makes for name, formatter in ftp_formatters().items()}
    assert made == {
        "instruct": "conversation",
        "alpaca": "conversation",
        "sharegpt": "conversation",
        "messages": "conversation",
        "prompt_completion": "conversation",
        "text": "text",
        "preference": "preference",
        "feedback": "feedback",
        "auto": "conversation",  # it makes nothing itself
    }


@pytest.mark.parametrize(("formatter", "row", "example"), GOOD)
def test_the_kit_finds_nothing(formatter, row, example):
    assert_component_ok(type(formatter), row, **formatter.model_dump())


@pytest.mark.parametrize(("formatter", "row", "example"), GOOD)
def test_rows_come_back_from_the_disk_as_they_were(formatter, row, example, tmp_path):
    assert list(write_examples(tmp_path / "rows.arrow", [example])) == [example]


ARGUMENTS = '{"name": "f", "arguments": {}}'
VALUES = st.sampled_from(
    [
        *(None, "", "x", "f", "c1", 0, 1, True, False, 1.5, [], {}, [{}], "{}", "[]", ARGUMENTS),
        *([call()], [call(), call(id="c2")], [call(arguments="{")], *SHAREGPT_ROLES, *OPENAI_ROLES),
    ]
)
TURN_KEYS = st.sampled_from(
    ["role", "from", "content", "value", "tool_calls", "tool_call_id", "name", "train", "weight", "function_call"]
)
SOUND = st.sampled_from(
    [
        *said("user: q", "assistant: a", "system: s"),
        *(caller(call()), caller(call(), call(id="c2")), tool(), tool(id="c2"), {"role": "tool", "content": ""}),
        {"role": "assistant", "content": "b", "train": False},
    ]
)
TURNS = st.lists(SOUND | st.builds(lambda turn, key, value: {**turn, key: value}, SOUND, TURN_KEYS, VALUES), max_size=5)


@given(TURNS, TURNS, VALUES, st.booleans())
def test_any_turns_are_sound_or_a_row_error(one, other, value, share):
    if share:
        one = [{"from": turn.get("role"), "value": turn.get("content"), **turn} for turn in one]
    row = {"messages": one, "conversations": one, "chosen": one, "rejected": other, "prompt": value, "tools": value}
    row |= {"completion": other[-1:], "label": value}
    for formatter in (Messages(), ShareGPT(), Preference(), Feedback(), Preference(prompt=None)):
        try:
            example = formatter.format(row)
        except RowError:
            continue
        answers = [message for message in example.messages if message.role == "assistant"]
        assert not answers or any(message.train for message in answers)
        for before, turn in itertools.pairwise((Message("user", ""), *example.messages)):
            assert turn.role != "tool" or before.tool_calls or before.role == "tool"
            assert not turn.tool_calls or json.loads(turn.tool_calls)
        assert example.kind in (formatter.makes, "conversation")
        assert len(example.rejected) == (formatter.makes == "preference")


# --- auto -----------------------------------------------------------------------------------------------------------

FOUND = [
    ([{"instruction": "a", "context": "b", "response": "c"}, {"instruction": "a", "response": "c"}],
        Instruct(), "instruct: 2 of the first 2 rows fit; columns instruction, context, response"),
    ([{"id": 1, "instruction": "a", "input": "", "output": "c", "date": None}],
        Alpaca(), "alpaca: 1 of 1 row fit; columns instruction, input, output; not read: id, date"),
    ([{"prompt": "a", "completion": "b"}] * 200, PromptCompletion(),
        "prompt_completion: 200 of the first 200 rows fit; columns prompt, completion"),
    ([{"instruction": "a", "output": "b", "text": "a b"}, {"instruction": "a", "output": "b"}],  # one row tells
        Alpaca(), "alpaca: 2 of the first 2 rows fit; columns instruction, output; not read: text"),
    ([{"text": "a"}], Text(), "text: 1 of 1 row fit; columns text"),
    ([chat(("user", "a"), ("assistant", "b"))], Messages(), "messages: 1 of 1 row fit; columns messages"),
    ([{**chat(("user", "a"), ("assistant", "b")), "tools": [TOOL]}],
        Messages(), "messages: 1 of 1 row fit; columns messages, tools"),
    ([share(("human", "a"), ("gpt", "b"))], ShareGPT(), "sharegpt: 1 of 1 row fit; columns conversations"),
    ([{"prompt": "q", "chosen": "a", "rejected": "b"}], Preference(),
        "preference: 1 of 1 row fit; columns prompt, chosen, rejected"),
    ([{"chosen": said("user: q", "assistant: a"), "rejected": said("user: q", "assistant: b")}], Preference(),
        "preference: 1 of 1 row fit; columns chosen, rejected"),
    ([{"prompt": said("user: q"), "completion": said("assistant: a"), "label": True}], Feedback(),
        "feedback: 1 of 1 row fit; columns prompt, completion, label"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "formatter", "evidence"), FOUND)
def test_auto_takes_the_one_that_fits_and_says_why(rows, formatter, evidence):
    assert Auto().settle(rows) == (formatter, evidence)


REFUSED = [
    ([], "there is no row to detect the format from; name the format"),
    ([{"prompt": "q", "completion": "a", "label": True}] * 3, "more than one format fits; write "
        "`{use: prompt_completion}` or `{use: feedback}` (fit of the first 3 rows: prompt_completion 3, feedback 3)"),
    ([{"instruction": "a", "output": "b", "response": "c"}, {"instruction": "a", "output": "b", "response": "c"}],
        "more than one format fits; write `{use: instruct}` or `{use: alpaca}` "
        "(fit of the first 2 rows: instruct 2, alpaca 2)"),
    ([{"instruction": "a", "output": "b", "text": "a b"}],
        "more than one format fits; write `{use: alpaca}` or `{use: text}` (fit of 1 row: alpaca 1, text 1)"),
    ([{"prompt": "q", "chosen": "a", "rejected": "b", "text": "t"}], "more than one format fits; write `{use: text}` "
        "or `{use: preference}` (fit of 1 row: text 1, preference 1)"),
    ([{"instruction": "a", "response": "b"}] * 2 + [{"instruction": "a", "response": ""}, {"text": "a"}],
        "no format fits all rows; instruct fits best, but not row 3: 'response': empty "
        "(fit of the first 4 rows: instruct 2, text 1)"),
    ([{"question": "a", "answer": "b"}, {"question": "a", "level": 1}],
        "no format fits any of the first 2 rows; name one and its columns; the rows have: question, answer, level"),
    ([{"instruction": "a"}], "no format fits any of 1 row; name one and its columns; the rows have: instruction"),
    ([{}], "no format fits any of 1 row; name one and its columns; the rows have: none"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "why"), REFUSED)
def test_auto_refuses_what_the_rows_do_not_decide(rows, why):
    with pytest.raises(DataError) as caught:
        Auto().settle(rows)
    assert caught.value.problems == [why]


HOUSE = '''
import ftp


class Ticket(ftp.Formatter):
    """A ticket of the house."""

    def format(self, row):
        return ftp.Example((ftp.Message("user", row["ask"]), ftp.Message("assistant", row["fix"])))


class Choosy(ftp.Formatter):
    """Needs an option, so that nobody can try it."""

    column: str

    def format(self, row):
        return ftp.Example(text="anything")


@ftp.hookimpl
def ftp_formatters():
    return {"ticket": Ticket, "choosy": Choosy}
'''


def test_auto_tries_the_formatters_of_others(ftp, ftp_install, ftp_recipe, tmp_path):
    ftp_install("house", HOUSE)
    source = {"path": "tickets.jsonl", "format": {"use": "auto"}}
    file = ftp_recipe(data={"train": [source]})
    (tmp_path / "tickets.jsonl").write_text('{"ask": "why", "fix": "so"}\n' * 3)
    shown = ftp("check", str(file))
    assert shown.code == 0, shown.err
    assert "data.train.0: ticket: 3 of the first 3 rows fit" in shown.out
    (tmp_path / "tickets.jsonl").write_text('{"ask": "why", "fix": "so", "text": "t"}\n' * 3)
    assert "more than one format fits; write `{use: text}` or `{use: ticket}`" in ftp("check", str(file)).err
    (tmp_path / "tickets.jsonl").write_text('{"ask": "why"}\n')
    assert "no format fits any of 1 row" in ftp("check", str(file)).err
