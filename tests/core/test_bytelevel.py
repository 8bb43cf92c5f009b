"""Answers found by the bytes of the tokens are the ones that the tokenizer's offsets find."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from ftp.bytelevel import token_bytes
from ftp.rendering import encode_texts, rendered
from ftp.types import Example, Message


@pytest.fixture(scope="module")
def tokenizer(ftp_tiny_model):
    return AutoTokenizer.from_pretrained(ftp_tiny_model)


def talk(*contents):
    roles = ("user", "assistant") * len(contents)
    return Example(tuple(Message(role, content) for role, content in zip(roles, contents, strict=False)))


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30) | st.sampled_from(
    ["a 👩‍👩‍👧 b", "\r\n\t x", "é", "<|im_end|>", " <|bos|> ", "東京", "  ", "naïve\u2028"]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(TEXTS, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0),
    st.sampled_from(["answers", "all"]),
)
def test_bytes_find_what_offsets_find(tokenizer, contents, loss_on):
    rows = rendered(tokenizer, [talk(*contents), talk("plain", "words")], loss_on)
    stops = (tokenizer.eos_token_id,)
    sizes = token_bytes(tokenizer)
    assert sizes is not None
    assert encode_texts(tokenizer, rows, stops, sizes) == encode_texts(tokenizer, rows, stops)


def test_a_tokenizer_that_is_not_byte_level_has_no_sizes(tokenizer):
    from tokenizers import Tokenizer, decoders, models

    class Other:
        backend_tokenizer = Tokenizer(models.BPE())

    Other.backend_tokenizer.decoder = decoders.Metaspace()
    assert token_bytes(Other) is None


def test_tokens_that_do_not_spell_the_text_are_left_to_the_offsets(tokenizer):
    rows = rendered(tokenizer, [talk("a question", "an answer")])
    wrong = token_bytes(tokenizer) + 1
    assert encode_texts(tokenizer, rows, (tokenizer.eos_token_id,), wrong) == encode_texts(
        tokenizer, rows, (tokenizer.eos_token_id,)
    )
