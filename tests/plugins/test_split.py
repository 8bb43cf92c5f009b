"""Validation rows: the same share of every source, and none that a training row gives away."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftp.data.examples import Corpus, write_examples
from ftp.data.ledger import Ledger
from ftp.data.split import carve, groups_of, together
from ftp.testing import assert_component_ok
from ftp.types import Example
from ftp_plugins.curators.split import Split


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Rows of text written to disk, from `(text, origin, group, role)` or the text alone, and their ledger."""

    def corpus(rows, watched=()):
        ledger, parts = Ledger(), {"train": [], "validation": []}
        for split, of in (("train", rows), ("validation", watched)):
            for line, row in enumerate(of):
                text, origin, group, role = (*((row,) if isinstance(row, str) else row), "", "", "domain")[:4]
                id = ledger.add(split, line, split, role or "domain")
                parts[split].append(
                    Example(text=text, id=id, source=split, role=role or "domain", origin=origin, group=group)
                )
        directory = tmp_path_factory.mktemp("rows")
        train, validation = (write_examples(directory / f"{name}.arrow", part) for name, part in parts.items())
        return Corpus(train, validation, {}), ledger

    return corpus


def row(text, origin="", group="", role="domain"):
    return text, origin, group, role


def ids(rows):
    return rows.column("id")


def sentence(rng, words=30):
    return " ".join(rng.choices([f"w{n}" for n in range(3000)], k=words))


# --- carve, in the core ---------------------------------------------------------------------------------------------


def test_every_source_gives_its_share(corpus):
    rng = random.Random(0)
    origins = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    rng.shuffle(origins)
    before, ledger = corpus([row(f"text {n}", origin) for n, origin in enumerate(origins)])
    train, validation = carve(before.train, 0.1, 7, ledger)
    assert Counter(validation.column("origin")) == {"a": 60, "b": 30, "c": 10}
    assert ids(train) == [id for id in ids(before.train) if id not in set(ids(validation))]  # the order stays
    assert ids(validation) == [id for id in ids(before.train) if id not in set(ids(train))]
    assert ledger.kept("validation") == set(ids(validation))
    assert ledger.kept("train") == set(ids(train))


def test_many_small_sources_together_give_their_share(corpus):
    before, ledger = corpus([row(f"text {n}", f"source {n // 4}") for n in range(200)])
    _, validation = carve(before.train, 0.1, 0, ledger)
    assert len(validation) == 20


def test_the_seed_draws(corpus):
    def drawn(seed):
        before, ledger = corpus([row(f"text {n}") for n in range(100)])
        return ids(carve(before.train, 0.2, seed, ledger)[1])

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(drawn(1)) == len(drawn(2)) == 20


def test_the_draw_does_not_depend_on_the_names_of_groups(corpus):
    drawn = []
    for names in (range(100), [f"x{n}" for n in range(100)], range(100, 0, -1)):
        before, ledger = corpus([row(f"text {n}") for n in range(100)])
        drawn.append(ids(carve(before.train, 0.2, 3, ledger, list(names))[1]))
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize(
    ("rows", "share", "carved"),
    [
        ([], 0.5, 0),
        (["a"], 0.5, 0),
        (["a", "b"], 0, 0),
        (["a", "b"], 0.01, 1),
        (["a", "b"], 0.99, 1),
        ([row("a", group="g"), row("b", group="g")], 0.5, 0),  # one group has no other side
        ([row("a", group="g"), row("b", group="g"), row("c")], 0.01, 1),  # the smallest group goes
        ([row("a", group="g"), row("b", group="g"), row("c")], 0.99, 1),  # the largest stays
        ([row("a"), row("b", role="replay")], 0.5, 0),
        ([row("a", group="g"), row("b", group="g", role="replay"), row("c")], 0.9, 1),
        ([row("a", group="g"), row("b", group="g", role="replay")], 0.9, 0),
        ([row("a", role="replay"), row("b", role="replay")], 0.5, 0),
    ],
)
def test_at_least_one_row_on_each_side(corpus, rows, share, carved):
    before, ledger = corpus(rows)
    train, validation = carve(before.train, share, 0, ledger)
    assert (len(train), len(validation)) == (len(rows) - carved, carved)
    assert ledger.kept("validation") == set(ids(validation))


ROWS = st.tuples(st.sampled_from("xyz"), st.sampled_from(["", "", "g", "h"]), st.sampled_from(["domain", "replay"]))


@given(rows=st.lists(ROWS, max_size=60), share=st.sampled_from([0.01, 0.1, 0.5, 0.9]))
@settings(max_examples=80, deadline=None)
def test_groups_never_straddle(corpus, rows, share):
    before, ledger = corpus([row(f"text {n}", *of) for n, of in enumerate(rows)])
    train, validation = carve(before.train, share, 5, ledger)
    assert sorted(ids(train) + ids(validation)) == sorted(ids(before.train))
    assert set(validation.column("role")) <= {"domain"}
    assert not ({*train.column("group")} & {*validation.column("group")}) - {""}
    assert not len(validation) or "domain" in train.column("role")
    largest = max(Counter(groups_of(before.train)).values(), default=0)
    assert len(validation) <= share * before.train.column("role").count("domain") + largest


def test_carve_takes_rows_already_chosen_from(corpus):
    before, ledger = corpus([row(f"text {n}", group=f"{n % 7}") for n in range(70)])
    part = before.train.take(range(69, -1, -2))
    train, validation = carve(part, 0.3, 0, ledger)
    assert sorted(ids(train) + ids(validation)) == sorted(ids(part))
    assert not {*train.column("group")} & {*validation.column("group")}


# --- the curator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"share": "30%", "seed": 3}, {"near_duplicates": None}])
def test_it_is_a_sound_component(options):
    assert_component_ok(Split, **options)


def straddling(after, families):
    """How many families have a row on both sides."""
    sides = {}
    for name in ("train", "validation"):
        for id in ids(getattr(after, name)):
            sides.setdefault(families[id], set()).add(name)
    return sum(len(found) == 2 for found in sides.values())


def with_copies(count=400):
    """Rows, three to a family: one, its exact copy, and one with its last word changed."""
    rng = random.Random(2)
    rows = []
    for number in range(count):
        text = sentence(rng)
        family = [text, f"{text.upper()}!", " ".join([*text.split()[:-1], f"end{number}"])]
        rows += [(number, row(text, f"source {k}")) for k, text in enumerate(family)]
    rng.shuffle(rows)
    families = {f"train:{line}": number for line, (number, _) in enumerate(rows)}
    return [row for _, row in rows], families


def test_near_duplicates_never_straddle(corpus):
    rows, families = with_copies()
    before, ledger = corpus(rows)
    after = Split(share=0.2, near_duplicates=0.8).curate(before, ledger)
    assert straddling(after, families) == 0
    assert len(after.validation) == pytest.approx(240, abs=3)
    assert ledger.kept("validation") == set(ids(after.validation))
    assert ledger.kept("train") == set(ids(after.train))

    before, ledger = corpus(rows)
    assert straddling(Split(share=0.2, near_duplicates=None).curate(before, ledger), families) > 100
    # Exact duplicates only: the third of each family goes its own way.
    before, ledger = corpus(rows)
    assert straddling(Split(share=0.2, near_duplicates=1).curate(before, ledger), families) > 50


def test_groups_and_near_duplicates_hang_together(corpus):
    rng = random.Random(4)
    rows, families = [], {}
    for number in range(60):
        one, two = sentence(rng), sentence(rng)
        # The first two share a group, the last two their words: all three belong together.
        for text, group in ((one, f"g{number}"), (two, f"g{number}"), (f"{two}.", "")):
            families[f"train:{len(rows)}"] = number
            rows.append(row(text, group=group))
    before, ledger = corpus(rows)
    after = Split(share=0.3).curate(before, ledger)
    assert straddling(after, families) == 0
    assert len(after.validation) == 54


def test_near_duplicates_of_replay_rows_stay(corpus):
    rng = random.Random(5)
    texts = [sentence(rng) for _ in range(40)]
    rows = [row(text) for text in texts] + [row(text, "general", role="replay") for text in texts[:20]]
    before, ledger = corpus(rows)
    after = Split(share=0.4).curate(before, ledger)
    assert len(after.validation) == 8  # a share of the rows that may go
    assert {int(id[6:]) for id in ids(after.validation)} <= set(range(20, 40))


def test_rows_that_are_watched_already_stay(corpus):
    before, ledger = corpus([f"text {n}" for n in range(20)], watched=["watch me", "me too"])
    after = Split(share=0.1, near_duplicates=None).curate(before, ledger)
    assert ids(after.validation)[:2] == ids(before.validation)
    assert len(after.validation) == 4
    assert [example.text for example in after.validation][:2] == ["watch me", "me too"]


def test_all_rows_alike_leave_nothing_to_split(corpus):
    before, ledger = corpus(["the same"] * 10)
    after = Split().curate(before, ledger)
    assert (len(after.train), len(after.validation)) == (10, 0)


@given(one=st.lists(st.integers(0, 8), min_size=1, max_size=25), seed=st.integers(0, 99), count=st.integers(1, 3))
def test_together_is_the_finest_common_coarsening(one, seed, count):
    rng = random.Random(seed)
    groupings = [one] + [[rng.randint(0, 8) for _ in one] for _ in range(count - 1)]
    found = together(*groupings).tolist()
    # By hand: labels spread until nothing changes.
    label = list(range(len(one)))
    while True:
        spread = [
            min(label[j] for j in range(len(one)) if any(groups[i] == groups[j] for groups in groupings))
            for i in range(len(one))
        ]
        if spread == label:
            break
        label = spread
    pairs = [(i, j) for i in range(len(one)) for j in range(i)]
    assert all((found[i] == found[j]) == (label[i] == label[j]) for i, j in pairs)


@pytest.mark.parametrize("options", [{"share": 0}, {"share": 1}, {"seed": -1}, {"near_duplicates": 0.2}])
def test_options_out_of_range(options):
    with pytest.raises(ValidationError):
        Split(**options)
