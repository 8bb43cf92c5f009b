"""Evaluators that score one answer, as evaluators and as rewards: real inputs, and hostile ones."""

import json
import math
import time
from pathlib import Path

import pytest

from ftp import DataError
from ftp.errors import PluginError
from ftp.testing import assert_component_ok
from ftp.types import Example, Message
from ftp_plugins.evaluators.code import Code
from ftp_plugins.evaluators.code_sandbox import cuts_off_network
from ftp_plugins.evaluators.function import Function
from ftp_plugins.evaluators.json_schema import JSONSchema
from ftp_plugins.evaluators.length import Length
from ftp_plugins.evaluators.math import Math


def example(reference, prompt="question"):
    return Example((Message("user", prompt), Message("assistant", reference)), id="rows.jsonl:1", source="rows.jsonl")


# --- math


@pytest.fixture(scope="module")
def math_reward():
    return Math(timeout=2)


@pytest.mark.parametrize(
    ("reference", "answer", "score"),
    [
        (r"$\frac{1}{2}$", r"So it is \boxed{0.5}.", 1),
        ("1/2", "0.5", 1),
        ("#### 1,200", "The total is $1200$", 1),
        (r"$\{1, 2\}$", r"\boxed{\{2,1\}}", 1),
        (r"$x^2 + 2x + 1$", r"$(x+1)^2$", 1),
        ("18", "It is 17.", 0),
        ("18", "I don't know.", 0),
        ("3", "", 0),
    ],
)
def test_math_compares_values(math_reward, reference, answer, score):
    assert math_reward.score(example(reference), answer).value == score


@pytest.mark.parametrize("answer", ["$9^{9^{9^{9}}}$", r"\boxed{" + "(" * 5000 + "}", "9" * 100_000, "\0\ud800"])
def test_a_hostile_result_ends_in_time_and_the_next_one_is_compared(math_reward, answer):
    began = time.monotonic()
    assert math_reward.score(example("3"), answer).value == 0
    assert time.monotonic() - began < 30
    assert math_reward.score(example("3"), "3").value == 1


def test_a_reference_without_a_result_is_reported(math_reward):
    with pytest.raises(DataError, match=r"rows.jsonl:1: Math: Math-Verify finds no result in the reference: 'no idea'"):
        math_reward.check([example("no idea")])
    math_reward.check([example("7")])


# --- JSON

SCHEMA = {"type": "object", "required": ["risk"], "properties": {"risk": {"enum": ["high", "low"]}}}


@pytest.mark.parametrize(
    ("answer", "score", "reason"),
    [
        ('{"risk": "high"}', 1, ""),
        ('```json\n{"risk": "low"}\n```', 1, ""),
        ('{"risk": "none"}', 0, "$.risk: 'none' is not one of"),
        ("{}", 0, "$: 'risk' is a required property"),
        ('{"risk": "high"', 0, "not JSON: "),
        ('Here: {"risk": "high"}', 0, "not JSON: "),
        ('{"risk": NaN}', 0, "not JSON: NaN is no JSON"),
        ("[" * 200_000, 0, ""),
    ],
)
def test_json_schema(answer, score, reason):
    found = JSONSchema(inline=SCHEMA).score(example(""), answer)
    assert found.value == score and found.reason.startswith(reason)


def test_a_schema_in_a_file_is_an_input_of_the_run(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    reward = JSONSchema(file=str(file))
    assert reward.problems() == [] and list(reward.files()) == [file]
    assert reward.score(example(""), '{"risk": "low"}').value == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "needs a schema: either `file:` or `inline:`"),
        ({"file": "nowhere.json"}, "file: nowhere.json: No such file or directory"),
        ({"inline": {"type": "objekt"}}, "inline: not a JSON schema: $.type: 'objekt' is not valid"),
        (
            {"inline": {"$ref": "http://127.0.0.1:9/s.json"}},
            "inline: not a JSON schema: it refers to http://127.0.0.1:9",
        ),
    ],
)
def test_a_bad_schema_is_reported(options, problem):
    assert JSONSchema(**options).problems()[0].startswith(problem)


# --- code

TESTS = "assert add(1, 2) == 3\nassert add(2, 2) == 4\n"
GOOD = "def add(a, b):\n    return a + b\n"


def code_score(answer, tests=TESTS, **options):
    [score] = Code(**{"timeout": 2, **options}).scores([example(tests)], [answer])
    return score


@pytest.mark.parametrize(
    ("answer", "score", "reason"),
    [
        (GOOD, 1, ""),
        (f"First a try:\n```python\nadd = 1\n```\nBetter:\n```python\n{GOOD}```\nDone.", 1, ""),
        ("def add(a, b):\n    return 3\n", 0, "line 2 of the tests: AssertionError"),
        ("", 0, "line 1 of the tests: NameError"),
        ("def add(: x", 0, "the code failed: SyntaxError"),
        ("raise SystemExit(0)", 0, "the code failed: SystemExit"),
        ("1 / 0", 0, "the code failed: ZeroDivisionError"),
    ],
)
def test_code_is_tested(answer, score, reason):
    found = code_score(answer)
    assert found.value == score and found.reason.startswith(reason)


def test_a_part_of_the_tests():
    assert code_score("def add(a, b):\n    return 3\n", partial=True).value == 0.5
    assert code_score(GOOD, "def test():\n    assert add(1, 1) == 2\ntest()", partial=True).value == 1
    assert code_score(GOOD, "assert add(1, 1) == 2\nadd()", partial=True).value == 0, "a test that fails is no assert"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("while True:\n    pass", "took more than 2 seconds"),
        ("import time\ntime.sleep(60)", "took more than 2 seconds"),
        ("import signal\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n    pass", "took more than 2 seconds"),
        ("x = 'a' * 10**11", "the code failed: MemoryError"),
        ("def f(): f()\nf()", "the code failed: RecursionError"),
        ("import os\nos._exit(0)", "the process ended before the tests did"),
        ("import ctypes\nctypes.string_at(0)", "the process ended before the tests did"),
        ("import os\nopen('report.json', 'w').write('{\"held\": 2, \"of\": 2, \"reason\": \"\"}')\nos._exit(0)",
         "the process ended before the tests did"),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E()", "the code failed: E"),
    ],
)  # fmt: skip
def test_hostile_code_scores_0(answer, reason):
    began = time.monotonic()
    found = code_score(answer)
    assert found.value == 0 and found.reason.startswith(reason)
    assert time.monotonic() - began < 10


def test_output_and_files_are_limited(tmp_path):
    assert code_score(f"for _ in range(30):\n    print('y' * 10**7)\n{GOOD}", timeout=20).value == 1
    grown = "with open('big', 'wb') as f:\n    for _ in range(100):\n        f.write(b'a' * 10**6)\n"
    assert "the code failed: OSError" in code_score(grown).reason


def test_the_environment_is_not_the_users(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert code_score(f"import os\nassert 'OPENAI_API_KEY' not in os.environ\n{GOOD}").value == 1


def test_no_process_outlives_the_test(tmp_path):
    """Children in sessions of their own, which a signal to the group doesn't reach."""
    if not cuts_off_network():
        pytest.skip("this machine has no user namespaces")
    left = tmp_path / "alive"
    fork = (
        "import os, time\n"
        "for _ in range(10):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        time.sleep(3)\n"
        f"        open({str(left)!r}, 'w').write('x')\n"
        "        os._exit(0)\n"
    )
    assert code_score(fork + GOOD).value == 1
    time.sleep(3.5)
    assert not left.exists()


def test_there_is_no_network():
    if not cuts_off_network():
        pytest.skip("this machine has no user namespaces")
    connect = "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"
    assert "Network is unreachable" in code_score(connect).reason


@pytest.mark.parametrize(("reference", "what"), [("not python(", "is no Python code"), ("x = 1", "holds no `assert`")])
def test_a_reference_without_tests_is_reported(reference, what):
    with pytest.raises(DataError, match=what):
        Code().check([example(reference)])


# --- length


@pytest.mark.parametrize(
    ("options", "words", "score"),
    [
        ({"max_words": 10}, 10, 1), ({"max_words": 10}, 15, 0.5), ({"max_words": 10}, 40, 0),
        ({"min_words": 10}, 5, 0.5), ({"min_words": 10}, 0, 0), ({"min_words": 2, "max_words": 4}, 3, 1),
    ],
)  # fmt: skip
def test_length(options, words, score):
    assert Length(**options).score(example(""), "word " * words).value == pytest.approx(score)


def test_length_needs_a_bound():
    assert Length().problems() == ["has no bound; set max_words, min_words or both"]
    assert Length(max_words=0).problems() == ["max_words: must be at least 1"]
    assert Length(max_words=1, min_words=2).problems() == ["max_words: is smaller than min_words, 2"]


# --- functions

FUNCTIONS = """
import dataclasses

@dataclasses.dataclass
class Seen:
    n: int = 0

def trl(prompts, completions, answer, **kwargs):
    assert prompts[0] == [{"role": "user", "content": "question"}] and kwargs["id"] == ["rows.jsonl:1"] * 3
    return [None if not c[0]["content"] else float(c[0]["content"] == a) for c, a in zip(completions, answer)]

def verl(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": float(solution_str == ground_truth), "from": data_source}

async def verifiers(completion, answer, state):
    assert state["answer"] == answer
    return 1.0 if completion[-1]["content"] == answer else 0.0

def odd(x, y):
    return 0

def needs(completions, test_cases):
    return [0] * len(completions)

def fails(completions):
    return [0.0]
"""


@pytest.fixture
def functions(tmp_path):
    file = tmp_path / "my_rewards.py"
    file.write_text(FUNCTIONS)
    return str(file)


@pytest.mark.parametrize("name", ["trl", "verl", "verifiers"])
def test_functions_of_other_tools(functions, name):
    reward = Function(file=functions, name=name)
    assert reward.problems() == []
    scores = [score.value for score in reward.scores([example("7")] * 3, ["7", "8", ""])]
    assert scores[:2] == [1, 0]
    assert math.isnan(scores[2]) if name == "trl" else scores[2] == 0


def test_a_function_as_an_evaluator_has_a_paired_interval(functions, ftp_answers):
    rows = [(f"question {n}", str(n), "x", str(n if n else "wrong")) for n in range(20)]
    [metric] = Function(file=functions, name="verl").evaluate(ftp_answers(rows)).metrics
    assert (metric.base, metric.tuned, metric.difference.n) == (0, 0.95, 20)
    assert 0.5 < metric.difference.low < 0.95


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (None, "name: is missing; {file} has trl, verl, verifiers, needs, fails"),
        ("trll", "name: no function 'trll' in {file}; did you mean 'trl'?"),
        ("odd",
         "file: 'odd' hasn't an argument `completions` (TRL), `solution_str` (verl) or `completion` (verifiers)"),
        ("needs", "file: 'needs' needs `test_cases`, and what can be given is prompts, completions, answer, solution, "
         "ground_truth, target, reference, source, id"),
    ],
)  # fmt: skip
def test_a_bad_function_is_reported_without_running_the_file(functions, name, problem):
    Path(functions).write_text(FUNCTIONS + "raise SystemExit('it was run')\n")
    assert Function(file=functions, name=name).problems() == [problem.format(file=functions)]


def test_a_file_that_is_none_is_reported(tmp_path):
    assert Function(file="nowhere.py").problems() == ["file: nowhere.py: No such file or directory"]
    (tmp_path / "bad.py").write_text("def f(:")
    assert Function(file=str(tmp_path / "bad.py")).problems()[0].startswith("file: ")


def test_what_a_function_returns_is_checked(functions):
    with pytest.raises(TypeError, match=r"fails returned '\[0.0\]', not a list of 2 numbers"):
        Function(file=functions, name="fails").scores([example("")] * 2, ["a", "b"])


def test_a_file_that_python_cant_import_is_named(tmp_path):
    file = tmp_path / "rewards.txt"
    file.write_text(FUNCTIONS + "# a module of its own\n")
    with pytest.raises(PluginError, match=r"rewards\.txt: not a Python file: its name must end in \.py"):
        Function(file=str(file), name="trl").scores([example("")], ["a"])


def test_importing_a_file_needs_consent(ftp, ftp_recipe, ftp_tiny_model, functions):
    """Even that of one's own recipe: a recipe names no code to run by itself."""
    Path(functions).write_text(FUNCTIONS + "import pathlib\npathlib.Path('was-run').touch()\n")
    ftp_recipe(model={"id": str(ftp_tiny_model)}, evaluate=[{"use": "function", "file": functions, "name": "verl"}])
    outcome = ftp("run", "recipe.yaml")
    assert outcome.code == 2 and f"run the Python file {functions} (SHA-256 " in outcome.err
    assert "--trust allows that" in outcome.err and not Path("was-run").exists()
    assert ftp("check", "recipe.yaml").code == 0 and not Path("was-run").exists()


def test_they_keep_to_the_rules_of_evaluators(ftp_answers, functions):
    sums = ftp_answers([("2 + 2?", "4", "5", "4"), ("3 + 4?", "7", "", "7")])
    assert_component_ok(Math, sums)
    assert_component_ok(Function, sums, file=functions, name="verl")
    one, two = "def f(): return 1", "def f(): return 2"
    assert_component_ok(
        Code, ftp_answers([("One?", "assert f() == 1", two, one), ("Two?", "assert f() == 2", "", two)])
    )
