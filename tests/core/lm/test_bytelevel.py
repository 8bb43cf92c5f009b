"""The fast way to encode gives the ids and the answers that the tokenizer and its offsets give."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ftp.lm.ascii_bpe import PROBE, AsciiBPE
from ftp.lm.byte_level import ByteLevel, token_bytes
from ftp.lm.rendering import encode_texts, rendered
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
@given(st.lists(TEXTS, min_size=2, max_size=6).filter(lambda t: len(t) % 2 == 0), st.sampled_from(["answers", "all"]))
def test_the_fast_way_finds_what_offsets_find(tokenizer, contents, loss_on):
    rows = rendered(tokenizer, [talk(*contents), talk("plain", "words")], loss_on)
    stops = (tokenizer.eos_token_id,)
    fast = ByteLevel.of(tokenizer)
    assert fast is not None
    assert encode_texts(tokenizer, rows, stops, fast) == encode_texts(tokenizer, rows, stops)
    assert fast.encode([rows[1].text], [rows[1].answers]) != [None]


def test_tokens_that_do_not_spell_the_text_are_left_to_the_offsets(tokenizer):
    rows = rendered(tokenizer, [talk("a question", "an answer")])
    fast = ByteLevel(tokenizer, sizes=token_bytes(tokenizer) + 1)
    assert fast.encode([rows[0].text], [rows[0].answers]) == [None]
    stops = (tokenizer.eos_token_id,)
    assert encode_texts(tokenizer, rows, stops, fast) == encode_texts(tokenizer, rows, stops)


# --- ASCII text, word by word --------------------------------------------------------------------------------------

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ASCII = st.text(st.characters(codec="ascii"), max_size=60) | st.lists(
    st.sampled_from(
        [
            "'S",
            "'ll",
            " ",
            "  ",
            "\n",
            "\r\n",
            "\t",
            "12",
            "3456",
            "word",
            "Word",
            "_",
            "<|im_end|>",
            "\x1c",
            "\x0b",
            "!",
        ]
    )
).map("".join)


def byte_level(*before, use_regex):
    """A tokenizer that cuts in this way, with merges learned from some English."""
    bpe = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*before, level]) if before else level
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    text = [PROBE, "word Word words 12 123 3456 don't DON'T we'll", "the term of this agreement\n\n  is thirty days"]
    learn = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|im_end|>", "<|im"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(text, learn)
    return PreTrainedTokenizerFast(tokenizer_object=bpe)


TOKENIZERS = {
    "GPT-2": byte_level(use_regex=True),
    "SmolLM2": byte_level(pre_tokenizers.Digits(individual_digits=True), use_regex=True),
    "Llama 3": byte_level(pre_tokenizers.Split(Regex(LLAMA3), "isolated"), use_regex=False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=400, deadline=None)
@given(ASCII)
def test_ascii_text_word_by_word(name, text):
    tokenizer = TOKENIZERS[name]
    words = AsciiBPE.of(tokenizer)
    assert words is not None
    assert words.encode(text) == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ["é", "a\u2028b", "\xa0"])
def test_other_text_is_left_to_the_tokenizer(text):
    assert AsciiBPE.of(TOKENIZERS["GPT-2"]).encode(text) is None


def changed(**layout):
    found = json.loads(TOKENIZERS["GPT-2"].backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps({**found, **layout})))


def test_a_tokenizer_of_another_make_is_left_alone():
    digits = byte_level(pre_tokenizers.Digits(individual_digits=False), use_regex=True)
    removed = byte_level(pre_tokenizers.Split(Regex(r"\s+"), "removed"), use_regex=False)
    lower = changed(normalizer={"type": "Lowercase"})
    spaced = changed(
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}
    )
    for tokenizer in (digits, removed, lower, spaced):
        assert AsciiBPE.of(tokenizer) is None
    assert ByteLevel.of(lower) is None
    assert AsciiBPE.of(changed(normalizer={"type": "NFC"})) is not None


def test_text_that_the_expression_leaves_over_is_left_to_the_tokenizer():
    letters = byte_level(pre_tokenizers.Split(Regex(r"[a-z]+|[A-Z0-9\s]"), "isolated"), use_regex=False)
    words = AsciiBPE.of(letters)
    assert words is None or words.encode("a--b") is None
