"""The evaluator `pairwise`: both orders, ties, length, and a gold set."""

import dataclasses
import json

import pyarrow.parquet as pq
import pytest
from judge_server import Say, between, longer, prompt_of, serving, winner

from ftp import DataError, Ledger
from ftp.stats import paired_difference, verdict_in_words
from ftp.testing import assert_component_ok
from ftp_plugins.engines.client import ServiceError
from ftp_plugins.evaluators.pairwise import Pairwise

ROWS = [(f"Question {n}?", "right", "wrong " + "long " * (n % 7), "right " + "long " * (n % 5)) for n in range(30)]


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("FTP_REPLAY", raising=False)


def pairwise(server, **options):
    return Pairwise(model="judge-1", base_url=server.url, **{"max_retries": 0, **options})


def first(request):
    return Say(winner("A"))


def fair(request):
    """The one that is right; a tie where both are."""
    a, b = ("right" in between(prompt_of(request), f"answer-{name}") for name in "ab")
    return Say(winner("tie" if a == b else "A" if a else "B"))


def evaluated(view, say, **options):
    with serving(say) as server:
        found = pairwise(server, **options).evaluate(view)
    return found, found.metrics[0], found.panel


def test_it_is_a_sound_component():
    with serving(fair) as server:
        assert_component_ok(Pairwise, model="judge-1", base_url=server.url)


def test_a_fair_judge(ftp_answers):
    rows = [*ROWS, ("q", "r", "right so", "right too"), ("q", "r", "right so", "wrong")]
    found, metric, panel = evaluated(ftp_answers(rows), fair)
    assert metric.name == "win_rate"
    assert metric.tuned_scores == (1.0,) * 30 + (0.5, 0.0) and metric.base_scores == (0.0,) * 30 + (0.5, 1.0)
    assert metric.tuned == panel["win rate"] == pytest.approx(30.5 / 32) and metric.base == pytest.approx(1.5 / 32)
    assert metric.difference.mean == pytest.approx(metric.tuned - metric.base) and metric.difference.low > 0
    assert panel["order consistency"] == 1 and panel["calls"] == 64
    assert "30 won, 1 tied, 1 lost" in " ".join(found.notes)
    assert metric.tuned_reasons[0] == "base first: tuned. so it is\ntuned first: tuned. so it is"
    assert "length flag" not in panel


def test_a_judge_that_always_prefers_the_first_ends_at_a_half(ftp_answers):
    found, metric, panel = evaluated(ftp_answers(ROWS), first)
    assert metric.tuned == metric.base == 0.5 and set(metric.tuned_scores) == {0.5}
    assert panel["order consistency"] == 0 and panel["win rate"] == 0.5
    assert "order consistency 0.0% (0.0% to" in " ".join(found.notes)
    assert panel["order flag"].startswith("prefers the answer shown first: it gained in 30 of 30 pairs")
    assert metric.difference.low <= 0 <= metric.difference.high


def test_a_judge_that_prefers_the_longer_is_flagged(ftp_answers):
    found, _, panel = evaluated(ftp_answers(ROWS), longer)
    assert panel["longer answer wins"] == 1 and panel["length correlation"] > 0.8
    assert panel["length flag"] == "may prefer longer answers" and "order flag" not in panel
    assert any("the judge may prefer longer answers" in note for note in found.notes)
    # also where the tuned model's answer is always the longer one, and so always wins
    rows = [(f"q{n}", "r", "word", "word " * (n + 2)) for n in range(10)]
    _, metric, panel = evaluated(ftp_answers(rows), longer)
    assert metric.tuned == 1 and panel["length flag"]


def test_length_is_taken_out_of_the_win_rate(ftp_answers):
    def noisy(request):
        """The longer one, but for every fourth question."""
        turned = int(between(prompt_of(request), "user-turn").split()[1][:-1]) % 4 == 0
        said = longer(request).text
        return Say(said.translate(str.maketrans("AB", "BA")) if turned else said)

    rows = [(f"Question {n}?", "r", "word " * (n % 5 + 1), "word " * (n % 7 + 1)) for n in range(60)]
    found, _, panel = evaluated(ftp_answers(rows), noisy)
    assert 0 < panel["length-controlled win rate, low"] < panel["length-controlled win rate"] < 1
    assert "length-controlled win rate: " in found.notes[-1]
    few, _, panel = evaluated(ftp_answers(rows[:5]), noisy)
    assert "not given: 5 examples are too few" in few.notes[-1] and "length-controlled win rate" not in panel


def test_the_same_answer_twice_is_a_tie_without_a_call(ftp_answers):
    rows = [*ROWS[:3], ("q", "r", "same", "same"), ("p", "r", "", "")]
    found, metric, panel = evaluated(ftp_answers(rows), fair)
    assert panel["calls"] == 6 and metric.tuned_scores[3:] == (0.5, 0.5)
    assert "2 pairs have identical answers: ties, without a call" in found.notes
    found, metric, panel = evaluated(ftp_answers([("q", "r", "same", "same")] * 3), fair)
    assert metric.tuned == 0.5 and panel["calls"] == 0


def test_a_pair_with_an_order_that_can_not_be_read_is_unscored(ftp_answers):
    def say(request):
        prompt = prompt_of(request)
        wrong_first = "wrong" in between(prompt, "answer-a")
        return Say("Hm.") if "Question 3?" in prompt and wrong_first else fair(request)

    found, metric, panel = evaluated(ftp_answers(ROWS[:8]), say)
    assert metric.tuned == 1 and metric.difference.n == 7 and found.n == 8
    assert metric.tuned_scores[3] != metric.tuned_scores[3]
    assert panel["unscored"] == 1 / 8 and "unscored: 1 of 8 pairs (12.5%); 1: the reply can't be read" in found.notes


def test_nothing_scored_is_no_figure(ftp_answers):
    _, metric, panel = evaluated(ftp_answers(ROWS[:4]), lambda request: Say("Hm."))
    assert metric.tuned != metric.tuned and metric.difference is None and panel["unscored"] == 1


def test_a_gold_set_of_pairs(ftp_answers, tmp_path):
    rows = [{"prompt": f"p{n}", "answer_1": "right", "answer_2": "wrong", "label": 1} for n in range(6)]
    rows += [{"prompt": f"p{n}", "answer_1": "wrong", "answer_2": "right", "label": "2"} for n in range(6)]
    rows += [{"prompt": "x", "answer_1": "right", "answer_2": "wrong", "label": 2}]
    rows += [{"prompt": "y", "answer_1": "right A", "answer_2": "right B", "label": "tie"}]
    file = tmp_path / "gold.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, _, panel = evaluated(ftp_answers(ROWS[:3]), fair, calibrate=str(file))
    assert panel["gold agreement"] == pytest.approx(13 / 14) and panel["gold order consistency"] == 1
    assert panel["gold kappa"] == pytest.approx(0.872, abs=0.01) and panel["gold unscored"] == 0
    assert "gold set: agreement with people 92.9% (" in found.notes[-1]
    _, _, panel = evaluated(ftp_answers(ROWS[:3]), first, calibrate=str(file))
    assert panel["gold agreement"] == pytest.approx(13 / 28) and panel["gold order consistency"] == 0
    file.write_text('{"prompt": "p", "answer_1": "a", "answer_2": "b", "label": 0}\n')
    with pytest.raises(DataError, match=r"""gold.jsonl:1: 'label' has to be 1, 2 or "tie", not 0"""):
        Pairwise(model="m", calibrate=str(file)).check([])


def test_a_local_model_compares_in_both_orders(ftp_answers, ftp_tiny_model):
    local = Pairwise(provider="local", model=str(ftp_tiny_model), max_answer_chars=200)
    view = ftp_answers(ROWS[:4])
    found = local.evaluate(view)
    metric = found.metrics[0]
    assert set(metric.tuned_scores) <= {0, 0.5, 1} and found.panel["calls"] == 8
    assert "P(A)=0." in metric.tuned_reasons[0]
    assert local.evaluate(view) == found
    assert_component_ok(Pairwise, provider="local", model=str(ftp_tiny_model))


def test_a_replay_of_what_was_never_asked(ftp_answers):
    with pytest.raises(ServiceError, match=r"call for heldout.jsonl:1 \(base first, eval set heldout\)"):
        Pairwise(model="m", replay=True).evaluate(ftp_answers(ROWS[:2]))


# --- general instructions --------------------------------------------------------------------------------------------

GENERAL = [{"instruction": f"Name the capital of country number {n}.", "output": f"City {n}."} for n in range(6)]


@pytest.fixture
def general(tmp_path):
    file = tmp_path / "general.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in GENERAL))
    return file


def test_with_instructions_it_is_on_its_own(general):
    with serving(fair) as server:
        assert_component_ok(Pairwise, model="judge-1", base_url=server.url, instructions=str(general))
        found = pairwise(server, instructions=str(general))
        assert found.on_its_own and not pairwise(server).on_its_own and pairwise(server).own_evals() == {}
        assert [example.reference for example in found.own_evals()["general-instructions"]] == [
            row["output"] for row in GENERAL
        ]
        assert found.files() == [general] and found.problems() == []
        assert pairwise(server, instructions="none.jsonl").problems() == ["instructions: none.jsonl: no such file"]
    general.write_text('{"text": "No instruction at all."}\n')
    with pytest.raises(DataError, match=r"general.jsonl:1: a text; instructions with answers are needed"):
        Pairwise(model="m", instructions=str(general)).own_evals()


def test_each_of_two_in_a_run_has_its_own_budget(ftp_answers, general, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    prices = {"price_per_million_input": 0, "price_per_million_output": 1e4, "max_tokens": 20, "max_cost": 1.3}
    with serving(fair) as server:
        for options, rows in (({}, ROWS[:3]), ({"instructions": str(general)}, ROWS[3:6])):
            view = dataclasses.replace(ftp_answers(rows), directory=directory)
            found = pairwise(server, **prices, **options).evaluate(view)
            assert found.panel["unscored"] == 0, found.notes
    callers = [json.loads(line)["evaluator"] for line in (directory / "judgments.jsonl").read_text().splitlines()]
    assert callers == ["Pairwise"] * 6 + ["Pairwise on its own"] * 6


def test_answers_to_general_instructions_are_compared_in_a_run(ftp, ftp_recipe, ftp_tiny_model, general, tmp_path):
    with serving(longer) as server:
        judge = {"use": "pairwise", "model": "judge-1", "base_url": server.url}
        evaluate = [judge, {**judge, "instructions": "general.jsonl"}]
        file = ftp_recipe(
            model={"id": str(ftp_tiny_model), "device": "cpu", "dtype": "float32"},
            adapter={"use": "full"},
            train={"learning_rate": 2e-2},
            answers={"max_new_tokens": 6},
            evaluate=[*evaluate, {"use": "forgetting", "instructions": "general.jsonl"}],
        )
        with (tmp_path / "train.jsonl").open("a") as stream:
            row = {"instruction": "Name the capital of country number 3.", "context": "", "response": "City 3."}
            stream.write(json.dumps(row) + "\n")
        done = ftp("run", str(file))
        assert done.code == 0, done.err
        assert server.asked
    [run] = (tmp_path / "runs").glob("small/2*")
    found = json.loads((run / "evaluation.json").read_text())
    assert [(e["evaluator"], e["evals"], e["n"]) for e in found] == [
        ("pairwise", "heldout", 4), ("pairwise", "general-instructions", 6), ("forgetting", "general-instructions", 6),
    ]  # fmt: skip
    for who in ("base", "tuned"):
        rows = pq.read_table(run / "answers" / f"{who}-general-instructions.parquet").to_pylist()
        assert [row["reference"] for row in rows] == [row["output"] for row in GENERAL]
        assert all(row["answer"] is not None for row in rows)
    assert Ledger.read(run / "ledger.parquet").row("train.jsonl:13")["reason"] == "leak: general-instructions"
    page = (run / "report.html").read_text()
    special, general_part = (
        page.split(f'<section id="{name}">')[1].split("</section>")[0] for name in ("metrics", "forgetting")
    )
    assert "pairwise win_rate" in special and "general-instructions" not in special
    assert "pairwise win_rate" in general_part and "forgetting nll" in general_part and "heldout" not in general_part
    assert "6 of 6 examples" in page and 'class="id">general.jsonl:6' in page
    assert "General abilities: " in page


def test_two_that_bring_other_instructions_are_refused(ftp, ftp_recipe, ftp_tiny_model, general, tmp_path):
    (tmp_path / "other.jsonl").write_text(general.read_text().replace("City", "Town"))
    judge = {"use": "pairwise", "provider": "local", "model": str(ftp_tiny_model)}
    evaluate = [{"use": "loss"}, {**judge, "instructions": "general.jsonl"}, {**judge, "instructions": "other.jsonl"}]
    file = ftp_recipe(model={"id": str(ftp_tiny_model), "device": "cpu"}, evaluate=evaluate)
    for command in (("check",), ("data", "check"), ("run",)):
        done = ftp(*command, str(file))
        assert done.code == 2 and "'pairwise' brings an eval set 'general-instructions', and another" in done.err


# --- judges that are no instrument -----------------------------------------------------------------------------------


def flags(panel):
    return {name for name in panel if name.endswith(" flag")}


def test_a_judge_that_always_says_tie_is_flagged(ftp_answers):
    found, metric, panel = evaluated(ftp_answers(ROWS), lambda request: Say(winner("tie")))
    assert metric.tuned == 0.5 and flags(panel) == {"ties flag"}
    assert "the judge calls 30 of 30 pairs a tie: it tells few answers apart" in found.notes
    assert "length-controlled win rate: not given: every pair is a tie" in found.notes
    assert metric.difference.low < 0 < metric.difference.high


def test_a_judge_that_throws_coins_is_flagged(ftp_answers):
    rows = [(f"Question {n}?", "right", f"wrong {n}", f"right {n}") for n in range(80)]

    def even(request):
        """Both orders have the same winner in every second pair, as those of a coin have on average."""
        prompt = prompt_of(request)
        number = int(between(prompt, "user-turn").split()[1][:-1])
        tuned = "A" if "right" in between(prompt, "answer-a") else "B"
        base = "B" if tuned == "A" else "A"
        return Say(winner(("A", "B", tuned, base)[number % 4]))

    found, _, panel = evaluated(ftp_answers(rows), even)
    assert flags(panel) == {"coin flag"} and panel["order consistency"] == 0.5
    assert "the judge names one winner in both orders for 40 of 80 pairs: two coins may do so, too" in found.notes


@pytest.mark.parametrize(("always", "place"), [("A", "first"), ("B", "second")])
def test_a_judge_that_goes_by_position_in_a_third_of_the_calls_is_flagged(ftp_answers, always, place):
    def third(request):
        number = int(between(prompt_of(request), "user-turn").split()[1][:-1])
        return Say(winner(always)) if number % 3 == 0 else fair(request)

    found, metric, panel = evaluated(ftp_answers(ROWS), third)
    assert panel["order consistency"] == pytest.approx(2 / 3)
    told = f"prefers the answer shown {place}: it gained in 10 of 10 pairs that changed"
    assert panel["order flag"] == told and f"the judge {told}" in found.notes
    assert metric.tuned == pytest.approx(25 / 30)


def test_refusals_of_what_the_tuned_model_loses_do_not_make_it_better(ftp_answers):
    def refuses(request):
        prompt = prompt_of(request)
        number = int(between(prompt, "user-turn").split()[1][:-1])
        return Say("I can't judge this.") if number % 5 == 1 or number % 10 == 3 else fair(request)

    rows = [(f"Question {n}?", "r", *(("right", "wrong") if n % 2 else ("wrong", "right"))) for n in range(100)]
    found, metric, panel = evaluated(ftp_answers(rows), refuses)
    assert metric.tuned > 0.55 and panel["unscored"] > 0.15
    assert panel["tuned model at the least"] < 0.51 < panel["tuned model at the most"]
    assert metric.worst is not None and metric.worst.low < 0
    assert any("win_rate of the tuned model, had all been scored: 0." in note for note in found.notes)
    all_but_some = [(f"Question {n}?", "r", "wrong", "right") for n in range(100)]

    def half(request):
        number = int(between(prompt_of(request), "user-turn").split()[1][:-1])
        return Say("No.") if number % 2 else fair(request)

    _, metric, panel = evaluated(ftp_answers(all_but_some), half)
    assert metric.difference.low > 0 and panel["unscored flag"] == "the verdict hangs on what was not scored"
    assert verdict_in_words(metric).startswith("no evidence (it hangs on 50 of 100 examples without a score")


def test_questions_about_one_document_are_clusters(ftp_answers):
    rows = [(f"{DOCUMENT} {n % 6}\nQuestion {n}?", "right", "wrong", "right " + "so " * (n % 5)) for n in range(30)]
    metric = evaluated(ftp_answers(rows), fair)[1]
    assert len(set(metric.clusters)) == 6 and metric.difference.method.endswith(", 6 clusters")
    assert metric.difference == paired_difference(metric.base_scores, metric.tuned_scores, clusters=metric.clusters)


DOCUMENT = " ".join(f"word{n}" for n in range(40))
