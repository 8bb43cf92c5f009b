"""The curator `dedupe` and the search for near duplicates: nothing dropped without a twin that stays."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftp.data import near_duplicates
from ftp.data.examples import Corpus, write_examples
from ftp.data.ledger import Ledger
from ftp.data.words import words
from ftp.testing import assert_component_ok
from ftp.types import Example, Message
from ftp_plugins.curators.dedupe import Dedupe, nearest_kept

MEDQUAD = Path(__file__).resolve().parents[3] / Path("shared/data/medquad/medquad.jsonl")
LONG = (
    "Once upon a time, in a small house by the sea, there lived an old man who had never seen a ship; "
    "but every evening he lit a lamp, kept it burning until dawn and told the gulls about kappa and other letters"
)


@pytest.fixture
def dedupe(tmp_path):
    """Dedupe some examples (a text is a row of text); return the numbers of those that stay and the ledger."""

    def dedupe(*rows, **options):
        ledger, examples = Ledger(), []
        for number, row in enumerate(rows):
            example = Example(text=row) if isinstance(row, str) else row
            examples.append(Example(**{**fields(example), "id": f"f:{number}", "source": "f"}))
            ledger.add("f", number, "train", example.role)
        train = write_examples(tmp_path / "train.arrow", examples)
        nothing = write_examples(tmp_path / "nothing.arrow", [])
        after = Dedupe(**options).curate(Corpus(train, nothing, {}), ledger)
        kept = after.train.column("id")
        assert set(kept) == ledger.kept("train")
        assert sum(total["rows"] for total in ledger.totals()) == len(rows)
        return [int(id[2:]) for id in kept], ledger

    return dedupe


def fields(example):
    return {name: getattr(example, name) for name in Example.__dataclass_fields__}


def chat(prompt, answer, system="", **more):
    turns = (Message("user", prompt), Message("assistant", answer))
    return Example((Message("system", system), *turns) if system else turns, **more)


@pytest.mark.parametrize("options", [{}, {"on": "prompt"}, {"on": "answer", "keep": "first"}, {"threshold": 1}])
def test_it_is_a_sound_component(options):
    assert_component_ok(Dedupe, **options)


# --- what a duplicate is --------------------------------------------------------------------------------------------


def test_exact_duplicates_have_the_same_words(dedupe):
    kept, ledger = dedupe("One, two three", "something else", "ONE  two\nthree!", "one two four")
    assert kept == [1, 2, 3]  # the longest stays
    assert ledger.row("f:0")["reason"] == "exact duplicate"
    [found] = ledger.findings()
    assert found == {
        "id": "f:0",
        "by": "Dedupe",
        "what": "exact duplicate",
        "other": "f:2",
        "score": 1.0,
        "detail": "",
    }


def test_near_duplicates_are_as_alike_as_the_threshold(dedupe):
    other = LONG.replace("letters", "signs now")
    share = similarity(LONG, other)
    assert 0.8 < share < 1
    kept, ledger = dedupe(LONG, other)
    assert kept == [1]  # longer by two characters
    assert ledger.row("f:0")["reason"] == "near duplicate"
    assert ledger.findings()[0]["score"] == pytest.approx(share)
    assert dedupe(LONG, other, threshold=share)[0] == [1]
    assert dedupe(LONG, other, threshold=share + 1e-9)[0] == [0, 1]
    assert dedupe(LONG, other, LONG, threshold=1, keep="first")[0] == [0, 1]


def similarity(a, b, n=near_duplicates.NGRAM):
    """Jaccard similarity by the definition."""
    one, two = ({tuple(words[k : k + n]) for k in range(len(words) - n + 1)} for words in (a.split(), b.split()))
    return len(one & two) / len(one | two)


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (("!!!", "???", "+", "!!!"), [0, 1, 2]),  # without words the text itself counts
        (("yes", "no", "Yes."), [1, 2]),
        (("a b", "b a", "a b c"), [0, 1, 2]),
        (("機械学習", "機械学習。", "機械"), [1, 2]),
        (("straße", "STRASSE", "ﬁne", "fine"), [1, 3]),  # ligatures and case folding; the longer one stays
        ((), []),
        (("alone",), [0]),
    ],
)
def test_odd_texts(dedupe, rows, kept):
    assert dedupe(*rows)[0] == kept


@pytest.mark.parametrize(
    ("on", "kept"),
    [("whole", [0, 1, 2, 3, 4]), ("prompt", [0, 2, 4]), ("answer", [0, 1, 4])],
)
def test_what_is_compared(dedupe, on, kept):
    rows = [
        chat("What is two and two?", "It is four"),
        chat("What is two and two?", "Four"),
        chat("What is one and three?", "It is four"),
        chat("What is one and three?", "Four"),
        chat("Name a colour", "Red"),
    ]
    assert dedupe(*rows, on=on, keep="first")[0] == kept


def test_earlier_turns_are_part_of_the_prompt(dedupe):
    opening = (Message("user", "I like cats"), Message("assistant", "So do I"))
    more, other = Message("user", "Tell me more"), Message("assistant", "They purr")
    rows = [Example((*opening, more, other)), Example((more, other)), Example((*opening, more, opening[1]))]
    assert dedupe(*rows, on="prompt", keep="first")[0] == [0, 1]


def test_system_turns_are_not_compared(dedupe):
    rules = LONG * 20
    rows = [chat("What is up", "The sky", rules), chat("And what is down", "The earth", rules)]
    assert dedupe(*rows)[0] == [0, 1]
    kept, ledger = dedupe(*rows, chat("What is up", "The sky"))
    assert kept == [0, 1]
    assert ledger.row("f:2")["reason"] == "exact duplicate"
    # Where there is nothing else, they are.
    only = [Example((Message("system", text), Message("assistant", "Yes"))) for text in ("Be kind", "Be quick")]
    assert dedupe(*only, on="prompt")[0] == [0, 1]


def test_tool_calls_are_compared(dedupe):
    def calling(city):
        call = json.dumps([{"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}])
        return Example((Message("user", "Weather?"), Message("assistant", "", tool_calls=call)))

    assert dedupe(calling("Bonn"), calling("Rome"), calling("Bonn"))[0] == [0, 1]


def test_preference_rows_are_compared_by_the_chosen_turns(dedupe):
    def pair(chosen, rejected):
        return Example(chat("Which one?", chosen).messages, rejected=(Message("assistant", rejected),))

    assert dedupe(pair("The red one", "No"), pair("The blue one", "No"), pair("The red one", "Yes"))[0] == [0, 1]


def test_fewer_words_in_an_ngram_find_more(dedupe):
    rows = ("one two three four five six seven", "one two three four five six eight")
    assert dedupe(*rows, ngram=3, threshold=0.7)[0] == [0, 1]
    assert dedupe(*rows, ngram=1, threshold=0.7)[0] == [0]


# --- which row stays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "keep", "kept"),
    [
        ([("a b c", "replay"), ("a b c", "domain")], "first", 1),  # domain before replay
        ([("a, b, c!!!", "replay"), ("a b c", "domain")], "longest", 1),
        ([("a b c", "domain"), ("a, b, c", "domain"), ("a-b-c", "domain")], "longest", 1),
        ([("a b c", "domain"), ("a, b, c", "domain")], "first", 0),
        ([("a-b-c", "domain"), ("a b c", "domain")], "longest", 0),  # the earlier
        ([("a b c", "replay"), ("a, b, c", "replay")], "longest", 1),
    ],
)
def test_which_row_stays(dedupe, rows, keep, kept):
    assert dedupe(*[Example(text=text, role=role) for text, role in rows], keep=keep)[0] == [kept]


def test_the_whole_row_counts_for_the_longest(dedupe):
    assert dedupe(chat("Why?", "No"), chat("Why?", "Because it is so"), on="prompt")[0] == [1]


def test_no_row_goes_for_one_that_went(dedupe):
    # Each text is near the next one only.
    words = [f"w{n}" for n in range(60)]
    texts = [" ".join(words[start : start + 40]) for start in (0, 4, 8, 12)]
    assert similarity(*texts[:2]) >= 0.8 > similarity(*texts[::2])
    kept, ledger = dedupe(*texts, keep="first")
    assert kept == [0, 2]
    assert [(found["id"], found["other"]) for found in ledger.findings()] == [("f:1", "f:0"), ("f:3", "f:2")]


def test_a_twin_of_a_near_duplicate_goes_for_the_row_that_stays(dedupe):
    kept, ledger = dedupe(LONG, LONG + " end", LONG + ", end", keep="first")
    assert kept == [0]
    assert {(found["what"], found["other"]) for found in ledger.findings()} == {("near duplicate", "f:0")}


@given(data=st.data(), threshold=st.sampled_from([0.5, 0.6, 0.8, 0.9]))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_greedy_one(data, threshold):
    sentence = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12).map(" ".join)
    texts = data.draw(st.lists(sentence, min_size=2, max_size=30, unique=True))
    number, sets = near_duplicates.distinct_sets([texts[:7], texts[7:]], 2)
    assert number.tolist() == list(range(len(texts)))
    rank = np.array(data.draw(st.permutations(range(len(texts)))))
    everything = near_duplicates.jaccard(sets, *np.divmod(np.arange(len(texts) ** 2), len(texts))).reshape(
        len(texts), -1
    )
    stands_for, score = nearest_kept(sets, rank, np.zeros(len(texts), np.int64), threshold)
    stay = []
    for at in np.argsort(rank).tolist():
        near_ones = [kept for kept in stay if everything[at, kept] >= threshold]
        assert stands_for[at] == (near_ones[0] if near_ones else at)
        assert score[at] == (everything[at, near_ones[0]] if near_ones else 1)
        if not near_ones:
            stay.append(at)


@pytest.mark.parametrize(
    "options", [{"threshold": 0.4}, {"threshold": 1.1}, {"ngram": 0}, {"on": "title"}, {"keep": "last"}]
)
def test_options_out_of_range(options):
    with pytest.raises(ValidationError):
        Dedupe(**options)


# --- the search -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 0.999999])
def test_bands_and_rows_propose_a_pair_at_the_threshold(threshold):
    bands, rows = near_duplicates.bands_and_rows(threshold)
    assert bands * rows <= near_duplicates.MAX_HASHES
    assert 1 - (1 - threshold**rows) ** bands >= near_duplicates.RECALL - 1e-12
    if threshold == 0.8:
        assert (bands, rows) == (23, 6)


def edited(rng, words, edits):
    words = list(words)
    for _ in range(edits):
        words[rng.randrange(len(words))] = f"new{rng.random()}"
    return words


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_sets_hang_together_when_a_pair_is_similar(threshold):
    rng = random.Random(1)
    texts = []
    for _ in range(150):
        words = rng.choices([f"w{n}" for n in range(5000)], k=rng.randint(5, 120))
        texts += [" ".join(edited(rng, words, rng.randint(0, 4))) for _ in range(4)]
        texts += [" ".join([*words, *rng.sample("abcdef", rng.randint(1, 3))]) for _ in range(2)]
    _, sets = near_duplicates.distinct_sets([texts], 3)
    count = sets.shape[0]
    left, right = np.triu_indices(count, 1)
    close = near_duplicates.jaccard(sets, left, right) >= threshold
    wanted = np.arange(count)
    near_duplicates.join(wanted, left[close], right[close])
    found = near_duplicates.components(sets, threshold)
    assert close.sum() > 50
    assert (found == wanted).all()


@given(
    texts=st.lists(st.lists(st.sampled_from(["a", "b", "ç", "d!"]), max_size=9).map(" ".join), max_size=20),
    n=st.integers(1, 4),
)
@settings(deadline=None)
def test_jaccard_is_exact(texts, n):
    def grams(text):
        found = words(text)
        return {tuple(found[k : k + n]) for k in range(max(1, len(found) - n + 1))} if found else set()

    number, sets = near_duplicates.distinct_sets([texts], n)
    assert [texts.index(text) for text in texts] == [
        min(k for k, other in enumerate(number) if other == of) for of in number
    ]
    for a, i in zip(texts, number, strict=True):
        for b, j in zip(texts, number, strict=True):
            either = grams(a) | grams(b)
            wanted = len(grams(a) & grams(b)) / len(either) if either else 0
            assert near_duplicates.jaccard(sets, np.array([i]), np.array([j]))[0] == wanted


@pytest.fixture
def compared(monkeypatch):
    """How many pairs were compared, lot by lot."""
    lots, exact = [], near_duplicates.jaccard

    def counting(sets, left, right):
        lots.append(len(left))
        return exact(sets, left, right)

    monkeypatch.setattr(near_duplicates, "jaccard", counting)
    return lots


@pytest.mark.parametrize("outsiders", [0, 50])
def test_many_near_duplicates_take_few_comparisons(compared, outsiders):
    """20,000 rows of one template; their pairs would be 200 million."""
    rng = random.Random(0)
    base = [f"w{n}" for n in range(60)]
    texts = [" ".join([*base, f"n{number}"]) for number in range(20_000)]
    # These share much with the others and are not near them.
    texts += [" ".join(edited(rng, base, 4)) for _ in range(outsiders)]
    rng.shuffle(texts)
    _, sets = near_duplicates.distinct_sets([texts], 3)
    labels = near_duplicates.components(sets, 0.8)
    assert np.bincount(labels).max() == 20_000
    assert sum(compared) < 40_000 + 30_000 * outsiders


def test_a_template_in_common_takes_bounded_time_and_hides_no_duplicates(compared, monkeypatch):
    """Rows of one template that are not quite near each other, in buckets that are left early, and pairs among them."""
    monkeypatch.setattr(near_duplicates, "BUCKET_PAIRS", 20_000)
    rng = random.Random(0)
    texts = []
    for number in range(6000):
        words = [*(f"w{n}" for n in range(26)), *(f"x{rng.random()}" for _ in range(4))]
        texts.append(" ".join(words))
        if number % 10 == 0:
            texts.append(" ".join([*words[:-1], "other"]))
    _, sets = near_duplicates.distinct_sets([texts], 3)
    labels = near_duplicates.components(sets, 0.8)
    found = sum(count == 2 for count in np.bincount(labels))
    assert np.bincount(labels).max() == 2
    assert found >= 595
    assert sum(compared) < 3_000_000  # of 21 million pairs


def test_a_chain_of_near_duplicates_hangs_together():
    words = [f"w{n}" for n in range(400)]
    texts = [" ".join(words[start : start + 80]) for start in range(0, 300, 3)]
    _, sets = near_duplicates.distinct_sets([texts], 3)
    assert set(near_duplicates.components(sets, 0.8).tolist()) == {0}


# --- real data ------------------------------------------------------------------------------------------------------


def all_pairs(sets, threshold):
    """Every pair at or above the threshold, from the products of all sets with all: the truth, at a price."""
    from scipy.sparse import csr_array

    columns = np.unique(sets.indices, return_inverse=True)[1]
    whole = csr_array((sets.data.astype(np.int32), columns, sets.indptr), shape=(sets.shape[0], columns.max() + 1))
    sizes, turned = np.diff(sets.indptr), whole.T.tocsr()
    found = []
    for start in range(0, whole.shape[0], 500):
        common = (whole[start : start + 500] @ turned).tocoo()
        left, right = common.coords[0] + start, common.coords[1]
        close = (left < right) & (common.data / (sizes[left] + sizes[right] - common.data) >= threshold)
        found.append(np.stack([left[close], right[close]]))
    return np.concatenate(found, axis=1)


@pytest.mark.slow
@pytest.mark.skipif(not MEDQUAD.exists(), reason="the real data is not here")
@pytest.mark.parametrize("on", ["whole", "answer", "prompt"])
def test_medquad_against_all_pairs(on, tmp_path, record_property):
    examples, ledger = [], Ledger()
    for line, row in enumerate(map(json.loads, MEDQUAD.read_text().splitlines()), 1):
        prompt = f"{row['instruction']}\n\n{row['context']}".strip()
        examples.append(chat(prompt, row["response"], id=ledger.add("m", line, "train", "domain"), source="m"))
    rows = write_examples(tmp_path / "rows.arrow", examples)
    number, sets = near_duplicates.distinct_sets(
        [[near_duplicates.text_of(example, on) for example in examples]], near_duplicates.NGRAM
    )
    left, right = all_pairs(sets, 0.8)

    keys, labels = near_duplicates.band_keys(sets, 0.8), near_duplicates.components(sets, 0.8)
    figures = {"exact": len(number) - sets.shape[0], "pairs": len(left)}
    after = Dedupe(on=on).curate(Corpus(rows, rows.take([]), {}), ledger)
    found = ledger.findings()
    truth = {*zip(left.tolist(), right.tolist(), strict=True)}
    pairs = [tuple(sorted(int(number[int(f[end][2:]) - 1]) for end in ("id", "other"))) for f in found]
    near_pairs = [pair for pair in pairs if pair[0] != pair[1]]
    kept = np.zeros(sets.shape[0], np.bool_)
    kept[number[[int(id[2:]) - 1 for id in after.train.column("id")]]] = True
    figures["kept"] = len(after.train)
    figures["dropped as near"] = len(near_pairs)
    figures["precision"] = np.mean([pair in truth for pair in near_pairs]) if near_pairs else 1.0
    figures["proposed"] = float((keys[left] == keys[right]).any(axis=1).mean()) if truth else 1.0
    figures["recall"] = float((labels[left] == labels[right]).mean()) if truth else 1.0
    figures["pairs left"] = int((kept[left] & kept[right]).sum())
    record_property("figures", figures)
    print(on, figures)
    assert figures["precision"] == 1
    assert min(figures["proposed"], figures["recall"]) >= 0.99
    assert figures["pairs left"] <= 0.01 * len(left)
    assert math.isclose(len(after.train) + len(found), len(rows))
