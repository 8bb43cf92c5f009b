"""Paired statistics against scipy, against figures worked out by hand, and against simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ftp.stats import Interval, paired_difference, paired_metric, paired_ratio_difference, verdict

# --- Student's t ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_the_paired_t_interval_is_scipys(n):
    rng = np.random.default_rng(n)
    base = rng.normal(5, 2, n).tolist()
    tuned = (np.array(base) + rng.normal(0.3, 1, n)).tolist()
    found = paired_difference(base, tuned)
    wanted = scipy_stats.ttest_rel(tuned, base).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(np.array(tuned) - base))
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert (found.n, found.method) == (n, "paired t")


# --- proportions ---------------------------------------------------------------------------------------------------


def scores(both, gained, lost, neither):
    base = [1] * both + [0] * gained + [1] * lost + [0] * neither
    tuned = [1] * both + [1] * gained + [0] * lost + [0] * neither
    return base, tuned


# Agresti & Min 2005: half a count is added to each cell of the 2x2 table; N = n + 2, and with g and l the counts of
# gained and lost, so increased, the interval is (g - l) / N ± 1.959964 sqrt(g + l - (g - l)² / N) / N.
@pytest.mark.parametrize(
    ("cells", "mean", "low", "high"),
    [
        # n = 100, g = 20.5, l = 10.5: 10/102 = 0.098039; root of 31 - 100/102 = 5.479026
        ((40, 20, 10, 30), 0.1, -0.007241, 0.203320),
        # n = 10, g = 3.5, l = 0.5: 3/12 = 0.25; root of 4 - 9/12 = 1.802776
        ((5, 3, 0, 2), 0.3, -0.044446, 0.544446),
        # n = 20, none differs: 0/22 = 0; root of 1 = 1
        ((12, 0, 0, 8), 0.0, -0.089089, 0.089089),
    ],
)
def test_the_adjusted_wald_interval(cells, mean, low, high):
    found = paired_difference(*scores(*cells))
    assert found.mean == pytest.approx(mean)
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-6)
    assert (found.n, found.method) == (sum(cells), "paired proportions, adjusted Wald")


def test_a_difference_of_proportions_stays_within_one():
    found = paired_difference([0, 0], [1, 1])
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low < 1


def test_true_and_false_are_proportions_too():
    assert paired_difference([True, False, 1.0], [False, True, 1]).method == "paired proportions, adjusted Wald"
    assert paired_difference([1, 0, 0.5], [0, 1, 1]).method == "paired t"


# --- ratios --------------------------------------------------------------------------------------------------------


def test_the_ratio_interval_is_near_the_bootstraps():
    rng = np.random.default_rng(7)
    n = 400
    weights = rng.integers(5, 200, n)
    base = weights * rng.gamma(20, 0.1, n)
    tuned = base * rng.normal(0.9, 0.15, n)
    found = paired_ratio_difference(base.tolist(), tuned.tolist(), weights.tolist())
    drawn = rng.integers(0, n, (4000, n))
    ratios = (tuned - base)[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert found.mean == pytest.approx((tuned.sum() - base.sum()) / weights.sum())
    width = high - low
    assert found.low == pytest.approx(low, abs=0.05 * width)
    assert found.high == pytest.approx(high, abs=0.05 * width)
    assert (found.n, found.method) == (n, "paired ratio, t")


def test_a_ratio_of_equal_weights_is_the_paired_t():
    rng = np.random.default_rng(3)
    base, tuned = rng.normal(3, 1, 30), rng.normal(2.7, 1, 30)
    ratio = paired_ratio_difference((4 * base).tolist(), (4 * tuned).tolist(), [4] * 30)
    plain = paired_difference(base.tolist(), tuned.tolist())
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((plain.mean, plain.low, plain.high))


# --- too little, or nothing to see ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([1], [0]), ([0.5], [0.7])])
def test_fewer_than_two_examples_have_no_interval(base, tuned):
    assert paired_difference(base, tuned) is None
    assert paired_ratio_difference(base, tuned, [1] * len(base)) is None


def test_equal_scores_have_an_interval_of_nothing():
    assert paired_difference([0.5, 0.7], [0.5, 0.7]) == Interval(0, 0, 0, 2, "paired t")


def test_scores_of_other_examples_are_refused():
    with pytest.raises(ValueError, match="3 scores against 2: the examples must be the same"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ValueError):
        paired_ratio_difference([1.0, 2.0, 3.0], [1.0, 2.0], [1, 1, 1])


def test_a_metric():
    metric = paired_metric("score", [0, 1, 0, 1], [1, 1, 1, 1], higher_is_better=False, base_reasons=["a"] * 4)
    assert (metric.name, metric.base, metric.tuned, metric.higher_is_better) == ("score", 0.5, 1.0, False)
    assert metric.difference == paired_difference([0, 1, 0, 1], [1, 1, 1, 1])
    assert (metric.base_scores, metric.tuned_scores) == ((0, 1, 0, 1), (1, 1, 1, 1))
    assert (metric.base_reasons, metric.tuned_reasons) == (("a",) * 4, ())
    empty = paired_metric("score", [], [])
    assert math.isnan(empty.base) and math.isnan(empty.tuned) and empty.difference is None


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "said"),
    [
        (0.1, 0.3, True, "better"),
        (0.1, 0.3, False, "worse"),
        (-0.3, -0.1, True, "worse"),
        (-0.3, -0.1, False, "better"),
        (-0.1, 0.1, True, "no evidence"),
        (0.0, 0.1, True, "no evidence"),
        (-0.1, 0.0, False, "no evidence"),
    ],
)
def test_verdict(low, high, higher_is_better, said):
    assert verdict(Interval((low + high) / 2, low, high, 9, "paired t"), higher_is_better) == said


def test_no_interval_is_no_evidence():
    assert verdict(None, True) == "no evidence"
    nan = float("nan")
    assert verdict(Interval(nan, nan, nan, 9, "paired t"), True) == "no evidence"
    assert paired_ratio_difference([1.0, 2.0], [1.0, 1.0], [0, 0]) is None


# --- 2,000 evaluations each: 95 of 100 intervals hold the truth -----------------------------------------------------


def coverage(intervals, truth):
    return sum(found.low <= truth <= found.high for found in intervals) / len(intervals)


def test_the_paired_t_holds_what_it_says():
    rng = np.random.default_rng(1)
    base = rng.uniform(0, 1, (2000, 30))
    tuned = base + rng.normal(0.05, 0.2, (2000, 30))
    found = [paired_difference(*pair) for pair in zip(base.tolist(), tuned.tolist(), strict=True)]
    assert 0.93 <= coverage(found, 0.05) <= 0.97


@pytest.mark.parametrize(("gained", "lost"), [(0.2, 0.1), (0.15, 0.15)])
def test_the_adjusted_wald_holds_what_it_says(gained, lost):
    rng = np.random.default_rng(2)
    draws = rng.choice(4, (2000, 60), p=[0.4, gained, lost, 0.6 - gained - lost])
    base, tuned = np.isin(draws, (0, 2)).astype(int), np.isin(draws, (0, 1)).astype(int)
    found = [paired_difference(*pair) for pair in zip(base.tolist(), tuned.tolist(), strict=True)]
    assert {interval.method for interval in found} == {"paired proportions, adjusted Wald"}
    assert 0.93 <= coverage(found, gained - lost) <= 0.97


def test_the_ratio_holds_what_it_says():
    rng = np.random.default_rng(3)
    weights = rng.integers(10, 120, (2000, 60))
    base = weights * rng.normal(2, 0.3, (2000, 60))
    tuned = base + weights * rng.normal(-0.1, 0.4, (2000, 60))
    rows = zip(base.tolist(), tuned.tolist(), weights.tolist(), strict=True)
    assert 0.93 <= coverage([paired_ratio_difference(*row) for row in rows], -0.1) <= 0.97
