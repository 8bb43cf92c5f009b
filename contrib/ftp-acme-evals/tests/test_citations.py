"""Which citations are found, and what an answer scores."""

from __future__ import annotations

import pytest

from ftp.testing import MakeAnswers, assert_component_ok


def test_it_is_a_sound_component(ftp_answers: MakeAnswers) -> None:
    from ftp_acme_evals.citations import Citations

    assert_component_ok(Citations)
    view = ftp_answers([("See § 4.2. Is it fair?", "No, § 4.2 is not.", "No.", "No, clause 4.2 is not.")])
    assert_component_ok(Citations, view, words=("clause", "article"), every=True)


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("See § 4.2.", ["4.2"]),
        ("§4.2 and §\u00a05", ["4.2", "5"]),
        ("Clause 4.2 caps it; clause 4.2 is void.", ["4.2"]),
        ("subclause 4.2.1(b)(ii) and Section 12A", ["4.2.1", "12a"]),
        ("Clauses 4.2, 4.3 and 5 to 7", ["4.2", "4.3", "5", "7"]),
        ("§§ 4.2, § 4.3, and 9", ["4.2", "4.3", "9"]),
        ("Clauses 4.2(a) and 4.3(b)", ["4.2", "4.3"]),
        ("Under clause 4.2, 30 days apply.", ["4.2"]),
        ("clause 4 allows 50%", ["4"]),
        ("clause 4.5% of it, clause 4.2abc", []),
        ("clause 4.2a and clause 3B", ["4.2a", "3b"]),
        ("The fee is 4.2 million; an intersection 5 miles off.", []),
        ("This clause has 3 parts.", []),
    ],
)
def test_citations_in_a_text(text: str, clauses: list[str]) -> None:
    from ftp_acme_evals.citations import Citations

    assert Citations().cited(text) == clauses


PROMPT = (
    "Review this.\n\n4.2 Liability is limited, see clause 7.\n4.21. Notice is given in writing.\n30 days later it ends."
)


@pytest.mark.parametrize(
    ("answer", "score", "strict", "reason"),
    [
        ("Clause 4.2 is too wide.", 1, 1, "cites 4.2"),
        ("§ 7 is too wide.", 1, 1, "cites 7"),
        ("Section 4.21 needs a term.", 1, 1, "cites 4.21"),
        ("Clause 4 is too wide.", 0, 0, "cites 4, not in the prompt"),
        ("Clause 14.2 is too wide.", 0, 0, "cites 14.2, not in the prompt"),
        ("Clauses 4.2 and 9.9 are too wide.", 1, 0, "cites 4.2"),
        ("It is too wide: 4.2 times.", 0, 0, "cites no clause"),
        ("", 0, 0, "cites no clause"),
    ],
)
def test_an_answer_scores_when_it_cites_what_is_there(
    ftp_answers: MakeAnswers, answer: str, score: float, strict: float, reason: str
) -> None:
    from ftp_acme_evals.citations import Citations

    (example,) = ftp_answers([(PROMPT, "Clause 4.2 is too wide.", "", answer)]).examples
    found = Citations().score(example, answer)
    assert (found.value, found.reason) == (score, reason)
    assert Citations(every=True).score(example, answer).value == strict


def test_prompts_without_a_clause_are_told(ftp_answers: MakeAnswers) -> None:
    from ftp_acme_evals.citations import Citations

    view = ftp_answers([(PROMPT, "Clause 4.2.", "None.", "Clause 4.2."), ("Is it fair?", "No.", "No.", "Clause 1.")])
    evaluation = Citations().evaluate(view)
    assert evaluation.metrics[0].tuned_scores == (1, 0)
    assert evaluation.notes == ("1 of 2 prompts have no clause: no answer to them can score",)


def test_the_words_can_be_the_houses_own() -> None:
    from ftp_acme_evals.citations import Citations

    german = Citations(words=("ziffer", "abschnitt"))
    assert german.cited("Ziffer 4.2 und § 5, nicht clause 6") == ["4.2", "5"]
