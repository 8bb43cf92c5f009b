"""Chat templates as text around turns: those that can be, and those that can't."""

import pytest
from tiny_tokenizers import CHAT, INSTRUCT, byte_level, fast, sentencepiece_like

from ftp import Message, ModelError
from ftp.lm.rendering import DEFAULT_CHAT_TEMPLATE, render
from ftp_plugins.exporters.turn_template import turn_template

LLAMA_3 = (
    "{% for message in messages %}{{ (bos_token if loop.first else '') + '<|start|>' + message['role'] + '<|end|>' }}"
    "{{ '\\n\\n' + message['content'] + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\\n\\n' }}{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_2 = (  # the system's text stands inside the first user's turn
    "{% if messages[0]['role'] == 'system' %}{% set talk = messages[1:] %}{% set system = '<<SYS>>\\n' + "
    "messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set talk = messages %}{% set system = '' %}{% endif %}"
    "{% for message in talk %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{{ (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
COUNTING = "{% for message in messages %}{{ loop.index|string + message['content'] }}{% endfor %}"


def tokenizer(template):
    return fast(byte_level(), template, "<|begin|>", "<|end|>")


TALK = [Message("user", "What?"), Message("assistant", "That."), Message("user", "Why\nso?")]


@pytest.mark.parametrize("template", [CHAT, LLAMA_3, QWEN, LLAMA_2, DEFAULT_CHAT_TEMPLATE, INSTRUCT])
def test_turns_are_written_as_by_the_template(template):
    made = tokenizer(template)
    found = turn_template(made)
    for talk in (TALK[:1], TALK):
        assert found.write(talk) == render(made, talk, answer_next=True)
    if "system" in found.around:
        talk = [Message("system", "Be brief."), *TALK]
        assert found.write(talk) == render(made, talk, answer_next=True)


def test_the_beginning_stands_where_no_system_speaks():
    found = turn_template(tokenizer(QWEN))
    assert found.start == "<|im_start|>system\nYou help.<|im_end|>\n"
    assert found.in_go().startswith('{{ if ne (index .Messages 0).Role "system" }}{{ "<|im_start|>system\\nYou help.')
    assert turn_template(tokenizer(LLAMA_3)).without_bos("<|begin|>").start == ""


def test_what_ollama_would_drop_is_escaped():
    found = turn_template(tokenizer(CHAT.replace("<|turn|>", "<\u00a0start>\u2028")))
    assert "<\\U000000a0start>\\U00002028user" in found.in_go() and found.in_go().isprintable()


def test_a_template_that_counts_is_refused():
    with pytest.raises(ModelError, match="by their place or text"):
        turn_template(tokenizer(COUNTING))


def test_a_role_that_the_template_doesnt_know_is_refused():
    found = turn_template(fast(sentencepiece_like("normalizer"), INSTRUCT, "<s>", "</s>"))
    with pytest.raises(ModelError, match="no turns of 'tool'"):
        found.write([Message("tool", "4")])
