"""Numbers as people write them, for `exact_match` with `numbers: true`."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftp_plugins.evaluators.exact_match import ExactMatch
from ftp_plugins.evaluators.numbers import LONGEST, number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e3", 1000), ("1.2E-2", "0.012"), ("1/2", "1/2"), ("1 1/2", "3/2"), ("½", "1/2"), ("1½", "3/2")],
        *[("$ 18", 18), ("18 $", 18), ("50 %", 50), ("₹5", 5), ("₹12,34,567", 1234567), ("€1,200.50", "1200.5")],
        *[("５０", 50), ("１，２００", 1200), ("￥３", 3), ("٣٫٥", "3.5"), ("٪٥", None), ("٥٪", 5)],
        *[("1 000", 1000), ("1\u2009000", 1000), ("1\u00a0000\u202f000", 10**6), ("1\u202f000\u202f000", 10**6)],
        *[("–5", -5), ("\u22125", -5), ("−$5", -5), ("$-5", -5), ("+5", 5), ("--5", None), ("-$-5", None)],
        *[("($5)", -5), ("(€1,200.50)", "-1200.5"), ("(5)", None), ("(-$5)", None)],
        *[("10²", None), ("1,2", None), ("1,2345", None), ("1.234,5", None), ("1 00", None), ("1/0", None)],
        *[("1/2/2024", None), ("", None), ("$", None), ("five", None), ("1e9999", None)],
        ("9" * LONGEST, 10**LONGEST - 1),
        ("9" * (LONGEST + 1), None),
    ],
)
def test_the_value_of_a_number(text, value):
    assert number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    "spelt", ["1e3", "$ 1,000", "1 000", "1\u202f000", "１０００", "2000/2", "1000 %", "₹1,000.00"]
)
def test_exact_match_compares_them_by_value(ftp_answers, spelt):
    view = ftp_answers([("q", "1000", "999", spelt)] * 2)
    [metric] = ExactMatch(numbers=True).evaluate(view).metrics
    assert (metric.base, metric.tuned) == (0, 1)


@given(st.text(max_size=40))
def test_no_text_is_an_error(text):
    number(text)


@given(st.integers(-(10**12), 10**12))
def test_every_way_to_group_thousands(value):
    for separator in (",", " ", "\u00a0", "\u202f", "'"):
        assert number(f"{value:,}".replace(",", separator)) == value
