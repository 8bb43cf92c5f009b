"""The curator `mix`: exactly the share of replay that was asked for, and never a row twice."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftp.errors import DataError
from ftp.examples import write_examples
from ftp.ledger import Ledger
from ftp.types import Corpus, Example
from ftp_plugins.curators.mix import Mix, draws, largest_share


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
