"""Which tokens are trained: the traps of templates, ends of sequence and offsets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizer_kinds import tokenizer_of

from ftp.errors import ModelError
from ftp.lm.byte_level import ByteLevel
from ftp.lm.rendering import DEFAULT_CHAT_TEMPLATE, Rendered, Tokens, encode, encode_texts, render, rendered, stop_ids
from ftp.types import Example, Message

CHATML = (
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']\n\n' + m.content | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
FORGETS = (  # like templates that drop past reasoning: earlier answers are rewritten once a later turn follows
    "{% for m in messages %}{{ '<' + m.role + '>' }}"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture
def tokenizer(ftp_tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ftp_tiny_model)


def talk(*contents):
    roles = ("user", "assistant")
    return Example(tuple(Message(roles[i % 2], text) for i, text in enumerate(contents)), id="row")


def trained_text(tokenizer, tokens):
    return tokenizer.decode([id for id, on in zip(tokens.input_ids, tokens.trained, strict=True) if on])


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL, NO_END, DEFAULT_CHAT_TEMPLATE])
def test_loss_is_on_the_answer_and_what_ends_it_and_the_prompt_is_what_generation_sees(tokenizer, template):
    tokenizer.chat_template = template
    example = talk("What is the risk?", "The risk is late payment.")
    [tokens] = encode(tokenizer, [example], [tokenizer.eos_token_id])

    # A template without an end of its own leaves its line break before the end of sequence that is added.
    assert (
        trained_text(tokenizer, tokens).replace("\n", "").strip() == "The risk is late payment." + tokenizer.eos_token
    )
    assert tokens.input_ids[tokens.trained.index(True) :].count(tokenizer.eos_token_id) == 1
    prompt = tokenizer(render(tokenizer, example.prompt, answer_next=True), add_special_tokens=False)["input_ids"]
    assert tokens.input_ids[: len(prompt)] == prompt
    assert not any(tokens.trained[: len(prompt)])
    assert tokens.input_ids.count(tokenizer.bos_token_id) <= 1


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL, NO_END, DEFAULT_CHAT_TEMPLATE])
def test_every_turn_of_a_long_conversation_is_trained(tokenizer, template):
    tokenizer.chat_template = template
    [tokens] = encode(tokenizer, [talk("One?", "First answer.", "Two?", "Second answer.")], [tokenizer.eos_token_id])
    text = trained_text(tokenizer, tokens)
    assert "First answer." in text and "Second answer." in text
    assert "One?" not in text and "Two?" not in text
    assert text.replace("\n", "").endswith("Second answer." + tokenizer.eos_token)


def test_pad_equal_to_eos_hides_no_end_of_sequence(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = LLAMA3
    [tokens] = encode(tokenizer, [talk("a", "b")], [tokenizer.eos_token_id])
    assert tokens.labels[-1] == tokenizer.eos_token_id


def test_the_line_break_behind_the_stop_token_is_not_trained(tokenizer):
    tokenizer.chat_template = CHATML.replace("<|im_end|>", tokenizer.eos_token)
    [tokens] = encode(tokenizer, [talk("a", "b")], [tokenizer.eos_token_id])
    assert tokens.trained[-1] is False
    assert trained_text(tokenizer, tokens) == "b" + tokenizer.eos_token


def test_a_stop_token_inside_an_answer_does_not_end_the_mask(tokenizer):
    tokenizer.chat_template = LLAMA3
    [tokens] = encode(tokenizer, [talk("a", f"before {tokenizer.eos_token} after")], [tokenizer.eos_token_id])
    assert "after" in trained_text(tokenizer, tokens)


def test_a_turn_that_the_template_rewrites_later_is_context_only(tokenizer):
    tokenizer.chat_template = FORGETS
    [tokens] = encode(tokenizer, [talk("q1", "hm</think>first", "q2", "hm</think>second")], [tokenizer.eos_token_id])
    text = trained_text(tokenizer, tokens)
    assert "second" in text and "first" not in text


def test_loss_on_all_covers_the_prompt(tokenizer):
    tokenizer.chat_template = LLAMA3
    [tokens] = encode(tokenizer, [talk("question", "answer")], [tokenizer.eos_token_id], loss_on="all")
    assert all(tokens.trained)


def test_running_text_is_trained_whole_and_ends_once(tokenizer):
    texts = [Example(text="Some text."), Example(text="Some text." + tokenizer.eos_token)]
    for tokens in encode(tokenizer, texts, [tokenizer.eos_token_id]):
        assert tokens.input_ids.count(tokenizer.eos_token_id) == 1
        assert tokens.input_ids[-1] == tokenizer.eos_token_id
        assert tokens.input_ids.count(tokenizer.bos_token_id) <= 1
        assert trained_text(tokenizer, tokens).endswith("Some text." + tokenizer.eos_token)


def test_a_template_that_refuses_the_turns_is_named(tokenizer):
    tokenizer.chat_template = MISTRAL
    example = Example((Message("system", "s"), Message("user", "u"), Message("assistant", "a")))
    with pytest.raises(ModelError, match="refuses the turns system, user, assistant: no system turn"):
        encode(tokenizer, [example], [tokenizer.eos_token_id])


def test_a_template_whose_prompt_is_no_prefix_is_refused(tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}{% if add_generation_prompt %}{{ 'GO' }}{% endif %}"
    )
    with pytest.raises(ModelError, match="what training sees is not what generation sees"):
        encode(tokenizer, [talk("a", "b")], [tokenizer.eos_token_id])


def test_stop_ids_join_tokenizer_and_generation_config(tokenizer):
    assert stop_ids(tokenizer, [7, tokenizer.eos_token_id]) == tuple(sorted({7, tokenizer.eos_token_id}))
    assert stop_ids(tokenizer, 7) == tuple(sorted({7, tokenizer.eos_token_id}))
    assert stop_ids(tokenizer, None) == (tokenizer.eos_token_id,)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=2, max_size=4))
def test_any_text_is_masked_to_the_answers(tokenizer, contents):
    tokenizer.chat_template = MISTRAL
    contents = contents[: len(contents) // 2 * 2]
    [tokens] = encode(tokenizer, [talk(*contents)], [tokenizer.eos_token_id])
    wanted = "".join(f" {text}{tokenizer.eos_token}" for text in contents[1::2])
    assert trained_text(tokenizer, tokens).replace(tokenizer.bos_token, "") == wanted.replace(tokenizer.bos_token, "")


# --- turns that are context only ------------------------------------------------------------------------------------


def trained_parts(tokenizer, tokens):
    """The trained tokens, a text for each run of them."""
    runs = [[]]
    for id, on in zip(tokens.input_ids, tokens.trained, strict=True):
        if on:
            runs[-1].append(id)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def row(*turns, **columns):
    """An example of `role: content` turns; `-assistant` is not trained."""
    messages = []
    for turn in turns:
        role, content = turn.split(": ", 1)
        messages.append({"role": role.strip("-"), "content": content, "train": None if role[0] != "-" else False})
    return conversation(messages, **columns)


def conversation(turns, tools=()):
    """An example of turns and tools as OpenAI's clients write them, in the form that formatters give it."""
    return Example(
        tuple(map(message, turns)), tools=json.dumps([typed(function=tool) for tool in tools]) if tools else ""
    )


def message(turn):
    calls = []
    for call in turn.get("tool_calls", ()):
        arguments = call["function"]["arguments"]
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        calls.append(typed(id=call["id"], function={**call["function"], "arguments": arguments}))
    train = turn.get("train") is not False and turn.get("weight") != 0
    written = json.dumps(calls, ensure_ascii=False) if calls else ""
    names = (turn.get("name", ""), turn.get("tool_call_id", ""))
    return Message(turn["role"], turn["content"] or "", train, written, *names)


def typed(**more):
    return {"type": "function", **more}


@pytest.mark.parametrize("template", [CHATML.replace("<|im_end|>", "<|end|>"), LLAMA3, MISTRAL])
@pytest.mark.parametrize(
    ("turns", "trained"),
    [
        (["user: q1", "-assistant: a1", "user: q2", "assistant: a2"], ["a2"]),
        (["user: q1", "assistant: a1", "user: q2", "-assistant: a2"], ["a1"]),
        (["user: q1", "assistant: a1", "user: q2", "-assistant: a2", "user: q3", "assistant: a3"], ["a1", "a3"]),
        (["user: q1", "-assistant: a1", "user: q2", "assistant: a2", "user: q3", "-assistant: a3"], ["a2"]),
        (["user: q1", "assistant: same", "user: q2", "-assistant: same"], ["same"]),
    ],
)
def test_turns_left_out_of_training_are_masked_with_what_ends_them(tokenizer, template, turns, trained):
    tokenizer.chat_template = template.replace("<|end|>", tokenizer.eos_token)
    example = row(*turns)
    [tokens] = encode(tokenizer, [example], [tokenizer.eos_token_id])
    parts = [part.strip() for part in trained_parts(tokenizer, tokens)]
    assert parts == [text + tokenizer.eos_token for text in trained]
    whole = render(tokenizer, example.messages, answer_next=False)
    assert tokens.input_ids == tokenizer(whole, add_special_tokens=False)["input_ids"]


def test_no_end_is_put_behind_a_last_turn_that_is_not_trained(tokenizer):
    tokenizer.chat_template = NO_END
    [tokens] = encode(tokenizer, [row("user: q", "assistant: a", "user: q", "-assistant: b")], [tokenizer.eos_token_id])
    assert tokenizer.eos_token_id not in tokens.input_ids
    assert trained_parts(tokenizer, tokens) == [" a\n"]  # the blank is a part of the word


# --- tool calls -----------------------------------------------------------------------------------------------------

# The layout of Hermes 2 Pro and Qwen 2.5: calls as JSON in tags, the tools' answers together in a user's turn
TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    "{{ '\n</tools><|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif m.tool_calls %}{{ '<|im_start|>assistant\n' + m.content }}"
    "{% for call in m.tool_calls %}"
    "{{ '<tool_call>' + call.function.name + ' ' + call.function.arguments | tojson + '</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def calls(*arguments):
    return [{"id": f"c{n}", "function": {"name": "weather", "arguments": a}} for n, a in enumerate(arguments)]


WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TALK = [
    {"role": "user", "content": "Where is it warmer?"},
    {"role": "assistant", "content": None, "tool_calls": calls('{"city": "Zürich"}', {"city": "Lima"})},
    {"role": "tool", "content": "12 °C", "tool_call_id": "c0", "name": "weather"},
    {"role": "tool", "content": "19 °C", "tool_call_id": "c1", "name": "weather"},
    {"role": "assistant", "content": "In Lima."},
]


def test_a_call_is_trained_and_what_the_tool_said_is_not(tokenizer):
    tokenizer.chat_template = TOOLS
    example = conversation(TALK, [WEATHER])
    [tokens] = encode(tokenizer, [example], [tokenizer.eos_token_id])
    assert trained_parts(tokenizer, tokens) == [
        '<tool_call>weather {"city": "Zürich"}</tool_call><tool_call>weather {"city": "Lima"}</tool_call><|im_end|>',
        "In Lima.<|im_end|>",
    ]
    text = tokenizer.decode(tokens.input_ids)
    assert f"<tools>\n{json.dumps({'type': 'function', 'function': WEATHER})}\n</tools>" in text
    assert "<|im_start|>user\n<tool_response>\n12 °C\n</tool_response>\n<tool_response>\n19 °C\n" in text


def test_a_row_may_end_in_a_call_and_a_call_may_be_left_out_of_training(tokenizer):
    tokenizer.chat_template = TOOLS
    ends = conversation(TALK[:2])
    masked = conversation([TALK[0], {**TALK[1], "weight": 0}, *TALK[2:]])
    first, second = encode(tokenizer, [ends, masked], [tokenizer.eos_token_id])
    assert trained_text(tokenizer, first).startswith("<tool_call>weather")
    assert trained_text(tokenizer, second) == "In Lima.<|im_end|>"


def test_rows_with_several_lists_of_tools_keep_their_own(tokenizer):
    tokenizer.chat_template = TOOLS
    names = ["a", "", "b", "a", ""]
    rows = [conversation(TALK, [{"name": f"tool-{name}"}] if name else ()) for name in names]
    together = encode(tokenizer, rows, [tokenizer.eos_token_id])
    assert together == [encode(tokenizer, [one], [tokenizer.eos_token_id])[0] for one in rows]
    texts = [tokenizer.decode(tokens.input_ids) for tokens in together]
    assert [[name for name in "ab" if f"tool-{name}" in text] for text in texts] == [["a"], [], ["b"], ["a"], []]


@pytest.mark.parametrize("template", [CHATML, LLAMA3, DEFAULT_CHAT_TEMPLATE])
def test_a_template_that_would_leave_out_calls_or_tools_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="the rows have tool calls and the chat template leaves them out; set"):
        encode(tokenizer, [conversation(TALK)], [tokenizer.eos_token_id])
    with pytest.raises(ModelError, match="or leave the column out: `tools: null` on the format"):
        encode(tokenizer, [row("user: q", "assistant: a", tools=[WEATHER])], [tokenizer.eos_token_id])
    encode(tokenizer, [row("user: q", "assistant: a", tools=[])], [tokenizer.eos_token_id])


# --- tokens and mask against plain rules ----------------------------------------------------------------------------

TRICKY = [
    "🙂",
    "👩‍👩‍👧",
    "e\u0301",
    "\r\n",
    "\t",
    "\u00a0",
    "ﬁ",
    "½",
    "İ",
    "日本",
    "\u200d",
    "  ",
    " a",
    "\ufeff",
    "\x00",
    "ｱ",
    "한",
]
TRICKY += ["\u1100\u1161", "</s>", "<|im_end|>", "supplier", "1234"]
TEXTS = st.lists(st.sampled_from(TRICKY) | st.text(st.characters(codec="utf-8"), max_size=5), max_size=12).map("".join)
TRAINED_ON = ["The supplier shall keep data secret.\r\n Double  two, café naïve 日本語 🙂👩‍👩‍👧 e\u0301 ﬁ ½ "] * 3


def by_offsets(tokenizer, text, stops):
    """The mask as the offsets tell it: a token is trained when it touches an answer, up to the last stop in it."""
    encoding = tokenizer(text.text, add_special_tokens=not text.is_chat, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    trained, ended = [False] * len(ids), False
    for start, end in text.answers:
        inside = [at for at, (left, right) in enumerate(offsets) if left < end and right > start]
        stop = max((at for at in inside if text.is_chat and ids[at] in stops), default=None)
        for at in inside:
            trained[at] = stop is None or at <= stop
        ended = stop is not None
    if not text.is_chat and ids[-1:] == [tokenizer.eos_token_id]:
        trained[-1] = True
    elif not ended and (text.ends or not text.is_chat):
        ids, trained = [*ids, tokenizer.eos_token_id], [*trained, True]
    return Tokens(ids, trained)


def smollm2():
    from transformers import AutoTokenizer

    found = sorted((Path.home() / ".cache" / "ftp" / "gguf").glob("*/tokenizer.json"))
    if not found:
        pytest.skip("no model in ~/.cache/ftp/gguf")
    return AutoTokenizer.from_pretrained(found[0].parent)


@pytest.fixture(scope="module", params=["tiny", "SmolLM2", "Metaspace", "Llama 2", "Unigram", "WordPiece"])
def any_tokenizer(request, ftp_tiny_model):
    from transformers import AutoTokenizer

    if request.param == "tiny":
        return AutoTokenizer.from_pretrained(ftp_tiny_model)
    return smollm2() if request.param == "SmolLM2" else tokenizer_of(request.param, TRAINED_ON)


@pytest.fixture(scope="module")
def fast(any_tokenizer):
    return ByteLevel.of(any_tokenizer)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.booleans(), st.booleans())
def test_the_mask_is_what_the_offsets_say(any_tokenizer, fast, pieces, is_chat, ends):
    text, answers = "", []
    for before, answer in pieces:
        text += before
        if answer:
            answers.append((len(text), len(text) + len(answer)))
        text += answer
    if not answers or not is_chat:
        text, answers = text or "a", [(0, len(text or "a"))]
    found = Rendered(text, answers, is_chat, ends)
    stops = (any_tokenizer.eos_token_id,)
    wanted = by_offsets(any_tokenizer, found, stops)
    for way in (None, fast):
        [(ids, spans)] = encode_texts(any_tokenizer, [found], stops, way)
        assert ids == wanted.input_ids
        assert [any(start <= at < end for start, end in spans) for at in range(len(ids))] == wanted.trained


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS.filter(str.strip), min_size=2, max_size=5), st.sampled_from([CHATML, LLAMA3, TOOLS]))
def test_the_tokens_are_those_of_the_chat_template(any_tokenizer, contents, template):
    any_tokenizer.chat_template = template
    contents = contents[: len(contents) // 2 * 2]
    example = replace(talk(*contents), control_tokens="allow")
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    wanted = any_tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    [tokens] = encode(any_tokenizer, [example], [any_tokenizer.eos_token_id])
    end = [any_tokenizer.eos_token_id]
    assert tokens.input_ids in (wanted, wanted + end)
    assert tokens == by_offsets(any_tokenizer, rendered(any_tokenizer, [example])[0], end)


def test_tool_calls_have_the_tokens_of_the_chat_template(any_tokenizer):
    any_tokenizer.chat_template = TOOLS
    example = conversation(TALK, [WEATHER])
    given = [{**turn, "content": turn["content"] or ""} for turn in TALK]
    given[1] = {**given[1], "tool_calls": calls({"city": "Zürich"}, {"city": "Lima"})}
    tools = [{"type": "function", "function": WEATHER}]
    wanted = any_tokenizer.apply_chat_template(given, tools=tools, tokenize=True, return_dict=False)
    [tokens] = encode(any_tokenizer, [example], [any_tokenizer.eos_token_id])
    assert tokens.input_ids[: len(wanted)] == wanted


def test_a_tokenizer_saved_with_truncation_and_padding_cuts_and_pads_nothing(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    examples = [talk("q", "short"), talk("q", "long " * 100), Example(text="words " * 50)]
    wanted = encode(tokenizer, examples, [tokenizer.eos_token_id])
    tokenizer.backend_tokenizer.enable_truncation(max_length=8)
    tokenizer.backend_tokenizer.enable_padding(length=16, pad_id=tokenizer.pad_token_id)
    tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    assert saved["truncation"]["max_length"] == 8 and saved["padding"]
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert encode(again, examples, [again.eos_token_id]) == wanted
    assert len(wanted[1].input_ids) > 100
