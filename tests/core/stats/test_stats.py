"""Paired statistics against scipy, statsmodels and figures worked out by hand."""

import dataclasses
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from ftp.files import finite
from ftp.records import schemas
from ftp.stats.differences import effect_size, paired_difference, paired_ratio_difference
from ftp.stats.intervals import bootstrap, mcnemar, mean_estimate, proportion_estimate
from ftp.stats.paired import holm, on_subsets, paired_metric
from ftp.stats.seeds import across_seeds
from ftp.stats.verdicts import verdict, verdict_in_words
from ftp.types import Evaluation, Interval, Metric

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


def test_equal_scores_have_an_interval_too():
    found = paired_difference([0.5, 0.7], [0.5, 0.7])
    # none of 2 changed, by 0.2 as the scores differ: error 0.2 / 4, t(1) 12.706
    assert (found.mean, found.low, found.high) == pytest.approx((0, -0.6353, 0.6353), abs=1e-4)


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


# --- clusters ------------------------------------------------------------------------------------------------------


def test_equal_clusters_are_the_t_test_of_their_means():
    rng = np.random.default_rng(4)
    names, differences = np.repeat(list("abcdefgh"), 5), rng.normal(0.1, 1, 40) + np.repeat(rng.normal(0, 1, 8), 5)
    found = paired_difference([0.0] * 40, differences.tolist(), clusters=names.tolist())
    wanted = scipy_stats.ttest_1samp(differences.reshape(8, 5).mean(axis=1), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert (found.n, found.method) == (40, "paired t, 8 clusters")


def test_the_jackknife_is_a_little_wider_than_statsmodels_cr1():
    from statsmodels.regression.linear_model import OLS

    rng = np.random.default_rng(5)
    names = np.repeat(np.arange(20), rng.integers(1, 15, 20))
    differences = rng.normal(0, 1, len(names)) + rng.normal(0, 1, 20)[names]
    found = mean_estimate(differences.tolist(), clusters=[str(name) for name in names])
    cr1 = OLS(differences, np.ones(len(names))).fit(cov_type="cluster", cov_kwds={"groups": names}, use_t=True).bse[0]
    assert cr1 < found.error < 1.15 * cr1
    assert 10 < found.df < 19


def test_order_of_rows_and_names_of_clusters_mean_nothing():
    rng = np.random.default_rng(6)
    base, tuned, names = rng.normal(0, 1, 30), rng.normal(0, 1, 30), rng.integers(0, 9, 30)
    turned = rng.permutation(30)
    one = paired_difference(base.tolist(), tuned.tolist(), clusters=[f"s{name}" for name in names])
    other = paired_difference(base[turned].tolist(), tuned[turned].tolist(), clusters=[str(n) for n in names[turned]])
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_clusters_of_one_are_no_clusters():
    base, tuned, names = [0.1, 0.5, 0.3], [0.4, 0.4, 0.9], ["a", "b", "c"]
    assert paired_difference(base, tuned, clusters=names).method == "paired t"
    assert paired_difference([0, 1, 0], [1, 1, 0], clusters=names) == paired_difference([0, 1, 0], [1, 1, 0])


def test_one_cluster_has_no_interval():
    assert paired_difference([0.1, 0.5], [0.4, 0.4], clusters=["a", "a"]) is None
    assert paired_difference([0, 1], [1, 1], clusters=["a", "a"]) is None
    assert paired_metric("score", [0.1, 0.5], [0.4, 0.4], clusters=["a", "a"]).p_value is None


def test_whole_clusters_of_copies_count_once():
    base, tuned = [0, 1, 0, 0, 1, 0, 0, 1, 0, 1], [1, 1, 0, 1, 0, 1, 0, 1, 1, 1]
    once = proportion_estimate([b - a for a, b in zip(base, tuned, strict=True)])
    copied = paired_difference(base * 7, tuned * 7, clusters=[str(i) for i in range(10)] * 7)
    assert copied.mean == pytest.approx(once.mean)
    assert copied.high - copied.low > once.interval().high - once.interval().low
    assert copied.method == "paired proportions, adjusted Wald, 10 clusters"


def test_where_no_answer_differs_a_cluster_counts_as_one_example():
    names = [str(i // 10) for i in range(100)]
    assert paired_difference([1] * 100, [1] * 100, clusters=names).high > 0.1
    assert paired_difference([1] * 100, [1] * 100).high < 0.03


def test_a_wrong_number_of_clusters_is_refused():
    with pytest.raises(ValueError, match="3 differences, 3 weights, 2 clusters"):
        paired_difference([0.1, 0.2, 0.3], [0.2, 0.2, 0.1], clusters=["a", "b"])


# --- bootstrap -----------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_near_t_repeats_itself_and_bends_with_skew():
    rng = np.random.default_rng(8)
    differences = rng.normal(0.2, 1, 100).tolist()
    found, t = bootstrap(differences), mean_estimate(differences).interval()
    assert found == bootstrap(differences) != bootstrap(differences, seed=1)
    assert (found.low, found.high) == pytest.approx((t.low, t.high), abs=0.1 * (t.high - t.low))
    skewed = bootstrap(rng.exponential(1, 40).tolist())
    assert skewed.high - skewed.mean > 1.2 * (skewed.mean - skewed.low)
    assert bootstrap(differences, clusters=[str(i % 20) for i in range(100)]).method == "bootstrap t, 20 clusters"


@pytest.mark.parametrize("differences", [[0.1] * 9, [0.0] * 40, [0.0] * 39 + [1.0], [math.nan] * 20, []])
def test_a_bootstrap_of_next_to_nothing_is_none(differences):
    assert bootstrap(differences) is None


# --- tests, effects, what n can show -------------------------------------------------------------------------------


def test_p_values_are_those_of_scipy():
    rng = np.random.default_rng(9)
    base, tuned = rng.normal(0, 1, 25).tolist(), rng.normal(0.4, 1, 25).tolist()
    assert paired_metric("score", base, tuned).p_value == pytest.approx(scipy_stats.ttest_rel(tuned, base).pvalue)
    assert paired_metric("score", base, base).p_value == 1


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (1, 5), (20, 9)])
def test_mcnemars_mid_p_is_the_exact_one_less_half_the_chance_of_what_was_seen(gained, lost):
    from statsmodels.stats.contingency_tables import mcnemar as exact

    found = mcnemar([1] * gained + [-1] * lost + [0] * 10)
    wanted = exact([[5, lost], [gained, 5]], exact=True).pvalue
    seen = scipy_stats.binom.pmf(min(gained, lost), gained + lost, 0.5)
    assert found == pytest.approx(wanted - seen if gained + lost else 1)


def test_mcnemars_mid_p_by_hand():
    # 4 of each: Fagerland's 1 - pmf / 2, pmf 70 / 256
    assert mcnemar([1, -1] * 4) == pytest.approx(1 - 35 / 256)
    # 6 differ, one of them lost: exact 2 (1 + 6) / 64, less 6 / 64
    assert mcnemar([1] * 5 + [-1]) == pytest.approx(8 / 64)
    metric = paired_metric("exact", [0] * 5 + [1], [1] * 5 + [0])
    assert (metric.p_value, metric.test) == (pytest.approx(8 / 64), "McNemar, mid-p")
    assert paired_metric("exact", [0, 0, 1, 1], [1, 1, 0, 1], clusters=["a", "a", "b", "c"]).test == "exact sign flips"


def test_holm():
    from statsmodels.stats.multitest import multipletests

    # 0.01 * 3, 0.02 * 2, and 0.03 may not come below it
    assert holm([0.03, None, 0.01, 0.02, math.nan]) == [
        pytest.approx(0.04),
        None,
        *map(pytest.approx, (0.03, 0.04)),
        None,
    ]
    assert holm([]) == [] and holm([None]) == [None]
    p_values = np.random.default_rng(12).random(9) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_effect_sizes_by_hand():
    # differences 1, 2, 3, 4: mean 2.5, deviation 1.290994; J(3) = gamma(1.5) / (gamma(1) sqrt(1.5)) = 0.723601
    effect, name = effect_size([0, 0, 0, 0], [1, 2, 3, 4])
    assert (effect, name) == (pytest.approx(0.723601 * 2.5 / 1.290994, abs=1e-5), "Hedges' g of the differences")
    assert effect_size([0, 0, 0, 1, 1], [1, 1, 1, 0, 1]) == (3.5 / 1.5, "odds ratio")
    assert effect_size([0.5] * 4, [0.5] * 4) is None and effect_size([0.5, 0.1], [0.2, 0.2]) is None


def test_what_n_can_show_is_found_80_times_in_100():
    rng = np.random.default_rng(10)
    visible = np.mean([mean_estimate(rng.normal(0, 1, 30).tolist()).detectable() for _ in range(200)])
    found = [mean_estimate(rng.normal(visible, 1, 30).tolist()).p_value() < 0.05 for _ in range(1000)]
    assert 0.75 < np.mean(found) < 0.85


# --- in words ------------------------------------------------------------------------------------------------------


def test_no_evidence_says_why():
    metric = paired_metric("score", [0.5, 0.3, 0.7, 0.4] * 2, [0.6, 0.2, 0.8, 0.3] * 2)
    # deviation 0.1069, error 0.0378; t(7): 2.365 + 0.896
    assert verdict_in_words(metric) == "no evidence (n=8 is too small to detect less than 0.12)"
    assert verdict_in_words(paired_metric("score", [0.5], [0.7])) == "no evidence (too little for an interval)"
    nothing = paired_metric("score", [math.inf, 1], [0.5, 1])
    assert verdict_in_words(nothing) == "no evidence (a score is not a finite number)"
    assert verdict_in_words(paired_metric("score", [0.5, 0.5], [0.5, 0.5])) == "no evidence (2 examples can't tell)"
    few = paired_metric("score", [0.1] * 8, [0.9] * 8, clusters=list("aaabbbcc"))
    assert verdict_in_words(few) == "no evidence (3 clusters of examples can't tell)"


def test_the_adjusted_p_value_has_a_say():
    metric = paired_metric("score", [0.1, 0.2, 0.3, 0.2, 0.1, 0.2], [0.5, 0.5, 0.5, 0.6, 0.3, 0.7])
    assert verdict_in_words(metric) == "better"
    assert verdict_in_words(replace(metric, higher_is_better=False)) == "worse"
    assert verdict_in_words(replace(metric, p_adjusted=0.04)) == "better"
    told = "no evidence (it could be chance among several metrics: adjusted p=0.08)"
    assert verdict_in_words(replace(metric, p_adjusted=0.08)) == told
    alone = replace(metric, p_value=0.08, p_adjusted=0.08, test="t")
    assert verdict_in_words(alone) == "no evidence (t gives p=0.08)"


# --- metrics -------------------------------------------------------------------------------------------------------


def test_a_weighted_metric_is_the_ratio():
    base, tuned, tokens = [10.0, 300.0, 4.0], [5.0, 100.0, 4.0], [5, 100, 1]
    each = [[nll / n for nll, n in zip(side, tokens, strict=True)] for side in (base, tuned)]
    metric = paired_metric("nll", *each, weights=tokens, higher_is_better=False)
    assert (metric.base, metric.tuned) == (pytest.approx(314 / 106), pytest.approx(109 / 106))
    wanted = paired_ratio_difference(base, tuned, tokens)
    assert (metric.difference.low, metric.difference.high) == pytest.approx((wanted.low, wanted.high))
    assert metric.difference.method == "paired ratio, t"


def test_subsets():
    leaked = [True, False, False, True, False]
    names, tokens, reasons = list("aabbc"), [1, 2, 3, 4, 5], list("vwxyz")
    base, tuned = [0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 0.3, 0.2, 0.8, 0.6]
    whole = paired_metric("score", base, tuned, weights=tokens, clusters=names, tuned_reasons=reasons)
    parts = on_subsets(whole, leaked)
    assert list(parts) == ["all", "clean", "leaked"] and parts["all"] is whole
    clean = paired_metric(
        "score", [0.2, 0.3, 0.5], [0.3, 0.2, 0.6], weights=[2, 3, 5], clusters=list("abc"), tuned_reasons=list("wxz")
    )
    assert parts["clean"] == clean
    assert parts["leaked"].tuned == pytest.approx((0.9 + 4 * 0.8) / 5)
    assert list(on_subsets(whole, [False] * 5)) == ["all", "clean"]
    assert on_subsets(whole, [False] * 5)["clean"] == whole
    perplexity = Metric("perplexity", 3.0, 2.0, None, higher_is_better=False)
    assert on_subsets(perplexity, leaked) == {"all": perplexity}
    with pytest.raises(ValueError, match="score: 5 scores, but 2 rows"):
        on_subsets(whole, [True, False])


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from("abcdefgh")), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_every_metric_is_whole(rows):
    base, tuned, names = (list(column) for column in zip(*rows, strict=True))
    metric = paired_metric("score", base, tuned, clusters=names)
    assert (metric.difference is None) == (len(set(names)) < 2)
    if metric.difference:
        assert metric.difference.low <= metric.difference.mean <= metric.difference.high
        assert metric.difference.low < metric.difference.high
        assert 0 <= metric.p_value <= 1 and (metric.detectable is None or metric.detectable > 0)
    assert verdict_in_words(metric)


def test_a_metric_comes_back_from_its_file_and_so_does_an_old_one():
    rng = np.random.default_rng(11)
    metric = paired_metric("score", rng.random(12).tolist(), rng.random(12).tolist(), clusters=list("abcdefghijkk"))
    assert metric.bootstrap is not None
    broken = paired_metric("score", [math.nan, 1.0], [0.5, 1.0], weights=[1.0, 2.0])
    assert (broken.base, broken.tuned) == (1, 1)
    evaluation = Evaluation((metric, replace(broken, base=1.0)), evaluator="e", n=12, subsets={"clean": (metric,)})
    kept = json.loads(json.dumps(finite(dataclasses.asdict(evaluation))))
    found = schemas.evaluation(schemas.checked(schemas.EvaluationRecord, kept))
    assert found.metrics[0] == metric and found.subsets == {"clean": (metric,)}
    assert math.isnan(found.metrics[1].base_scores[0]) and found.metrics[1].weights == (1.0, 2.0)
    old = {"name": "nll", "base": 1.0, "tuned": "inf", "difference": None, "higher_is_better": False}
    old |= {"base_scores": [1.0], "tuned_scores": ["inf"], "base_reasons": [], "tuned_reasons": ["why"]}
    record = {"metrics": [old], "notes": [], "evaluator": "e", "evals": "t", "n": 1}
    [read] = schemas.evaluation(schemas.checked(schemas.EvaluationRecord, record)).metrics
    assert (read.tuned, read.tuned_scores, read.tuned_reasons, read.p_value) == (math.inf, (math.inf,), ("why",), None)


def test_an_example_without_a_score_is_left_out_of_every_figure():
    base, tuned = [0.1, math.nan, 0.3, 0.4, 0.5], [0.9, 0.3, 0.2, math.nan, 0.6]
    whole = paired_metric("score", base, tuned, clusters=list("aabbc"), weights=[1, 2, 3, 4, 5])
    rest = paired_metric("score", [0.1, 0.3, 0.5], [0.9, 0.2, 0.6], clusters=list("abc"), weights=[1, 3, 5])
    kept = ("base_scores", "tuned_scores", "weights", "clusters")
    assert replace(whole, **dict.fromkeys(kept, ())) == replace(rest, **dict.fromkeys(kept, ()))
    assert len(whole.base_scores) == len(whole.weights) == len(whole.clusters) == 5
    assert whole.difference.n == 3
    parts = on_subsets(whole, [False, False, False, True, True])
    assert parts["clean"].difference.n == 2 and len(parts["clean"].base_scores) == 3
    assert parts["leaked"].difference is None and parts["leaked"].tuned == 0.6
    nothing = paired_metric("score", [math.nan], [1.0])
    assert math.isnan(nothing.base) and nothing.difference is None


# --- seeds ---------------------------------------------------------------------------------------------------------


def test_across_seeds():
    # runs 0.2, 0.4, 0.6: deviation 0.2, t(2) = 4.302653
    found = across_seeds([[0.1, 0.3], [0.4, 0.4], [0.5, 0.7]])
    assert found.runs == pytest.approx((0.2, 0.4, 0.6)) and found.deviation == pytest.approx(0.2)
    half = 4.302653 * 0.2 / math.sqrt(3)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.4 - half, 0.4 + half))
    assert (found.interval.n, found.interval.method) == (3, "t over runs")
    assert across_seeds([[0.1, 0.3]]) is None and across_seeds([]) is None
    with pytest.raises(ValueError, match=r"runs with \[1, 2\] scores"):
        across_seeds([[0.1, 0.3], [0.4]])
