"""The evaluator, through the kit that FTP brings for plugin authors."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftp.testing import Install, MakeAnswers, assert_component_ok

MODULE = Path(__file__).parents[1] / "ftp_brevity.py"


@pytest.fixture(autouse=True)
def installed(ftp_install: Install) -> None:
    ftp_install("ftp-brevity", MODULE)


def test_it_is_a_sound_component() -> None:
    from ftp_brevity import Brevity

    assert_component_ok(Brevity)
    assert_component_ok(Brevity, max_words=1)


def test_an_answer_scores_up_to_the_limit_and_not_beyond(ftp_answers: MakeAnswers) -> None:
    from ftp_brevity import Brevity

    view = ftp_answers(
        [
            ("Is it fair?", "No.", "one two three four", "one two three"),
            ("Is it valid?", "Yes.", "one two three four", ""),
            ("Is it signed?", "Yes.", "one", "one"),
        ]
    )
    (metric,) = Brevity(max_words=3).evaluate(view).metrics
    assert metric.base_scores == (0, 0, 1)
    assert metric.tuned_scores == (1, 1, 1)
    assert metric.tuned == 1
