"""Chat templates that run, write or call without end are ended with a message."""

import time

import pytest
from transformers import AutoTokenizer

from ftp.errors import ModelError
from ftp.lm import template_limits
from ftp.lm.hf_tokenizer import finish_tokenizer
from ftp.lm.rendering import render
from ftp.types import Message

ENDLESS = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
RECURSIVE = "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}"
DOUBLING = (
    "{% set s = namespace(t='0123456789' * 1000) %}"
    "{% for n in range(60) %}{% set s.t = s.t ~ s.t %}{% endfor %}{{ s.t }}"
)
HUGE = "{% for a in range(300) %}{{ messages[0]['content'] * 1000 }}{% endfor %}"


@pytest.fixture
def tokenizer(ftp_tiny_model):
    return AutoTokenizer.from_pretrained(ftp_tiny_model)


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (ENDLESS, "ran for 1 seconds without an end"),
        (RECURSIVE, "calls itself without end"),
        (DOUBLING, "took more than 0 GB|takes more memory than there is"),
        (HUGE, "makes more than 100,000 characters"),
        ("{{ 1 // 0 }}", "refuses the turns user: integer division"),
        ("{{ messages[0]['content'].x.y }}", "refuses the turns user"),
    ],
    ids=["endless", "recursive", "doubling", "huge", "division", "undefined"],
)
def test_a_template_is_ended_in_time_with_a_message(tokenizer, monkeypatch, template, what):
    monkeypatch.setattr(template_limits, "SECONDS", 5.0 if template == DOUBLING else 1.0)  # memory has to end first
    monkeypatch.setattr(template_limits, "MOST_MEMORY", 2**28)
    monkeypatch.setattr("ftp.lm.chat_template.MOST_CHARACTERS", 100_000)
    tokenizer.chat_template = template
    began = time.thread_time()
    with pytest.raises(ModelError, match=what):
        render(tokenizer, [Message("user", "Hello.")], answer_next=True)
    assert time.thread_time() - began < 10


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{{ 10 ** 10 ** 9 }}", "raises to a power"),
        ("x" * 2_000_000, "has 2,000,004 characters"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deep"),
    ],
    ids=["power", "long", "deep"],
)
def test_a_template_is_refused_by_its_source(tokenizer, template, what):
    with pytest.raises(ModelError, match=what):
        finish_tokenizer(tokenizer, "{##}" + template)


def test_nothing_is_raised_after_the_block(tokenizer, monkeypatch):
    monkeypatch.setattr(template_limits, "SECONDS", 0.0)
    for _ in range(20):
        with template_limits.limited():
            pass
    time.sleep(0.2)
