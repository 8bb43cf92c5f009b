"""Which tokens are trained: the traps of templates, ends of sequence and offsets."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftp.errors import ModelError
from ftp.rendering import DEFAULT_CHAT_TEMPLATE, encode, render, stop_ids
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
