"""The built-in formatters: what becomes of a good row, and what is said of a bad one."""

import pytest

from ftp.errors import RowError
from ftp.types import Example, Message
from ftp_plugins.formatters import ftp_formatters
from ftp_plugins.formatters.chat import Messages, ShareGPT
from ftp_plugins.formatters.pairs import Alpaca, Instruct, PromptCompletion
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
    (Messages(), chat(("User", "a")), "'messages' turn 1: unknown role 'User'; known: system, user, assistant"),
    (Messages(), chat((None, "a")), "'messages' turn 1: unknown role None; known: system, user, assistant"),
    (Messages(), chat(("user", "a"), ("tool", "b")),
        "'messages' turn 2: unknown role 'tool'; known: system, user, assistant"),
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
        "human, user, gpt, chatgpt, assistant, model, system"),
    (ShareGPT(), share(("human", "")), "'conversations' turn 1: 'value' is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("formatter", "row", "said"), BAD)
def test_bad_rows(formatter, row, said):
    with pytest.raises(RowError) as caught:
        formatter.format(row)
    assert str(caught.value) == said


def test_each_says_what_it_makes():
    made = {name: formatter.makes for name, formatter in ftp_formatters().items()}
    assert made == {
        "instruct": "conversation",
        "alpaca": "conversation",
        "sharegpt": "conversation",
        "messages": "conversation",
        "prompt_completion": "conversation",
        "text": "text",
    }
