"""The text of an answer token by token, and how tokens are drawn."""

import random

import pytest
import torch
from transformers import AutoTokenizer

from ftp.lm.sampling import AnswerText, Request, Sampling
from ftp.lm.torch_decode import Row, chosen


@pytest.fixture(scope="module")
def tokenizer(ftp_tiny_model):
    return AutoTokenizer.from_pretrained(ftp_tiny_model)


@pytest.mark.parametrize("text", ["Double two.", " a  b\n", "naïve 東京 🙂🙃 é", "", "\ufffd"])
def test_pieces_make_the_text_and_no_character_is_broken(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    answer = AnswerText(tokenizer)
    pieces = [answer.add(id) for id in ids]
    assert "".join([*pieces, answer.end()]) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_is_in_the_text_at_the_end(tokenizer):
    ids = tokenizer("🙂", add_special_tokens=False)["input_ids"][:-1]
    answer = AnswerText(tokenizer)
    assert not any(answer.add(id) for id in ids)
    assert "\ufffd" in answer.end()


def test_stop_strings_are_found_across_pieces_wherever_they_are(tokenizer):
    words = random.Random(0)
    for _ in range(200):
        text = "".join(words.choice("abc") for _ in range(12))
        stops = ["".join(words.choice("abc") for _ in range(words.randint(1, 4))) for _ in range(2)]
        answer, given = AnswerText(tokenizer, stops), ""
        for id in tokenizer(text, add_special_tokens=False)["input_ids"]:
            given += answer.add(id)
            if answer.stopped:
                break
        given += answer.end()
        ends = [text.find(stop) for stop in stops if stop in text]
        assert answer.stopped == bool(ends)
        # The first to be complete ends it; one that begins earlier and is longer may not be complete yet.
        complete = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=0)
        expected = min((text[:complete].find(stop) for stop in stops if stop in text[:complete]), default=len(text))
        assert given == text[:expected]


def row(tokenizer, **options):
    return Row(Request([1], tokenizer, (), None, Sampling(**options)), 10_000)


def test_draws_follow_temperature_and_top_p(tokenizer):
    logits = torch.full((1, 384), -30.0)
    logits[0, 10], logits[0, 11], logits[0, 12] = 2.0, 1.0, 0.0

    def counts(**options):
        one = row(tokenizer, seed=0, **options)
        ids = [chosen([one], logits)[0].id for _ in range(2000)]
        return [ids.count(id) / len(ids) for id in (10, 11, 12)]

    assert counts() == [1, 0, 0]
    expected = logits[0, 10:13].softmax(-1).tolist()
    assert counts(temperature=1.0) == pytest.approx(expected, abs=0.04)
    hot = (logits[0, 10:13] / 2).softmax(-1).tolist()
    assert counts(temperature=2.0) == pytest.approx(hot, abs=0.04)
    # The likeliest token has 0.67, so 0.6 leaves it alone, and 0.8 the first two.
    assert counts(temperature=1.0, top_p=0.6) == [1, 0, 0]
    two = counts(temperature=1.0, top_p=0.8)
    assert two[2] == 0 and two[0] == pytest.approx(expected[0] / (expected[0] + expected[1]), abs=0.04)


def test_a_seed_draws_the_same_in_any_batch(tokenizer):
    torch.manual_seed(0)
    steps = [torch.randn(1, 384) for _ in range(20)]

    def drawn(others):
        one = row(tokenizer, temperature=1.0, seed=5)
        rest = [row(tokenizer, temperature=1.0) for _ in range(others)]
        return [chosen([*rest, one], logits.expand(others + 1, -1))[-1].id for logits in steps]

    assert drawn(0) == drawn(3)
