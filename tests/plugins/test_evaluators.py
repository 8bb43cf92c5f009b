"""What the evaluators make of answers, and what reports make of that."""

import math

import pytest

from ftp import DataError
from ftp.stats.differences import paired_ratio_difference
from ftp.types import EvalView, TokenLoss
from ftp_plugins.evaluators.exact_match import ExactMatch
from ftp_plugins.evaluators.loss import Loss
from ftp_plugins.evaluators.rouge import Rouge
from ftp_plugins.reporters.html import answer_parts, figure
from ftp_plugins.reporters.model_card import plain


@pytest.mark.parametrize(
    ("options", "reference", "answer", "score"),
    [
        ({}, "Late payment", "late  payment\n", 1),
        ({"ignore_case": False}, "Late payment", "late payment", 0),
        ({"pattern": r"^Risk: (.+)$"}, "Risk: late payment\nWhy: …", "Well.\nRisk: Late payment\nFix: …", 1),
        ({"pattern": r"^Risk: (.+)$"}, "Risk: late payment", "It is late payment.", 0),
        ({"pattern": r"#### (-?\d+)"}, "so #### 7", "first #### 6, no, #### 7", 1),
        ({"pattern": r"\d+"}, "7", "17", 0),
        ({"pattern": r"A(x)?"}, "Ax", "A", 0),
    ],
)
def test_exact_match(ftp_answers, options, reference, answer, score):
    view = ftp_answers([("q", reference, "nothing", answer)] * 3)
    [metric] = ExactMatch(**options).evaluate(view).metrics
    assert metric.tuned_scores == (score,) * 3


def test_a_miss_says_why(ftp_answers):
    view = ftp_answers([("q", "Risk: a", "b", "Risk: b")] * 2)
    [metric] = ExactMatch(pattern="Risk: (.+)").evaluate(view).metrics
    assert metric.tuned_reasons[0] == "'b', expected 'a'"
    assert metric.base_reasons[0] == "the pattern finds nothing in the answer"
    with pytest.raises(DataError, match="finds nothing in the reference and in 1 more"):
        ExactMatch(pattern="Zahl").check(view.examples)


def test_rouge_is_that_of_the_library(ftp_answers):
    from rouge_score.rouge_scorer import RougeScorer

    reference, base, tuned = "the cat sat on the mat", "a dog", "the cat lay on a mat"
    metrics = {m.name: m for m in Rouge().evaluate(ftp_answers([("q", reference, base, tuned)] * 2)).metrics}
    expected = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, tuned)
    assert metrics.keys() == expected.keys()
    for name, metric in metrics.items():
        assert metric.tuned == pytest.approx(expected[name].fmeasure)
        assert metric.base == 0


def test_loss_weighs_every_token_alike():
    base = [TokenLoss(10.0, 5), TokenLoss(300.0, 100), TokenLoss(4.0, 1)]
    tuned = [TokenLoss(5.0, 5), TokenLoss(100.0, 100), TokenLoss(4.0, 1)]
    nll, perplexity = Loss().evaluate(EvalView("e", [], [], [], base, tuned)).metrics
    assert nll.base == pytest.approx(314 / 106) and nll.tuned == pytest.approx(109 / 106)
    assert perplexity.tuned == pytest.approx(math.exp(109 / 106))
    assert nll.difference == paired_ratio_difference([10, 300, 4], [5, 100, 4], [5, 100, 1])
    assert not nll.higher_is_better and not perplexity.higher_is_better


def test_a_loss_beyond_all_measure_has_an_infinite_perplexity():
    losses = [TokenLoss(1e6, 1), TokenLoss(1e6, 1)]
    _, perplexity = Loss().evaluate(EvalView("e", [], [], [], losses, losses)).metrics
    assert perplexity.base == math.inf


def test_an_answer_is_shown_against_its_reference(ftp_answers):
    view = ftp_answers([("q", "pay within thirty days", "", "pay me within thirty days now")])
    parts = answer_parts("pay within thirty days", view.tuned_answers, 0)["parts"]
    assert parts == [(True, "pay "), (False, "me "), (True, "within thirty days "), (False, "now")]
    assert answer_parts("x", (), 0) is None


def test_figures_and_plain_text():
    assert [figure(v) for v in (0.12345, -2.0, 45250.3, math.nan)] == ["0.123", "-2.000", "45,250", "nan"]
    assert plain("a | <b> *c* `d`\n# e") == "a &#124; &lt;b> \\*c\\* \\`d\\` \\# e"
