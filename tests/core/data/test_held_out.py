"""Eval rows held out of the training rows: groups and near duplicates whole, the same rows when others are added."""

import functools
import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Pairs

from ftp.data.examples import write_examples
from ftp.data.held_out import hold_out
from ftp.data.ledger import Ledger, fates_in_words
from ftp.errors import DataError
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus
from ftp.types import Example

WORDS = [f"w{n}" for n in range(5000)]


@functools.cache
def sentence(seed):
    return " ".join(random.Random(seed).choices(WORDS, k=25))


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """Hold rows out of `(text, origin, group, role)`; the texts of what is left and of what is held out, and the
    ledger."""

    def draw(rows, size, name="heldout"):
        ledger, examples = Ledger(), []
        for line, (text, *rest) in enumerate(rows, 1):
            origin, group, role = (*rest, *("a", "", "domain")[len(rest) :])
            id = ledger.add("rows", line, "train", role)
            examples.append(Example(text=text, id=id, source="rows", role=role, origin=origin, group=group))
        file = tmp_path_factory.mktemp("rows") / "rows.arrow"
        rest, held = hold_out(write_examples(file, examples), name, size, ledger)
        return [row.text for row in rest], [row.text for row in held], ledger

    return draw


def rows(count, origin="a", start=0):
    return [(sentence(n), origin) for n in range(start, start + count)]


def test_a_share_of_every_source(draw):
    first = {sentence(n) for n in range(2000)}
    _, held, ledger = draw([*rows(2000, "a"), *rows(500, "b", 2000)], 0.1)
    origins = Counter("a" if text in first else "b" for text in held)
    assert 160 < origins["a"] < 240  # 200 ± 3 standard deviations
    assert 30 < origins["b"] < 70
    assert ledger.count_kept("eval:heldout") == len(held)


@settings(max_examples=10, deadline=None)
@given(st.integers(20, 80), st.integers(1, 60), st.randoms(use_true_random=False))
def test_no_row_of_a_share_changes_sides_when_rows_are_added_or_moved(draw, count, more, rng):
    rest, held, _ = draw(rows(count), 0.2)
    all_rows = rows(count + more)
    rng.shuffle(all_rows)
    later_rest, later_held, _ = draw(all_rows, 0.2)
    lone = len(held) == 1  # the lowest, drawn because no row was below the share
    assert set(rest) <= set(later_rest) or lone
    assert set(held) <= set(later_held) or lone


def test_another_name_is_another_draw(draw):
    assert set(draw(rows(200), 0.2)[1]) != set(draw(rows(200), 0.2, "other")[1])


def test_so_many_rows_by_the_sizes_of_the_sources(draw):
    _, held, _ = draw([*rows(300, "a"), *rows(100, "b", 300)], 40)
    first = {sentence(n) for n in range(300)}
    assert (len(held), sum(text in first for text in held)) == (40, 30)


def test_near_duplicates_stay_together(draw):
    pairs = [row for n in range(100) for row in ((sentence(n), "a"), (sentence(n) + " more", "a"))]
    rest, held, _ = draw(pairs, 0.2)
    assert held
    assert {text.removesuffix(" more") for text in held}.isdisjoint(text.removesuffix(" more") for text in rest)


def test_groups_stay_together_and_on_their_side_when_they_grow(draw):
    def grouped(each):
        return [(sentence(1000 * n + k), "a", f"patient {n}") for n in range(40) for k in range(each)]

    def sides(each):
        rest, held, _ = draw(grouped(each), 0.25)
        of = {text: group for text, _, group in grouped(each)}
        return {of[text] for text in rest}, {of[text] for text in held}

    rest, held = sides(3)
    assert rest.isdisjoint(held)
    assert len(rest) + len(held) == 40
    assert sides(6) == (rest, held)


def test_replay_rows_are_never_held_out(draw):
    rest, held, _ = draw([*rows(20), *((sentence(n), "b", "", "replay") for n in range(100, 150))], 0.5)
    assert len(held) <= 19
    assert {sentence(n) for n in range(100, 150)} <= set(rest)


def test_a_large_source_has_a_row_and_a_small_share_one(draw):
    assert all(len(draw(rows(12, start=start), 0.1)[1]) >= 1 for start in range(0, 120, 12))
    assert len(draw(rows(5), 0.01)[1]) == 1


@pytest.mark.parametrize(("count", "size"), [(1, 0.5), (5, 5), (5, 50), (3, 0.999999)])
def test_what_would_leave_nothing_to_train_on_is_refused(draw, count, size):
    with pytest.raises(DataError, match=r"data\.evals\.heldout: .* can't be held out of .* some must stay to train on"):
        draw(rows(count), size)


def test_the_ledger_tells_of_every_row(draw):
    _, held, ledger = draw(rows(50), 10)
    [held_out] = [total for total in ledger.totals() if total["fate"] == "held out"]
    assert (held_out["split"], held_out["by"], held_out["rows"]) == ("eval:heldout", "evals.heldout", len(held))
    assert fates_in_words(ledger) == [
        "evals.heldout: 10 rows held out of the training rows",
    ]


def test_they_are_drawn_before_validation_and_whatever_the_seed(tmp_path):
    lines = [json.dumps({"instruction": sentence(n), "response": sentence(-n)}) for n in range(200)]
    (tmp_path / "one.jsonl").write_text("\n".join(lines))
    source = Source(path=str(tmp_path / "one.jsonl"), format=Pairs())
    data = Data(train=[source], evals={"heldout": 0.2, "second": 20}, validation=0.1)

    def held(seed, directory):
        corpus, ledger = build_corpus(data, tmp_path / directory, tmp_path, seed)
        assert list(corpus.evals) == ["heldout", "second"]
        parts = [corpus.train, corpus.validation, *corpus.evals.values()]
        assert sum(map(len, parts)) == len(ledger) == 200
        ids = [set(part.column("id")) for part in parts]
        assert len(set.union(*ids)) == 200
        return ids[1:]

    one, other = held(1, "one"), held(2, "other")
    assert one[1:] == other[1:]
    assert one[0] != other[0]
    assert len(one[2]) == 20


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0", "must be greater than or equal to 1, not 0"),
        ("0.0", "must be greater than 0, not 0.0"),
        ("1.0", "must be less than 1, not 1.0"),
        ("-3", "must be greater than or equal to 1, not -3"),
        ("100%", 'must be less than 1, not "100%"'),
        ("a tenth", 'must be a number, not "a tenth"'),
        ("true", "must be a number, not true"),
    ],
)
def test_sizes_that_are_none(ftp, toy_recipe, given, said):
    outcome = ftp("check", str(toy_recipe()), "--set", f"data.evals.heldout={given}")
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.parametrize("given", ["10%", "0.3", "3"])
def test_sizes(ftp, toy_recipe, given):
    outcome = ftp("check", str(toy_recipe()), "--set", f"data.evals.heldout={given}")
    assert outcome.code == 0, outcome.err
    assert "evals.heldout: " in outcome.out
    assert "held out before validation and curators" in outcome.out
