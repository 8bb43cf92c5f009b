"""The curator `mix`: exactly the shares that were asked for, and never a row twice."""

import json
import re
from collections import Counter

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftp.data.examples import Corpus, write_examples
from ftp.data.ledger import Ledger
from ftp.errors import DataError
from ftp.types import Example
from ftp_plugins.curators.mix import Mix, draws, in_proportion, largest_share


@pytest.fixture
def mix(tmp_path):
    """Mix a corpus of so many domain and replay rows; return the ids that stay and the ledger's totals."""

    def mix(domain, replay, curator):
        roles = ["replay"] * (replay // 2) + ["domain"] * domain + ["replay"] * (replay - replay // 2)
        examples = [Example(text="x", id=f"f:{n}", source="f", role=role) for n, role in enumerate(roles)]
        ledger = Ledger()
        for n, example in enumerate(examples):
            ledger.add("f", n, "train", example.role)
        train = write_examples(tmp_path / "train.arrow", examples)
        nothing = write_examples(tmp_path / "nothing.arrow", [])
        mixed = curator.curate(Corpus(train, nothing, {}), ledger)
        return [(example.id, example.role) for example in mixed.train], ledger.totals()

    return mix


@pytest.mark.parametrize(
    ("domain", "replay", "share", "drawn"),
    [(95, 50, 0.05, 5), (100, 50, 0.05, 5), (10, 50, 0.5, 10), (10, 40, 0.8, 40), (100, 20, 0, 0), (8, 0, 0.01, 0)],
)
def test_the_share_is_of_the_final_rows(mix, domain, replay, share, drawn):
    kept, totals = mix(domain, replay, Mix(replay=share))
    roles = [role for _, role in kept]
    assert roles.count("domain") == domain
    assert roles.count("replay") == drawn
    assert len(set(kept)) == len(kept)
    assert [id for id, _ in kept] == sorted((id for id, _ in kept), key=lambda id: int(id[2:]))  # the order stays
    dropped = [total for total in totals if total["fate"] == "dropped"]
    assert sum(total["rows"] for total in dropped) == replay - drawn
    assert all((total["by"], total["reason"]) == ("Mix", "replay row not drawn") for total in dropped)
    assert sum(total["rows"] for total in totals) == domain + replay


def test_the_seed_decides_which_rows(mix):
    first, again, other = (mix(90, 60, Mix(replay=0.1, seed=seed))[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(first) == len(other) == 100


@pytest.mark.parametrize(("domain", "replay"), [(100, 3), (1, 1), (997, 13), (7, 5), (300, 0), (3, 40)])
def test_an_impossible_share_names_the_largest_that_works(mix, domain, replay):
    with pytest.raises(DataError) as caught:
        mix(domain, replay, Mix(replay=0.99))
    found = re.fullmatch(
        rf"Mix: a replay share of 99.00% needs {domain * 99} replay rows and there are {replay}; "
        r"rows are never repeated: add some, or ask for at most ([\d.]+)%",
        str(caught.value),
    )
    assert found, str(caught.value)
    largest = float(found[1]) / 100
    kept, _ = mix(domain, replay, Mix(replay=largest))
    assert [role for _, role in kept].count("replay") == replay  # all of them
    with pytest.raises(DataError):
        mix(domain, replay, Mix(replay=min(0.999, largest + 2 / (domain + replay))))


@given(domain=st.integers(1, 5000), replay=st.integers(0, 5000))
def test_the_largest_share_always_works(domain, replay):
    assert draws(domain, largest_share(domain, replay)) <= replay


@pytest.mark.parametrize("share", [1, 1.5, -0.1, "100%", "much", float("nan")])
def test_a_share_is_below_one(share):
    with pytest.raises(ValidationError):
        Mix(replay=share)


def test_a_share_in_percent():
    assert Mix(replay="2.5%").replay == pytest.approx(0.025)


# --- several sources -------------------------------------------------------------------------------------------------


@pytest.fixture
def mix_sources(tmp_path):
    """Mix sources of so many rows, `replay` in the name making them replay; return the rows of each that stay, all ids
    that stay, and the ledger."""

    def mix_sources(sizes, **options):
        ledger, examples = Ledger(), []
        for origin, size in sizes.items():
            role = "replay" if "replay" in origin else "domain"
            for line in range(1, size + 1):
                id = ledger.add(f"{origin}.jsonl", line, "train", role)
                examples.append(Example(text="x", id=id, source=f"{origin}.jsonl", role=role, origin=origin))
        train = write_examples(tmp_path / "train.arrow", examples)
        nothing = write_examples(tmp_path / "nothing.arrow", [])
        mixed = Mix(**options).curate(Corpus(train, nothing, {}), ledger).train
        ids = mixed.column("id")
        kept = ledger.kept("train")
        assert ids == [example.id for example in examples if example.id in kept]  # once each, in the corpus's order
        assert sum(total["rows"] for total in ledger.totals()) == len(examples)
        return dict(Counter(mixed.column("origin"))), ids, ledger

    return mix_sources


@pytest.mark.parametrize(
    ("sizes", "options", "kept"),
    [
        # Each replay source in proportion to its size.
        ({"d": 95, "replay-a": 80, "replay-b": 20}, {"replay": 0.05}, {"d": 95, "replay-a": 4, "replay-b": 1}),
        ({"d": 50, "e": 45, "replay": 80}, {"replay": "5%"}, {"d": 50, "e": 45, "replay": 5}),
        # Shares: sources without one stay whole; with one for every source the mix is as large as it can be.
        ({"d": 85, "g": 50, "c": 50}, {"shares": {"g": "5%", "c": "10%"}}, {"d": 85, "g": 5, "c": 10}),
        ({"d": 85, "replay": 50}, {"shares": {"replay": "15%"}}, {"d": 85, "replay": 15}),
        ({"d": 100, "g": 90}, {"shares": {"d": 0.8, "g": 0.2}}, {"d": 100, "g": 25}),
        ({"d": 100, "g": 10}, {"shares": {"d": 0.8, "g": 0.2}}, {"d": 40, "g": 10}),
        ({"d": 85, "g": 50}, {"shares": {"g": 0}}, {"d": 85}),
        # Weights.
        ({"d": 90, "g": 50}, {"weights": {"d": 3, "g": 1}}, {"d": 90, "g": 30}),
        ({"d": 90, "g": 10}, {"weights": {"d": 3, "g": 1}}, {"d": 30, "g": 10}),
        ({"d": 90, "g": 10}, {"weights": {"d": 1, "g": 0}}, {"d": 90}),
        # Temperature: 1 leaves all, 2 takes square roots.
        ({"d": 10000, "g": 100}, {"temperature": 1}, {"d": 10000, "g": 100}),
        ({"d": 10000, "g": 100}, {"temperature": 2}, {"d": 1000, "g": 100}),
        ({"d": 10000, "g": 100}, {"temperature": 1e9}, {"d": 100, "g": 100}),
        # A cap, alone and before the others.
        ({"d": 90, "g": 10, "replay": 60}, {"cap": 50}, {"d": 50, "g": 10, "replay": 50}),
        ({"d": 90, "replay": 80}, {"cap": 50, "replay": 0.5}, {"d": 50, "replay": 50}),
        ({"d": 900, "g": 100}, {"cap": 400, "temperature": 2}, {"d": 200, "g": 100}),
    ],
)
def test_the_rows_of_each_source(mix_sources, sizes, options, kept):
    assert mix_sources(sizes, **options)[0] == kept


def test_the_ledger_says_what_became_of_each_source(mix_sources):
    sizes = {"d": 90, "replay-a": 60, "replay-b": 30}
    _, _, ledger = mix_sources(sizes, replay=0.1, cap=50)
    dropped = {total["reason"]: total["rows"] for total in ledger.totals() if total["fate"] == "dropped"}
    assert dropped == {
        "over the cap (d: 50 of 90 stay)": 40,
        "over the cap (replay-a: 50 of 60 stay)": 10,
        "replay row not drawn (replay-a: 4 of 50 stay)": 46,
        "replay row not drawn (replay-b: 2 of 30 stay)": 28,
    }
    _, _, ledger = mix_sources({"d": 90, "g": 60}, shares={"g": 0.1})
    dropped = {total["reason"]: total["rows"] for total in ledger.totals() if total["fate"] == "dropped"}
    assert dropped == {"not drawn (g: 10 of 60 stay)": 50}


def test_the_seed_decides_for_every_way_of_mixing(mix_sources):
    for options in ({"shares": {"g": 0.1}}, {"weights": {"d": 1, "g": 1}}, {"temperature": 3}, {"cap": 40}):
        first, again, other = (mix_sources({"d": 90, "g": 60}, seed=seed, **options)[1] for seed in (0, 0, 1))
        assert first == again
        assert first != other


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    others=st.integers(1, 300),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    shares=st.lists(st.integers(0, 60), min_size=3, max_size=3),
)
def test_impossible_shares_name_the_largest_that_work(mix_sources, others, sizes, shares):
    given_shares = {f"s{n}": share / 100 for n, (_, share) in enumerate(zip(sizes, shares, strict=False))}
    assume(sum(given_shares.values()) < 0.99)
    all_sizes = {"d": others, **{f"s{n}": size for n, size in enumerate(sizes)}}
    try:
        kept, _, _ = mix_sources(all_sizes, shares=given_shares)
    except DataError as error:
        for problem in error.problems:
            found = re.search(r"a share of [\d.]+% of (s\d) needs \d+ rows .* ask for at most ([\d.]+)%", problem)
            given_shares[found[1]] = float(found[2]) / 100
        kept, _, _ = mix_sources(all_sizes, shares=given_shares)  # all at once, they work
    assert kept["d"] == others
    rest = 1 - sum(given_shares.values())
    for name, share in given_shares.items():
        assert kept.get(name, 0) == round(others * share / rest)


def test_an_impossible_share_is_told(mix_sources):
    with pytest.raises(DataError) as caught:
        mix_sources({"d": 100, "g": 3, "h": 90}, shares={"g": 0.2, "h": 0.3})
    assert str(caught.value) == (
        "Mix: a share of 20.00% of g needs 40 rows and there are 3; rows are never repeated: add some, "
        "or ask for at most 2.03%"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shares": {"web": 0.1}}, "no training row comes from a source called 'web'; known: code.jsonl, d, general"),
        (
            {"shares": {"generall": 0.1}},
            "no training row comes from a source called 'generall'; did you mean 'general'?; known: code.jsonl, d, "
            "general",
        ),
        ({"weights": {"d": 1, "general": 2}}, "weights: every source needs one; missing: code.jsonl"),
        (
            {"shares": {"d": 0.5, "general": 0.2, "code.jsonl": 0.2}},
            "every source has a share and they add up to 90.00%; make it 100%, or leave out the source that "
            "stays whole",
        ),
        (
            {"shares": {"d": 0.5, "general": 0.5}},
            "the shares add up to 100% and leave nothing for code.jsonl, which would stay whole; lower them, or name "
            "every source",
        ),
    ],
)
def test_names_and_shares_that_do_not_fit_the_sources(mix_sources, options, words):
    with pytest.raises(DataError) as caught:
        mix_sources({"d": 10, "general": 10, "code.jsonl": 10}, **options)
    assert str(caught.value) == f"Mix: {words}"


def test_a_path_is_found_however_it_is_written(mix_sources):
    kept, _, _ = mix_sources({"d": 90, "data/code-*.jsonl": 50}, shares={"./data/code-*.jsonl": 0.1})
    assert kept == {"d": 90, "data/code-*.jsonl": 10}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "has nothing to do; set replay, shares, weights, temperature or cap"),
        ({"shares": {"a": 0.1}, "weights": {"a": 1}}, "shares and weights contradict each other; give one of them"),
        ({"replay": 0.1, "temperature": 2}, "replay and temperature contradict each other"),
        ({"shares": {"a": 0.7, "b": "50%"}}, "the shares add up to 120.00%; 100% is the most"),
        ({"weights": {"a": 0}}, "every weight is 0"),
        ({"weights": {"a": -1}}, "greater than or equal to 0"),
        ({"temperature": 0.5}, "greater than or equal to 1"),
        ({"cap": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises(ValidationError, match=re.escape(words)):
        Mix(**options)


@given(sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=6), data=st.data())
def test_proportions_add_up(sizes, data):
    assume(sum(sizes))
    wanted = data.draw(st.integers(0, sum(sizes)))
    found = in_proportion(dict(enumerate(sizes)), wanted)
    assert sum(found.values()) == wanted
    for source, size in enumerate(sizes):
        assert found[source] <= size
        assert abs(found[source] - wanted * size / sum(sizes)) < 1


# --- the order in training -------------------------------------------------------------------------------------------


def test_every_epoch_trains_on_all_rows_in_another_order(ftp_tiny_model, tmp_path, monkeypatch):
    from ftp.components import TrainingJob
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.formatters.pairs import Instruct
    from ftp_plugins.loaders.huggingface import HuggingFace
    from ftp_plugins.trainers import sft
    from ftp_plugins.trainers.torch_sft import TokenObjective

    rows = [{"instruction": f"{n}?", "response": "x" * (n % 3 + 1)} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path=str(tmp_path / "rows.jsonl"), format=Instruct())
    corpus, ledger = build_corpus(Data(train=[source], validation=0.0), tmp_path / "data", tmp_path, seed=1)
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu")
    loaded = LoRA(r=2).apply(loader.load(LoRA(r=2).prepare(loader.describe())))
    job = TrainingJob(loaded, corpus, ledger, tmp_path / "checkpoints", 1, lambda event, **values: None)

    seen = []  # what the trainer's own batches hold, in the order in which it asks for them
    collate = TokenObjective.collate

    def watched(objective, rows):
        seen.extend(tuple(row["input_ids"]) for row in rows)
        return collate(objective, rows)

    monkeypatch.setattr(TokenObjective, "collate", watched)
    sft.SFT(epochs=3, batch_size=2).train(job)
    del seen[:2]  # the rehearsal's
    epochs = [seen[start : start + 24] for start in (0, 24, 48)]
    assert len(seen) == 72
    assert len(set(epochs[0])) == 24
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
