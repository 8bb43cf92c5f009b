"""Whether 95% intervals hold 95%: simulated evaluations of every statistic, in the shapes that evaluations have.

`pytest -m slow -s tests/core/stats/test_stats_coverage.py` simulates 2,000 evaluations each and prints the table.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from ftp.stats.differences import paired_difference, paired_ratio_difference
from ftp.stats.intervals import bootstrap
from ftp.stats.seeds import across_seeds
from ftp.stats.win_rates import correlation, length_controlled_win_rate, order_consistency, win_rate

# --- the shapes: each draws one evaluation of n examples and says what is true of all examples --------------------


def normal(rng, n):
    base = rng.uniform(0.2, 0.8, n)
    return base, base + rng.normal(0.05, 0.2, n), 0.05


def skewed(rng, n):
    """Most answers gain little, a few gain much: skewness 1.4."""
    base = rng.uniform(0, 1, n)
    return base, base + rng.gamma(2, 0.1, n) - 0.15, 0.05


def very_skewed(rng, n):
    """Skewness 2."""
    base = rng.uniform(0, 1, n)
    return base, base + rng.exponential(0.2, n) - 0.15, 0.05


RUBRIC = np.array([0.1, 0.2, 0.3, 0.25, 0.15]), np.array([0.02, 0.08, 0.55, 0.25, 0.1])
STEPS = np.arange(-2, 3)


def rubric(rng, n):
    """Levels 1 to 5; the tuned model's is up to two steps away, within the levels."""
    base = rng.choice(5, n, p=RUBRIC[0]) + 1
    tuned = np.clip(base + rng.choice(STEPS, n, p=RUBRIC[1]), 1, 5)
    levels = np.arange(1, 6)[:, None]
    return base, tuned, RUBRIC[0] @ (np.clip(levels + STEPS, 1, 5) - levels) @ RUBRIC[1]


def binary(rng, n, gained, lost):
    draws = rng.choice(3, n, p=[gained, lost, 1 - gained - lost])
    right = rng.random(n) < 0.6
    return (
        np.where(draws == 0, 0, np.where(draws == 1, 1, right)),
        np.where(draws < 2, draws == 0, right),
        gained - lost,
    )


def cluster_names(rng, groups, sizes):
    """Clusters of 5 examples each, of 1 to 14, or of very unequal size (log-normal)."""
    drawn = {
        "equal": np.full(groups, 5),
        "unequal": rng.integers(1, 15, groups),
        "heavy": np.ceil(rng.lognormal(1, 1, groups)).astype(int),
    }[sizes]
    return np.repeat(np.arange(groups), drawn)


def latent(rng, names, icc):
    """Standard normal values with this intra-cluster correlation."""
    shared = rng.normal(0, 1, names.max() + 1)[names]
    return np.sqrt(icc) * shared + np.sqrt(1 - icc) * rng.normal(0, 1, len(names))


def text(names):
    return [str(name) for name in names]


# --- the statistics on them ---------------------------------------------------------------------------------------


def t(shape):
    def draw(rng, n):
        base, tuned, truth = shape(rng, n)
        return paired_difference(base.tolist(), tuned.tolist()), truth

    return draw


def resampled(shape):
    def draw(rng, n):
        base, tuned, truth = shape(rng, n)
        return bootstrap((tuned - base).tolist()), truth

    return draw


def few_discordant(gained, lost):
    return t(lambda rng, n: binary(rng, n, gained, lost))


def clustered(sizes, icc, statistic=paired_difference):
    def draw(rng, groups):
        names = cluster_names(rng, groups, sizes)
        base = rng.uniform(0, 1, len(names))
        tuned = base + 0.05 + 0.2 * latent(rng, names, icc)
        return statistic(base.tolist(), tuned.tolist(), clusters=text(names)), 0.05

    return draw


def clustered_bootstrap(base, tuned, clusters):
    return bootstrap([b - a for a, b in zip(base, tuned, strict=True)], clusters=clusters)


def clustered_binary(sizes, icc):
    def draw(rng, groups):
        names = cluster_names(rng, groups, sizes)
        value = latent(rng, names, icc)
        base, tuned = value > 1.2816, value < -0.8416  # lost 10 of 100, gained 20
        return paired_difference(base.tolist(), tuned.tolist(), clusters=text(names)), 0.1

    return draw


def ratio(rng, n):
    weights = np.ceil(rng.lognormal(4, 0.7, n))
    base = weights * rng.normal(2, 0.3, n)
    tuned = base + weights * rng.normal(-0.1, 0.4, n)
    return paired_ratio_difference(base.tolist(), tuned.tolist(), weights.tolist()), -0.1


def ratio_bootstrap(rng, n):
    weights = np.ceil(rng.lognormal(4, 0.7, n))
    return bootstrap((weights * rng.normal(-0.1, 0.4, n)).tolist(), weights.tolist()), -0.1


def wins(rate, ties):
    def draw(rng, n):
        outcomes = rng.choice([1, 0.5, 0], n, p=[rate - ties / 2, ties, 1 - rate - ties / 2])
        return win_rate(outcomes.tolist()), rate

    return draw


def clustered_wins(sizes, icc, ties):
    def draw(rng, groups):
        names = cluster_names(rng, groups, sizes)
        value = latent(rng, names, icc)
        upper, lower = (-0.2533, -0.2533) if not ties else (0.1257, -0.6745)  # 60% wins; or 45%, 25% losses
        outcomes = np.where(value > upper, 1, np.where(value < lower, 0, 0.5))
        return win_rate(outcomes.tolist(), text(names)), 0.6

    return draw


def length_controlled(intercept, slope, ties, longer, icc=None):
    """Log-normal lengths; `longer` moves the tuned model's by so many standard deviations."""

    def draw(rng, n):
        names = np.arange(n) if icc is None else cluster_names(rng, n, "unequal")
        lengths = (rng.lognormal(0, 0.6, len(names)) - np.exp(0.18)) / np.sqrt(np.exp(0.72) - np.exp(0.36)) + longer
        chance = expit(intercept + slope * np.tanh(lengths))
        drawn = rng.random(len(names)) if icc is None else norm.cdf(latent(rng, names, icc))
        tied = 2 * ties * np.minimum(chance, 1 - chance)
        outcomes = np.where(drawn < chance - tied / 2, 1, np.where(drawn < chance + tied / 2, 0.5, 0))
        clusters = None if icc is None else text(names)
        found, _ = length_controlled_win_rate(outcomes.tolist(), (300 * lengths).tolist(), clusters)
        return found, expit(intercept)

    return draw


def seeds(rng, runs):
    examples = rng.normal(0.1, 0.3, 50)
    values = examples + rng.normal(0, 0.05, (runs, 1)) + rng.normal(0, 0.1, (runs, 50))
    return across_seeds(values.tolist()).interval, examples.mean()


def linked(method, rho):
    def draw(rng, n):
        x = rng.normal(0, 1, n)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(0, 1, n)
        truth = rho if method == "pearson" else 6 / np.pi * np.arcsin(rho / 2)
        return correlation(x.tolist(), y.tolist(), method), truth

    return draw


def clustered_linked(rho, icc):
    """Both figures have a part that is the same within a cluster."""

    def draw(rng, groups):
        names = cluster_names(rng, groups, "unequal")
        x = latent(rng, names, icc)
        y = rho * x + np.sqrt(1 - rho**2) * latent(rng, names, icc)
        return correlation(x.tolist(), y.tolist(), clusters=text(names)), 6 / np.pi * np.arcsin(rho / 2)

    return draw


def weighed(rng, n):
    """One example of 49 tokens, the others of one."""
    weights = np.array([49.0, *[1.0] * (n - 1)])
    gaps = rng.normal(0.1, 0.4, n)
    return paired_ratio_difference([0.0] * n, (weights * gaps).tolist(), weights.tolist()), 0.1


def consistent(share):
    def draw(rng, n):
        second = np.where(rng.random(n) < share, "base", "tuned")
        return order_consistency(["base"] * n, second.tolist()), share

    return draw


@pytest.mark.parametrize(("icc", "ties"), [(0.5, 0), (0.5, 0.3)])
def test_intervals_that_ignore_clusters_hold_too_little(icc, ties):
    """What `clusters_of` is for: the same evaluations with clusters and without."""
    rng = np.random.default_rng(3)
    held = {"with": 0, "without": 0}
    for _ in range(300):
        names = cluster_names(rng, 30, "unequal")
        value = latent(rng, names, icc)
        upper, lower = (-0.2533, -0.2533) if not ties else (0.1257, -0.6745)
        outcomes = np.where(value > upper, 1, np.where(value < lower, 0, 0.5)).tolist()
        for kind, clusters in (("with", text(names)), ("without", None)):
            found = win_rate(outcomes, clusters)
            held[kind] += found.low <= 0.6 <= found.high
    print(f"win rate, icc {icc}, {ties:.0%} ties:", {kind: count / 300 for kind, count in held.items()})
    assert held["without"] < 0.85 * 300 < 0.9 * 300 <= held["with"]


class Case(NamedTuple):
    name: str
    draw: Callable
    ns: tuple[int, ...]
    """Examples, clusters or runs; coverage holds at every one of them."""
    safe: tuple[int, ...] = ()
    """Too few to tell: too many intervals hold the truth there, never too few."""
    short: tuple[int, ...] = ()
    """Too few to hold: the docstring of the method says so."""


CASES = [
    Case("t, normal", t(normal), (20, 50, 200), safe=(5,)),  # five examples get an exact, wider interval
    Case("t, rubric 1-5", t(rubric), (20, 50, 200)),
    Case("t, skewness 1.4", t(skewed), (20, 50, 200)),
    Case("t, skewness 2", t(very_skewed), (50, 100, 200), short=(20,)),
    Case("bootstrap t, normal", resampled(normal), (10, 20, 50)),
    Case("bootstrap t, rubric 1-5", resampled(rubric), (20, 50)),
    Case("bootstrap t, skewness 1.4", resampled(skewed), (20, 50)),
    Case("bootstrap t, skewness 2", resampled(very_skewed), (20, 50)),
    Case("0/1, 20% gained, 10% lost", few_discordant(0.2, 0.1), (20, 50, 200)),
    Case("0/1, 8% gained, 2% lost", few_discordant(0.08, 0.02), (50, 200), safe=(20,)),
    Case("0/1, 4% gained, 4% lost", few_discordant(0.04, 0.04), (100, 200), safe=(20, 50)),
    *(
        Case(f"t, {sizes} clusters, icc {icc}", clustered(sizes, icc), (8, 12, 30))
        for sizes in ("equal", "unequal", "heavy")
        for icc in (0.1, 0.5)
    ),
    *(
        Case(f"bootstrap t, {sizes} clusters, icc 0.3", clustered(sizes, 0.3, clustered_bootstrap), (12, 30))
        for sizes in ("equal", "unequal")
    ),
    *(Case(f"0/1, unequal clusters, icc {icc}", clustered_binary("unequal", icc), (12, 30)) for icc in (0.1, 0.5)),
    Case("ratio, t", ratio, (20, 60, 200)),
    Case("ratio, bootstrap t", ratio_bootstrap, (20, 60)),
    *(
        Case(f"win rate {rate}, {ties:.0%} ties", wins(rate, ties), (20, 50, 100, 200))
        for rate, ties in [(0.5, 0), (0.6, 0), (0.75, 0), (0.5, 0.3), (0.6, 0.1), (0.75, 0.3), (0.6, 0.6)]
    ),
    *(
        Case(f"win rate, unequal clusters, icc {icc}, {ties:.0%} ties", clustered_wins("unequal", icc, ties), (12, 30))
        for icc in (0.1, 0.5)
        for ties in (0, 0.3)
    ),
    Case("length-controlled, even", length_controlled(0.0, 1.5, 0.0, 0.0), (30, 50, 200)),
    Case("length-controlled, longer", length_controlled(0.4, 1.5, 0.4, 0.5), (30, 50, 200)),
    Case("length-controlled, much longer", length_controlled(0.8, 2.5, 0.2, 1.0), (30, 50, 200)),
    Case("length-controlled, clusters, icc 0.3", length_controlled(0.4, 1.5, 0.4, 0.5, 0.3), (8, 12, 30)),
    Case("mean over seeds", seeds, (2, 3, 5)),
    Case("Spearman 0.3", linked("spearman", 0.3), (10, 20, 100)),
    Case("Spearman 0.7", linked("spearman", 0.7), (10, 20, 100)),
    Case("Pearson 0.5", linked("pearson", 0.5), (10, 20, 100)),
    *(Case(f"Spearman 0.3, clusters, icc {icc}", clustered_linked(0.3, icc), (30, 60)) for icc in (0.1, 0.5)),
    Case("ratio, one weighs 49 times as much", weighed, (), safe=(12, 20)),
    Case("order consistency 0.8", consistent(0.8), (50, 100)),
]


def simulate(draw, n, times):
    """Share of intervals with the truth in them, their mean width, and the share that had none."""
    rng = np.random.default_rng(n)
    drawn = [draw(rng, n) for _ in range(times)]
    found = [(interval, truth) for interval, truth in drawn if interval is not None]
    held = np.mean([interval.low <= truth <= interval.high for interval, truth in found])
    return held, np.mean([interval.high - interval.low for interval, _ in found]), 1 - len(found) / times


@pytest.mark.thin(3)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_intervals_hold_about_what_they_say(case):
    held, _, without = simulate(case.draw, (case.ns or case.safe)[1], 300)
    assert 0.90 <= held <= (0.99 if case.ns else 1) and without < 0.05


@pytest.fixture(scope="module")
def table():
    lines = [f"{'statistic':48} {'n':>4} {'coverage':>9} {'width':>7} {'none':>6}"]
    yield lines
    print("", *lines, sep="\n")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_intervals_hold_what_they_say(case, table):
    held = {}
    for n in sorted(case.ns + case.safe + case.short):
        held[n], width, without = simulate(case.draw, n, 2000)
        table.append(f"{case.name:48} {n:4} {held[n]:9.3f} {width:7.3f} {without:6.1%}")
        assert without < 0.05
    assert {n: held[n] for n in case.ns if not 0.93 <= held[n] <= 0.97} == {}
    assert all(held[n] > 0.97 for n in case.safe) and all(0.90 < held[n] < 0.93 for n in case.short)
