"""Whether the smallest visible difference is found in 80 of 100 evaluations, as the verdict says.

`pytest -m slow -s tests/core/stats/test_power.py` prints the table.
"""

import dataclasses
import functools
import itertools

import numpy as np
import pytest

from ftp.stats.paired import adjusted, paired_metric
from ftp.stats.verdicts import verdict_in_words
from ftp.types import Metric


@pytest.fixture(autouse=True)
def without_bootstrap(monkeypatch):
    """It says nothing on power and takes most of the time."""
    monkeypatch.setattr("ftp.stats.paired.bootstrap", lambda *arguments: None)


LEVELS = 0.0, 1.0, 2.0, 3.0, 4.0


@functools.cache
def of_counts(kind, n, gained, lost):
    """The metric of n examples of which so many gained and lost one point; it depends on these counts alone."""
    low = [0.0] * n if kind == "0/1" else list(itertools.islice(itertools.cycle(LEVELS[:4]), n))
    base = [score + (gained <= i < gained + lost) for i, score in enumerate(low)]
    tuned = [score + (i < gained) for i, score in enumerate(low)]
    return paired_metric("score", base, tuned)


@functools.cache
def visible(kind, n, gained, lost, tests):
    """The smallest visible difference among so many tests, none of which is rejected."""
    metric = dataclasses.replace(of_counts(kind, n, gained, lost), p_value=0.9)
    others = [Metric("other", 0, 0, None, p_value=0.9)] * (tests - 1)
    return adjusted([metric, *others])[0].detectable


def found(rng, metric, tests):
    """Whether the verdict among so many tests, the others of no difference, is `better`."""
    others = [Metric("other", 0, 0, None, p_value=float(p)) for p in rng.random(tests - 1)]
    return verdict_in_words(adjusted([metric, *others])[0]) == "better"


def power(kind, n, by_chance, tests, times):
    """The median visible difference of evaluations without one, and how often one of that size is found.

    Args:
        by_chance: share of examples that gain, and that lose, whatever the difference is.
    """
    rng = np.random.default_rng(n)
    draws = rng.multinomial(n, [by_chance, by_chance, 1 - 2 * by_chance], 100)
    x = float(np.median([visible(kind, n, int(gained), int(lost), tests) for gained, lost, _ in draws]))
    draws = rng.multinomial(n, [by_chance + x, by_chance, 1 - 2 * by_chance - x], times)
    return x, np.mean([found(rng, of_counts(kind, n, int(g), int(lost)), tests) for g, lost, _ in draws])


CASES = [
    (kind, n, by_chance, tests)
    for kind in ("0/1", "rubric")
    for n, by_chance in ((30, 0.05), (100, 0.0), (100, 0.01), (100, 0.1), (300, 0.0), (300, 0.02), (1000, 0.005))
    for tests in (1, 5)
]


@pytest.mark.parametrize("case", [("0/1", 100, 0.01, 1), ("0/1", 100, 0.01, 5), ("rubric", 100, 0.1, 1)], ids=str)
def test_what_is_called_visible_is_found(case):
    _, share = power(*case, times=100)
    assert 0.65 <= share <= 0.95


@pytest.mark.slow
def test_what_is_called_visible_is_found_80_times_in_100():
    shares = {}
    for case in CASES:
        x, shares[case] = power(*case, times=600)
        print(
            "{:7} n={:5} by chance {:.3f} each way, {} tests".format(*case), f"visible {x:.3f} power {shares[case]:.2f}"
        )
    # Where none differs by chance, how many might is a guess on the safe side, and so is the size of a change.
    assert {case: share for case, share in shares.items() if case[2] and not 0.73 <= share <= 0.93} == {}
    assert all(share > 0.8 for case, share in shares.items() if not case[2])
