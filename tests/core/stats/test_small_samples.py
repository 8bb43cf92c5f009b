"""Few examples, and examples that are all alike: no zero-width interval, no verdict out of nothing."""

import dataclasses

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ftp.stats.differences import paired_difference, paired_ratio_difference
from ftp.stats.paired import adjusted, on_subsets, paired_metric
from ftp.stats.seeds import across_seeds
from ftp.stats.small_samples import sign_flip_p_value
from ftp.stats.verdicts import verdict_in_words
from ftp.types import Interval


def false_verdicts(values, chances, n, times, weights=None):
    """Share of verdicts that find a difference where there is none, and of intervals of zero width."""
    rng = np.random.default_rng(n)
    wrong = narrow = 0
    for _ in range(times):
        tuned = 3.0 + rng.choice(values, n, p=chances)
        metric = paired_metric("score", [3.0] * n, tuned.tolist(), weights=weights)
        wrong += verdict_in_words(metric) in ("better", "worse")
        narrow += metric.difference.high <= metric.difference.low
    return wrong / times, narrow / times


SHAPES = {
    "up or down": ([-1, 1], [0.5, 0.5]),
    "half ties": ([-1, 0, 1], [0.25, 0.5, 0.25]),
    "rubric": ([-2, -1, 0, 1, 2], [0.1, 0.2, 0.4, 0.2, 0.1]),
    "mostly ties": ([-1, 0, 1], [0.1, 0.8, 0.1]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [2, 3, 5, 7])
def test_whole_numbers_seldom_make_a_false_verdict(shape, n):
    wrong, narrow = false_verdicts(*SHAPES[shape], n, 150)
    assert narrow == 0 and wrong <= (0 if n < 6 else 0.06)


@pytest.mark.slow
def test_whole_numbers_make_no_more_false_verdicts_than_5_of_100():
    found = {
        (shape, n): false_verdicts(*SHAPES[shape], n, 2000) for shape in SHAPES for n in (2, 3, 4, 5, 6, 7, 8, 10, 15)
    }
    for (shape, n), (wrong, narrow) in found.items():
        print(f"{shape:12} n={n:3} false verdicts {wrong:.3f}, zero width {narrow:.3f}")
    assert all(wrong <= 0.06 and narrow == 0 for wrong, narrow in found.values())


def test_two_constant_differences_are_no_evidence():
    metric = paired_metric("score", [1.0, 2.0], [2.0, 3.0])
    assert metric.difference.low < 0 < 1 < metric.difference.high and metric.p_value >= 0.5
    assert verdict_in_words(metric) == "no evidence (2 examples can't tell)"
    assert verdict_in_words(paired_metric("score", [0, 0, 0], [1, 1, 1])) == "no evidence (3 examples can't tell)"
    assert verdict_in_words(paired_metric("score", [0] * 5, [1] * 5)) == "no evidence (5 examples can't tell)"


def test_constant_differences_of_many_are_evidence_with_a_width():
    for n in (6, 20, 200):
        metric = paired_metric("score", [0.7] * n, [0.9] * n)
        assert verdict_in_words(metric) == "better"
        assert 0 < metric.difference.low < 0.2 < metric.difference.high


@pytest.mark.parametrize("n", [2, 5, 30])
@pytest.mark.parametrize("score", [0.0, 0.5, 1.0, 3.0])
def test_no_difference_at_all_has_a_width(score, n):
    for found in (
        paired_difference([score] * n, [score] * n),
        paired_ratio_difference([score] * n, [score] * n, [1.0] * n),
        paired_metric("score", [score] * n, [score] * n, weights=[2.0] * n).difference,
    ):
        assert found.low < 0 < found.high and found.low == pytest.approx(-found.high)


def test_seeds_without_a_spread_have_a_width():
    found = across_seeds([[0.0, 1.0, 1.0, 0.0]] * 3)
    assert found.interval.low < 0.5 < found.interval.high and found.interval.high - found.interval.low < 1


def test_a_weight_of_49_to_1_leaves_numbers_that_can_be_read():
    found = paired_metric("nll", [2.0, 2.0], [1.5, 1.9], weights=[49, 1]).difference
    assert -100 < found.low < 0 < found.high < 100
    heavy = paired_metric("nll", [2.0] * 8, [1.5, 1.6, 1.4, 1.5, 1.7, 1.5, 1.3, 1.6], weights=[49] + [1] * 7)
    assert heavy.difference.high - heavy.difference.low < 100


@pytest.mark.parametrize("n", [3, 6, 9])
def test_the_exact_test_is_scipys(n):
    rng = np.random.default_rng(n)
    differences = rng.integers(-3, 5, n).astype(float)
    wanted = scipy_stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    ).pvalue
    assert sign_flip_p_value(differences) == pytest.approx(wanted)


def test_the_exact_test_by_hand():
    assert sign_flip_p_value(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert sign_flip_p_value(np.ones(6)) == 2 / 64
    assert sign_flip_p_value(np.array([49.0, *[1.0] * 6])) == 2 / 128
    assert sign_flip_p_value(np.array([49.0, *[-1.0] * 6])) == 1


# --- several metrics, and examples without a score -------------------------------------------------------------------


def test_one_metric_is_never_chance_among_several():
    base, tuned = [0] * 40, [1] * 5 + [0] * 35
    [alone] = adjusted([paired_metric("score", base, tuned)])
    assert "several" not in verdict_in_words(alone)
    for p in (0.2, 0.9):
        words = verdict_in_words(dataclasses.replace(alone, p_value=p, p_adjusted=p))
        assert "several" not in words


def test_what_hangs_on_missing_scores_is_no_evidence():
    nan = float("nan")
    base = [0.0] * 31 + [1.0] * 50 + [nan] * 19
    metric = paired_metric("win_rate", [1 - score for score in base][::-1], base[::-1], limits=(0, 1))
    assert metric.difference.mean > 0 and metric.worst == paired_difference(
        [1.0] * 19 + [0.0] * 50 + [1.0] * 31, [0.0] * 19 + [1.0] * 50 + [0.0] * 31
    )
    words = verdict_in_words(metric)
    assert words.startswith("no evidence (it hangs on 19 of 100 examples without a score: at worst +0.000 [")
    few = paired_metric("score", [0.0] * 60 + [nan], [1.0] * 60 + [1.0], limits=(0, 1))
    assert verdict_in_words(few) == "better" and few.worst.mean < 1
    whole = paired_metric("score", [0.0] * 60, [1.0] * 60, limits=(0, 1))
    assert whole.worst is None
    unknown = paired_metric("score", [0.0] * 60 + [nan], [1.0] * 61)
    assert unknown.worst is None and verdict_in_words(unknown) == "better"
    assert on_subsets(few, [False] * 20 + [True] * 41)["leaked"].worst is not None


def test_the_worst_of_a_worse_model_is_that_it_is_not():
    nan = float("nan")
    metric = paired_metric("score", [3.0] * 20 + [nan], [1.0] * 20 + [2.0], limits=(1, 5), higher_is_better=True)
    assert metric.worst.mean == pytest.approx((20 * -2 + 1) / 21)
    assert isinstance(metric.worst, Interval) and verdict_in_words(metric) == "worse"
