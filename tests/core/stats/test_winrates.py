"""A judge's figures against statsmodels and figures worked out by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ftp.stats.differences import paired_difference
from ftp.stats.win_rates import correlation, length_controlled_win_rate, order_consistency, win_rate


def test_without_ties_it_is_wilsons():
    found = win_rate([1] * 7 + [0] * 3)
    wanted = scipy_stats.binomtest(7, 10).proportion_ci(0.95, method="wilson")
    assert (found.mean, found.low, found.high) == pytest.approx((0.7, wanted.low, wanted.high))
    assert (found.n, found.method) == (10, "Wilson")


def test_with_ties_it_is_that_of_wins_less_losses():
    found = win_rate([1] * 5 + [0.5] * 3 + [0] * 2)
    wanted = paired_difference([0] * 5 + [1] * 3 + [1] * 2, [1] * 5 + [1] * 3 + [0] * 2)
    assert (found.mean, found.low, found.high) == pytest.approx((0.65, (1 + wanted.low) / 2, (1 + wanted.high) / 2))
    assert found.method == "wins less losses, adjusted Wald"


@pytest.mark.parametrize("outcomes", [[1] * 8, [0] * 8, [0.5] * 8])
def test_one_sided_outcomes_still_have_a_width_within_0_and_1(outcomes):
    found = win_rate(outcomes)
    assert 0 <= found.low < found.high <= 1 and found.low <= found.mean <= found.high


@pytest.mark.parametrize("tie", [0, 0.5])
def test_examples_of_one_source_count_for_less(tie):
    outcomes = [1] * 30 + [tie] * 10 + [0] * 20
    names = [str(i // 5) for i in range(60)]
    alone, together = win_rate(outcomes), win_rate(outcomes, names)
    assert together.high - together.low > 1.5 * (alone.high - alone.low)
    assert together.method == f"{alone.method}, 12 clusters"
    assert win_rate(outcomes, [str(i) for i in range(60)]) == alone


def test_too_few_and_wrong_outcomes():
    assert win_rate([]) is None and win_rate([1]) is None and win_rate([1, 0], ["a", "a"]) is None
    with pytest.raises(ValueError, match=r"outcomes are 1, 0.5 or 0, not \[0.7\]"):
        win_rate([1, 0.7])


def test_order_consistency():
    found = order_consistency(["base", "tuned", "tie", "base"], ["base", "base", "tie", "base"])
    assert (found.mean, found.n, found.method) == (0.75, 4, "Wilson")
    first_wins = order_consistency(["base"] * 20, ["tuned"] * 20)
    assert first_wins.mean == first_wins.low == 0 and first_wins.high < 0.2
    names = [str(i // 2) for i in range(40)]
    assert order_consistency(["a"] * 40, ["a", "b"] * 20, names).method == "Wilson, 20 clusters"


def test_correlation_is_scipys():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, 40)
    y = x + rng.normal(0, 1, 40)
    pearson = scipy_stats.pearsonr(x, y)
    wanted = pearson.confidence_interval(0.95)
    found = correlation(x.tolist(), y.tolist(), "pearson")
    assert (found.mean, found.low, found.high) == pytest.approx((pearson.statistic, wanted.low, wanted.high))
    found = correlation(x.tolist(), y.tolist())
    assert found.mean == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert (found.n, found.method) == (40, "spearman, Fisher z")


def test_correlations_that_have_no_interval():
    assert correlation([1, 2, 3], [1, 2, 4]) is None
    assert correlation([1, 2, 3, 4], [1, 1, 1, 1]) is None
    assert correlation([1, 2, 3, 4], [1, 2, 3, 4], clusters=list("aabb")) is None
    with pytest.raises(ValueError, match="2 figures against 1"):
        correlation([1, 2], [1])


def test_a_judge_that_likes_length_loses_its_say():
    rng = np.random.default_rng(2)
    lengths = rng.normal(150, 100, 400)
    outcomes = (rng.random(400) < 1 / (1 + np.exp(-2 * np.tanh(lengths / 100)))).astype(float)
    found, reason = length_controlled_win_rate(outcomes.tolist(), lengths.tolist())
    assert reason == "" and found.method == "logistic regression on length, robust"
    assert win_rate(outcomes.tolist()).low > 0.7
    assert found.low < 0.5 < found.high


def test_where_length_says_nothing_it_is_nearly_the_win_rate():
    rng = np.random.default_rng(3)
    outcomes = rng.choice([0, 0.5, 1], 300, p=[0.3, 0.2, 0.5]).tolist()
    plain, (found, _) = win_rate(outcomes), length_controlled_win_rate(outcomes, rng.normal(0, 50, 300).tolist())
    assert (found.mean, found.low, found.high) == pytest.approx((plain.mean, plain.low, plain.high), abs=0.01)


def test_it_is_the_intercept_of_statsmodels_formula():
    import statsmodels.api as sm
    from scipy.special import expit

    rng = np.random.default_rng(4)
    lengths, outcomes = rng.normal(20, 100, 60), rng.choice([0, 0.5, 1], 60)
    names = [str(i // 4) for i in range(60)]
    x = sm.add_constant(np.tanh(lengths / lengths.std(ddof=1)))
    fit = sm.GLM(outcomes, x, family=sm.families.Binomial()).fit()
    found, _ = length_controlled_win_rate(outcomes.tolist(), lengths.tolist(), names)
    assert found.mean == pytest.approx(expit(fit.params[0]))
    assert found.low < found.mean < found.high and found.method.endswith("15 clusters")


@pytest.mark.parametrize(
    ("outcomes", "lengths", "clusters", "reason"),
    [
        ([1, 0] * 9, [3, -3] * 9, None, "18 examples are too few, 20 are needed"),
        ([1, 0] * 20, [3, -3] * 20, list("abcdefg") * 5 + list("abcde"), "7 clusters are too few, 8 are needed"),
        ([0.5] * 40, list(range(40)), None, "every pair is a tie"),
        ([1, 0] * 20, [3] * 40, None, "every length difference is the same"),
        ([1, 0] * 20, [3, -3] * 20, None, "the regression has no solution: wins and losses are perfectly separated"),
        ([1] * 40, [3, -3] * 20, None, "the regression has no solution: wins and losses are perfectly separated"),
        ([0] * 40, list(range(40)), None, "the regression has no solution: wins and losses are perfectly separated"),
    ],
)
def test_why_there_is_none(outcomes, lengths, clusters, reason):
    assert length_controlled_win_rate(outcomes, lengths, clusters) == (None, reason)


@pytest.mark.parametrize("turned", [1, -1])
def test_a_perfect_correlation_of_few_is_not_sure(turned):
    found = correlation([1, 2, 3, 4, 5, 6], [turned * value for value in (2, 3, 4, 9, 11, 12)])
    assert found.mean == pytest.approx(turned)
    assert (found.high if turned == 1 else found.low) == found.mean and found.low < 0.9 * turned < found.high + 1.8


def test_copies_of_figures_are_one_cluster():
    rng = np.random.default_rng(5)
    x = rng.normal(0, 1, 30)
    y = x + rng.normal(0, 1, 30)
    once, names = correlation(x.tolist(), y.tolist()), [str(i) for i in range(30)]
    copied = correlation(x.tolist() * 5, y.tolist() * 5, clusters=names * 5)
    assert copied.method == "spearman, Fisher z, 30 clusters"
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)
