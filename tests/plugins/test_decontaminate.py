"""The curator `decontaminate`: copies of eval rows are found, other rows stay, and index files hold what texts do."""

import json
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_server import Say, prompt_of, serving
from pydantic import ValidationError

from ftp import plugins
from ftp.data.examples import Corpus, write_examples
from ftp.data.ledger import Ledger
from ftp.data.words import words
from ftp.errors import DataError
from ftp.slots import Slots
from ftp.testing import assert_component_ok
from ftp.types import Example, Message
from ftp_plugins.curators import ngram_index
from ftp_plugins.curators.decontaminate import Decontaminate
from ftp_plugins.curators.matching import Batch, Matcher
from ftp_plugins.curators.ngram_index import MIN_WORDS, Entry
from ftp_plugins.curators.paraphrases import Retriever, verdict
from ftp_plugins.engines.openai import OpenAI
from ftp_plugins.formatters.pairs import Alpaca, Instruct

DATA = Path(__file__).resolve().parents[3] / Path("shared/data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")

QUESTION = (
    "A baker sells 12 loaves in the morning and twice as many after noon; how many loaves does she sell in a day?"
)
ANSWER = "After noon she sells 24 loaves, and together with the 12 of the morning that makes 36 loaves a day."


def talk(*turns):
    roles = ("user", "assistant")
    return Example(tuple(Message(roles[at % 2], turn) for at, turn in enumerate(turns)))


def decontaminate(**options):
    """Make the curator from options as a recipe has them."""
    slots = Slots(plugins.load())
    return slots.rebuilt(Decontaminate, slots.model(Decontaminate).model_validate(options))


@pytest.fixture
def curate(tmp_path):
    """Curate a corpus; return the ids of the kept training rows, the corpus and the ledger."""

    def curate(train, evals=(), validation=(), **options):
        sets = evals if isinstance(evals, dict) else {"heldout": list(evals)}
        ledger = Ledger()

        def part(name, split, examples):
            rows = []
            for line, example in enumerate(examples, 1):
                id = ledger.add(name, line, split, "domain")
                rows.append(Example(example.messages, example.text, id, name, rejected=example.rejected))
            return write_examples(tmp_path / f"{name}.arrow", rows)

        corpus = Corpus(
            part("train", "train", train),
            part("watched", "validation", validation),
            {name: part(name, f"eval:{name}", examples) for name, examples in sets.items()},
        )
        after = decontaminate(**options).curate(corpus, ledger)
        assert list(after.evals) == list(sets)
        for split, rows in (("train", after.train), ("validation", after.validation)):
            assert {row.id for row in rows} == ledger.kept(split)
        return [row.id for row in after.train], after, ledger

    return curate


def filler(count, seed=0):
    """Rows that have nothing to do with each other."""
    rng = random.Random(seed)
    syllables = ["ba", "ko", "mi", "tu", "re", "sa", "lo", "ne", "fi", "gu"]

    def text(length):
        return " ".join("".join(rng.choices(syllables, k=4)) for _ in range(length))

    return [talk(text(20), text(15)) for _ in range(count)]


def edited(text, rng, vocabulary, share=0.1):
    """Another case, other punctuation, and one word in ten replaced."""
    found = text.split()
    for at in rng.sample(range(len(found)), max(1, round(share * len(found)))):
        found[at] = rng.choice(vocabulary)
    text = re.sub(r"[,.;:!?']", lambda mark: rng.choice(["", " ", mark[0]]), " ".join(found))
    return rng.choice([str.upper, str.lower, str.title])(text)


@pytest.mark.parametrize(
    "options", [{}, {"policy": "report"}, {"paraphrases": "ignore"}, {"judge": OpenAI(model="some-model")}]
)
def test_it_is_a_sound_component(options):
    assert_component_ok(Decontaminate, **options)


# What is a leak.


@pytest.mark.parametrize(
    "copy",
    [
        talk(QUESTION, ANSWER),
        talk(QUESTION, "36"),
        talk(QUESTION.upper().replace(",", " -- "), "36"),
        talk("Hello there, can you help me?", "Yes.", f"Here it is. {QUESTION} Thanks!", "36"),
        Example(text=f"Some exercises from a book. {QUESTION} The answer is found at the back."),
    ],
)
def test_a_copy_is_dropped_with_its_evidence(curate, copy):
    kept, _, ledger = curate([*filler(20), copy], [*filler(20, 1), talk(QUESTION, ANSWER)])
    assert kept == [f"train:{line}" for line in range(1, 21)]
    assert (ledger.row("train:21")["by"], ledger.row("train:21")["reason"]) == ("Decontaminate", "leak: heldout")
    (found,) = ledger.findings()
    assert (found["id"], found["what"], found["other"]) == ("train:21", "leak", "heldout:21")
    assert found["score"] > 0.9
    assert re.fullmatch(
        r'(prompt|reference): \d+ words in a row, "[^"]+"|the same prompt( and answer)?, "[^"]+"', found["detail"]
    )


@pytest.mark.parametrize(
    "row",
    [
        talk("Something else entirely, please.", ANSWER),
        Example(
            (Message("user", "Which is better?"), Message("assistant", "No.")), rejected=(Message("assistant", ANSWER),)
        ),
    ],
)
def test_an_answer_alone_is_a_class_of_its_own(curate, row):
    train, held = [*filler(20), row], [*filler(20, 1), talk(QUESTION, ANSWER)]
    kept, _, ledger = curate(train, held)
    assert kept == [f"train:{line}" for line in range(1, 21)]
    assert ledger.row("train:21")["reason"] == "same answer: heldout"
    kept, _, ledger = curate(train, held, same_answer="keep")
    assert len(kept) == 21
    (found,) = ledger.findings()
    assert (found["id"], found["what"], found["other"]) == ("train:21", "same answer", "heldout:21")
    with pytest.raises(DataError, match="train:21 ~ heldout:21"):
        curate(train, held, policy="fail")
    assert len(curate(train, held, policy="fail", same_answer="keep")[0]) == 21


def test_a_passage_of_an_answer_is_noted_and_drops_nothing(curate):
    long = " ".join(example.reference for example in filler(10, 5))
    train = [*filler(20), talk("Tell me something else.", " ".join(words(long)[50:80]) + ".")]
    kept, _, ledger = curate(train, [*filler(20, 1), talk(QUESTION, long)])
    assert len(kept) == 21
    (found,) = ledger.findings()
    assert (found["id"], found["what"], found["score"]) == ("train:21", "shared passage", 0.2)


def test_an_answer_that_many_rows_have_is_noted_and_drops_nothing(curate):
    """Such as a standard reply of a help desk, in training, validation and eval rows."""
    standard = "Thank you for your message; the department in charge will answer you within three working days."
    rows = [talk(example.prompt[0].content, standard) for example in filler(16)]
    kept, after, ledger = curate([*filler(20, 1), *rows[:8]], [*filler(20, 2), *rows[8:12]], rows[12:])
    assert len(kept) == 28 and len(after.validation) == 4
    assert {found["what"] for found in ledger.findings()} == {"common answer"}
    assert {found["id"] for found in ledger.findings()} == {
        *(f"train:{line}" for line in range(21, 29)),
        *(f"watched:{line}" for line in range(1, 5)),
    }
    assert 'an answer that many rows have, "thank you for' in ledger.findings()[0]["detail"]


# A question and the document that it is about.

DOCUMENT = " ".join(example.reference for example in filler(14, 7))
OTHER_QUESTION = "Who was the first person to build a bridge over the river, and which of the towns paid for the stone?"
CITED = f"Where does it say that {' '.join(words(DOCUMENT)[30:42])}?"


@pytest.mark.parametrize(
    "prompt",
    [
        "{question}\n\n{document}",
        "{document}\n\n{question}",
        "Context: {document}\nQuestion: {question}\nAnswer:",
        "{question}\n\n{first}\n\n{second}",
    ],
)
@pytest.mark.parametrize("rows", [1, 12])
def test_rows_that_share_a_document_with_an_eval_row(curate, prompt, rows):
    def ask(question, document=DOCUMENT):
        found = document.split()
        return prompt.format(
            question=question, document=document, first=" ".join(found[:100]), second=" ".join(found[100:])
        )

    held = [talk(ask(QUESTION), ANSWER), *(talk(ask(e.prompt[0].content), "No.") for e in filler(rows - 1, 9))]
    held += filler(5 * rows, 10)
    rng, vocabulary = random.Random(0), ["alpha", "beta", "gamma", "delta"]
    train = [
        *filler(20),
        talk(QUESTION, "I don't know."),
        talk(ask(QUESTION), "I don't know."),
        talk(edited(ask(QUESTION), rng, vocabulary), edited(ANSWER, rng, vocabulary)),
        talk(ask(OTHER_QUESTION), "Nobody knows."),
        talk(ask(QUESTION, " ".join(e.reference for e in filler(14, 8))), "Nothing is said of it."),
        talk("Give me a summary.\n\n" + DOCUMENT, "It is about nothing."),
    ]
    kept, _, ledger = curate(train, held)
    assert kept == [f"train:{line}" for line in (*range(1, 21), 24, 26)]
    found = {(found["id"], found["what"]) for found in ledger.findings()}
    assert found >= {("train:24", "same document"), ("train:26", "same document")}
    kept, _, ledger = curate(train, held, same_document="drop")
    assert kept == [f"train:{line}" for line in range(1, 21)]
    assert ledger.row("train:24")["reason"] == "same document: heldout"


def test_a_question_that_quotes_its_document_is_not_found_in_that_document(curate):
    held = [talk(f"{CITED}\n\n{DOCUMENT}", " ".join(words(DOCUMENT)[60:75]))]
    train = [*filler(5), talk(f"{OTHER_QUESTION}\n\n{DOCUMENT}", "Nobody knows."), talk(CITED, "There.")]
    kept, _, ledger = curate(train, held)
    assert {found["id"]: found["what"] for found in ledger.findings()} == {
        "train:6": "same document",
        "train:7": "leak",
    }
    assert len(kept) == 6


def test_the_evidence_quotes_the_words_of_the_training_row(curate):
    copy = QUESTION.replace("loaves in the morning", "rolls in the morning")
    _, _, ledger = curate([*filler(3), talk(copy, "36")], [talk(QUESTION, ANSWER)])
    (found,) = ledger.findings()
    shared = "in the morning and twice as many after noon how many loaves does she sell in a day"
    assert found["detail"] == f'prompt: 18 words in a row, "{shared}"'
    assert found["score"] == pytest.approx(22 / 23, abs=0.001)


def test_a_long_text_copied_in_part_is_a_leak(curate):
    long = " ".join(example.reference for example in filler(40, 5))
    part = " ".join(words(long)[100:119])
    more = " ".join(words(long)[100:120])
    kept, _, ledger = curate([talk("Say it.", part), talk("Say it.", more)], [talk(f"Shorten this: {long}", "Short.")])
    assert kept == ["train:1"]
    (found,) = ledger.findings()
    assert found["score"] < 0.1
    assert found["detail"].startswith("prompt: 20 words in a row")


@pytest.mark.parametrize(
    ("train", "held", "leak"),
    [
        (("What is asthma?", "A disease."), ("What is asthma?", "Something of the lungs."), True),
        (("what is  ASTHMA", "A disease."), ("What is asthma?", "Something of the lungs."), True),
        (("Hi", "Hello", "What is asthma?", "A disease."), ("What is asthma?", "Of the lungs."), True),
        (("What is angina?", "A disease."), ("What is asthma?", "A disease."), False),
        (("How many are 3 and 4?", "7"), ("What is the seventh number?", "7"), False),
        (("Is it raining today?", "Yes"), ("Is a whale a fish?", "Yes"), False),
        (("Hello!", "Hi, how can I help?"), ("Hello!", "Good morning."), False),
        (("Hello!", "Good morning."), ("Hello!", "Good morning."), True),
        (("Is it asthma?", "No, I was wrong."), ("Was it asthma?", "No, I was wrong."), False),
    ],
)
def test_short_rows_are_compared_as_a_whole(curate, train, held, leak):
    kept, _, ledger = curate([talk(*train)], [talk(*held)])
    assert kept == ([] if leak else ["train:1"])
    assert [found["score"] for found in ledger.findings()] == ([1.0] if leak else [])


@pytest.mark.parametrize("kind", ["user", "system"])
@pytest.mark.parametrize("held_rows", [1, 3, 40])
def test_an_instruction_that_all_rows_have_is_no_leak(curate, kind, held_rows):
    """Whether the eval set is large enough to show that it is one or not."""
    instruction = (
        "You are a careful tutor: think step by step, write one line for each step, and end with the result only."
    )

    def row(example):
        turns = (Message(kind, instruction), *example.messages)
        return Example(turns)

    train, held = [row(example) for example in filler(60)], [row(example) for example in filler(held_rows, 1)]
    kept, _, _ = curate([*train, held[0]], held)
    assert kept == [f"train:{line}" for line in range(1, 61)]


def test_a_prompt_that_all_rows_have_is_a_leak_only_with_its_answer(curate):
    ask = "Write a short and friendly poem about any animal that you like."
    answers = [example.reference for example in filler(40)]
    train = [talk(ask, answer) for answer in answers[:20]]
    kept, _, _ = curate([*train, talk(ask, answers[20])], [talk(ask, answer) for answer in answers[20:]])
    assert kept == [f"train:{line}" for line in range(1, 21)]


def test_text_rows(curate):
    texts = [Example(text=example.reference) for example in filler(30)]
    kept, _, ledger = curate(
        [*texts[:20], Example(text="= History ="), texts[25]], [*texts[20:], Example(text="= Name =")]
    )
    assert kept == [f"train:{line}" for line in range(1, 22)]
    assert ledger.row("train:22")["reason"] == "leak: heldout"


def test_every_pair_is_kept_and_the_first_set_gives_the_reason(curate):
    copy = talk(QUESTION, ANSWER)
    kept, _, ledger = curate(
        [copy, *filler(2), copy], {"one": [copy, *filler(3, 1)], "two": [copy, copy, *filler(3, 2)]}
    )
    assert kept == ["train:2", "train:3"]
    pairs = [(found["id"], found["other"]) for found in ledger.findings()]
    assert sorted(pairs) == [(f"train:{row}", other) for row in (1, 4) for other in ("one:1", "two:1", "two:2")]
    assert {ledger.row(f"train:{row}")["reason"] for row in (1, 4)} == {"leak: one"}


def test_validation_rows(curate):
    """A validation row that is an eval row goes, and then a training row that is only that validation row stays."""
    both, watched, *rest = filler(12)
    kept, after, ledger = curate([watched, *rest], [both], [both, watched])
    assert [row.id for row in after.validation] == ["watched:2"]
    assert ledger.row("watched:1")["reason"] == "leak: heldout"
    assert kept == [f"train:{line}" for line in range(2, 12)]
    assert ledger.row("train:1")["reason"] == "leak: validation"


def test_more_rows_than_a_batch(curate):
    rows = filler(2300)
    held = filler(3, 1)
    rows[1500], rows[2299] = held[0], held[2]
    kept, _, ledger = curate(rows, held)
    assert len(kept) == 2298
    assert [(found["id"], found["other"]) for found in ledger.findings()] == [
        ("train:1501", "heldout:1"),
        ("train:2300", "heldout:3"),
    ]


# Policies.


def test_report_only_notes(curate):
    kept, after, ledger = curate(
        [talk(QUESTION, ANSWER)], [talk(QUESTION, ANSWER)], [talk(QUESTION, "36")], policy="report"
    )
    assert kept == ["train:1"]
    assert len(after.validation) == 1
    assert [(found["id"], found["other"], found["what"]) for found in ledger.findings()] == [
        ("watched:1", "heldout:1", "leak"),
        ("train:1", "heldout:1", "leak"),
        ("train:1", "watched:1", "leak"),
    ]


def test_fail_names_the_rows(curate):
    with pytest.raises(DataError) as caught:
        curate([*filler(2), *[talk(QUESTION, ANSWER)] * 30], [talk(QUESTION, ANSWER)], policy="fail")
    problems = caught.value.problems
    assert problems[0] == "Decontaminate: 30 rows are also in the eval sets"
    assert problems[1].startswith("train:3 ~ heldout:1 (heldout): 100%, ")
    assert problems[21] == "… and 10 more"
    assert "policy: drop" in problems[22]
    assert len(problems) == 23


def test_fail_without_a_leak(curate):
    assert len(curate(filler(5), filler(5, 1), policy="fail")[0]) == 5


@pytest.mark.parametrize(
    "options",
    [
        *({"coverage": 0}, {"coverage": 1.1}, {"run": 7}, {"policy": "ignore"}, {"against": [""]}),
        *({"paraphrases": "ignore", "judge": {"model": "m"}}, {"judge": {}}, {"judge": {"model": "m", "key": "sk-1"}}),
    ],
)
def test_options_that_make_no_sense(options):
    with pytest.raises(ValidationError):
        decontaminate(**options)


# Files and indexes.


def write_rows(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


ROWS = [
    {"id": 7, "q": QUESTION, "options": ["36", "24"], "label": "36"},
    {"messages": [{"role": "user", "content": "What is asthma?"}, {"role": "assistant", "content": "A disease."}]},
]


def test_against_a_data_file_of_any_shape(curate, tmp_path):
    file = write_rows(tmp_path / "exam.jsonl", *ROWS)
    train = [*filler(3), talk(QUESTION, "36"), talk("What is asthma?", "36"), talk("How many is that?", "36")]
    for against in (file, str(tmp_path / "*.jsonl")):
        kept, _, ledger = curate(train, against=[against])
        assert kept == ["train:1", "train:2", "train:3", "train:6"]
        assert [(found["id"], found["other"]) for found in ledger.findings()] == [
            ("train:4", f"{file}:1"),
            ("train:5", f"{file}:2"),
        ]
        assert ledger.row("train:4")["reason"] == "leak: exam.jsonl"


def test_an_index_file_finds_what_its_data_file_does(curate, tmp_path):
    file = write_rows(tmp_path / "exam.jsonl", *ROWS, *({"q": example.reference} for example in filler(50)))
    train = [*filler(40, 3), talk(QUESTION, "36"), talk("What is asthma?", "36"), *filler(30)]
    found = {}
    ngram_index.index_files([file], tmp_path / "exam.ftpindex")
    for against in (file, str(tmp_path / "exam.ftpindex")):
        kept, _, ledger = curate(train, against=[against])
        findings = [(f["id"], f["other"].rpartition("/")[2], f["score"], f["detail"]) for f in ledger.findings()]
        found[against] = kept, findings
    first, second = found.values()
    assert first == second
    assert len(first[1]) == 32
    assert first[1][0][1] == "exam.jsonl:1"


def test_an_index_file_holds_no_text(tmp_path):
    secret = "Xylophonist"
    file = write_rows(tmp_path / "exam.jsonl", {"q": f"{secret} {QUESTION}"}, {"q": secret})
    index = ngram_index.index_files([file], tmp_path / "exam.ftpindex")
    with np.load(tmp_path / "exam.ftpindex", allow_pickle=False) as archive:
        raw = b"".join(archive[name].tobytes() for name in archive.files)
    assert b"exam.jsonl" in raw
    assert str(tmp_path).encode() not in raw
    assert secret.lower().encode() not in raw.lower()
    again = ngram_index.read(tmp_path / "exam.ftpindex")
    assert (again.name, len(again), again.id(1)) == (index.name, 2, "exam.jsonl:2") == ("exam", 2, "exam.jsonl:2")
    assert not list(tmp_path.glob("*.part"))


def test_an_index_in_an_installed_package(curate, tmp_path, monkeypatch):
    package = tmp_path / "site" / "acme_exams"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    ngram_index.index_files([write_rows(tmp_path / "exam.jsonl", *ROWS)], package / "exam.ftpindex")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    kept, _, ledger = curate([*filler(3), talk(QUESTION, "36")], against=["package:acme_exams/exam.ftpindex"])
    assert kept == ["train:1", "train:2", "train:3"]
    assert ledger.findings()[0]["other"] == "exam.jsonl:1"
    assert "acme_exams" not in sys.modules


def _spoil(**arrays):
    def spoil(file):
        with np.load(file) as archive:
            good = dict(archive)
        with file.open("wb") as stream:
            np.savez(stream, **{**good, **arrays})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda file: file.write_bytes(b""), "not a readable index file"),
        (lambda file: file.write_bytes(b"not a zip"), "not a readable index file"),
        (lambda file: file.write_bytes(file.read_bytes()[:400]), "not a readable index file"),
        (lambda file: file.write_bytes(b"\x93NUMPY" + bytes(50)), "not a readable index file"),
        (lambda file: file.write_bytes(b"\x80\x04K\x01."), "not a readable index file"),
        (_spoil(grams=np.zeros(3, np.uint64)), "don't fit each other"),
        (_spoil(grams=np.zeros(3)), "'grams' is not a list of uint64"),
        (_spoil(field_row=np.array([99], np.int32)), "points outside itself"),
        (_spoil(questions=np.array([{}], object)), "not a readable index file"),
        (_spoil(header=np.frombuffer(b'{"format": 9, "n": 4}', np.uint8)), "an index of format 9 with 4-grams"),
        (_spoil(header=np.frombuffer(b"[]", np.uint8)), "not a readable index file"),
        (lambda file: file.unlink(), "no such index file"),
    ],
)
def test_a_bad_index_file_is_named(tmp_path, spoil, what):
    file = tmp_path / "exam.ftpindex"
    ngram_index.index_files([write_rows(tmp_path / "exam.jsonl", {"q": QUESTION})], file)
    spoil(file)
    with pytest.raises(DataError) as caught:
        ngram_index.read(file)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{file}: ")
    assert what in problem


def test_files_that_can_not_be_indexed(tmp_path):
    file = write_rows(tmp_path / "exam.jsonl", {"q": QUESTION})
    (tmp_path / "other").mkdir()
    twin = write_rows(tmp_path / "other" / "exam.jsonl", {"q": QUESTION})
    (tmp_path / "broken.jsonl").write_text('{"q": "fine"}\n{oops\n')
    for paths, out, what in (
        ([file], "exam.npz", "an index file is called exam.ftpindex"),
        ([file, twin], "exam.ftpindex", "another file has the same name"),
        ([str(tmp_path / "broken.jsonl")], "exam.ftpindex", "broken.jsonl:2: broken JSON"),
        ([str(tmp_path / "missing.jsonl")], "exam.ftpindex", "no such file"),
    ):
        with pytest.raises(DataError, match=re.escape(what)):
            ngram_index.index_files(paths, tmp_path / out)
    assert not list(tmp_path.glob("*.ftpindex*"))


@pytest.mark.parametrize(
    ("against", "what"),
    [
        ("missing.jsonl", "no such file"),
        ("missing.ftpindex", "no such index file"),
        ("package:no_such_package/a.ftpindex", "the package 'no_such_package' is not installed"),
        ("package:ftp/missing.ftpindex", "no such index file"),
    ],
)
def test_what_is_not_there_is_a_problem_before_the_run(tmp_path, against, what):
    curator = Decontaminate.model_validate({"against": [against]}, context={"directory": tmp_path})
    (problem,) = curator.problems()
    assert problem.startswith("against: ")
    assert what in problem


# Coverage and runs, against the definition.

short_words = st.lists(st.sampled_from("abcdefg"), max_size=40)


@settings(max_examples=200, deadline=None)
@given(held=st.lists(short_words, min_size=1, max_size=4), rows=st.lists(short_words, min_size=1, max_size=4))
def test_coverage_and_run_are_what_they_are_said_to_be(held, rows):
    import pyarrow as pa

    from ftp.data.examples import encode_batch, schema

    index = ngram_index.build("set", (Entry(f"s:{n}", [("text", " ".join(h))]) for n, h in enumerate(held)))
    examples = [Example(text=" ".join(row), id=f"t:{n}") for n, row in enumerate(rows)]
    batch = Batch(pa.Table.from_batches([encode_batch(examples)], schema()).select(list(Batch.COLUMNS)))
    usual = [" ".join("abcd"), " ".join("aaaa")]
    hashed = ngram_index.build("usual", [Entry("u:1", [("text", "a b c d a a a a")])]).grams[[0, 4]]
    found = {
        (m.row, m.other): m for m in Matcher(index, np.isin(index.grams, hashed), []).matches(batch, 0.5, MIN_WORDS)
    }

    n = ngram_index.N
    for r, row in enumerate(rows):
        mine = {" ".join(row[at : at + n]) for at in range(len(row) - n + 1)}
        for h, text in enumerate(held):
            grams = [" ".join(text[at : at + n]) for at in range(len(text) - n + 1)]
            boilerplate = {at + k for at, gram in enumerate(grams) if gram in usual for k in range(n)}
            counting = set(range(len(text))) - boilerplate
            hits = [at for at, gram in enumerate(grams) if gram in mine and gram not in usual]
            covered = {at + k for at in hits for k in range(n)} & counting
            runs, last = [set()], None
            for at in hits:
                if last is not None and at != last + 1:
                    runs.append(set())
                runs[-1] |= {at + k for k in range(n)} & counting
                last = at
            longest = max(map(len, runs))
            if len(counting) < MIN_WORDS or longest < MIN_WORDS:
                assert (r, h) not in found
            else:
                match = found[r, h]
                assert match.coverage == pytest.approx(len(covered) / len(counting))
                assert match.run == longest


# Paraphrases.


def test_questions_of_one_template_are_no_paraphrases(curate):
    form = "How likely is it that a grown person who has been ill with {} will pass it on to the children of the house?"
    names = [" ".join(example.reference.split()[:2]) for example in filler(60)]
    train = [talk(form.format(name), "Rarely.") for name in names[:40]]
    assert curate(train, [talk(form.format(name), "Often.") for name in names[40:]])[2].findings() == []


REWORDED = (
    "She sells 12 loaves each morning, a baker, and after noon twice that many loaves. How many loaves sold in a day?"
)
SIBLING = (
    "A baker sells 90 cakes in the week and half of that many on sundays; how much money does she make in a month?"
)


def test_paraphrases_are_reported_or_dropped(curate):
    train, held = [*filler(20), talk(REWORDED, "36"), talk(SIBLING, "9")], [talk(QUESTION, ANSWER), *filler(20, 1)]
    assert len(curate(train, held, paraphrases="ignore")[2].findings()) == 0
    kept, _, ledger = curate(train, held)
    assert len(kept) == 22
    (found,) = ledger.findings()
    assert (found["id"], found["what"], found["other"]) == ("train:21", "paraphrase", "heldout:1")
    assert 0.61 <= found["score"] < 1
    assert found["detail"].startswith('"She sells 12 loaves each morning, a baker, and after noon twice …" ~ "A baker')
    kept, _, ledger = curate(train, held, paraphrases="drop")
    assert kept == [f"train:{line}" for line in (*range(1, 21), 22)]
    assert ledger.row("train:21")["reason"] == "paraphrase: heldout"


def test_a_leak_is_not_noted_as_a_paraphrase_too(curate):
    _, _, ledger = curate([*filler(20), talk(QUESTION, "36")], [talk(QUESTION, ANSWER)], policy="report")
    assert [found["what"] for found in ledger.findings()] == ["leak"]


def test_an_instruction_that_all_rows_have_makes_no_paraphrases(curate):
    instruction = (
        "You are a careful tutor: think step by step, write one line for each of 3 steps, and end with the result."
    )
    train = [talk(f"{instruction} {example.prompt[0].content}", "Yes.") for example in filler(40)]
    for count in (1, 20):
        held = [talk(f"{instruction} {example.prompt[0].content}", "No.") for example in filler(count, 1)]
        assert curate(train, held)[2].findings() == []


def test_similarity_is_at_most_one_and_an_empty_text_has_none():
    prompts = ["", QUESTION, REWORDED]
    rows, others, scores = Retriever(prompts, []).similar([QUESTION.upper(), "", SIBLING], 0.01)
    found = dict(zip(zip(rows.tolist(), others.tolist(), strict=True), scores.tolist(), strict=True))
    assert found[0, 1] == pytest.approx(1)
    assert not any(row == 1 or other == 0 for row, other in found)


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("Yes", True),
        ("no.", False),
        ("Yes? The numbers differ, so: **No**", False),
        ("It is not a no, I say yes", True),
        ("", None),
        ("I can't tell; nobody knows yesterday's eyes", None),
    ],
)
def test_the_last_yes_or_no_counts(answer, same):
    assert verdict(answer) is same


@pytest.fixture
def server(monkeypatch):
    """A judge that answers with what `answers` says about the second question."""
    answers = {}

    def say(request):
        text = next((text for key, text in answers.items() if key in prompt_of(request)), "no")
        return Say(status=500, message="out of order") if text == "broken" else Say(text)

    monkeypatch.setenv("HOUSE_KEY", "sk-house")
    with serving(say) as listening:
        yield {"model": "m", "base_url": listening.url, "api_key_env": "HOUSE_KEY"}, answers, listening


OTHER = (
    "In the morning a baker sells 12 of the loaves. After noon she sells twice as many cakes. How many cakes in a day?"
)


@pytest.mark.parametrize(("policy", "left"), [("drop", ["train:1", "train:2", "train:4"]), ("report", None)])
def test_the_judge_decides(curate, server, policy, left):
    judge, answers, listening = server
    answers.update({REWORDED: "They are. Yes.", OTHER: "No"})
    train = [*filler(2), talk(REWORDED, "36"), talk(OTHER, "36")]
    kept, _, ledger = curate(train, [talk(QUESTION, ANSWER)], judge=judge, policy=policy)
    assert kept == (left or ["train:1", "train:2", "train:3", "train:4"])
    found = {found["id"]: (found["what"], found["detail"].split(";")[0]) for found in ledger.findings()}
    assert found == {"train:3": ("paraphrase", "judge: yes"), "train:4": ("paraphrase denied", "judge: no")}
    assert len(listening.asked) == 2
    assert (listening.headers[0]["Authorization"], listening.asked[0]["model"]) == ("Bearer sk-house", "m")
    assert all(QUESTION in prompt_of(request) for request in listening.asked)


def test_the_judge_is_an_engine_and_the_spelling_of_0_1_means_the_same(server):
    judge, _, _ = server
    old = decontaminate(judge={**judge, "threshold": 0.5, "calls": 7})
    new = decontaminate(
        judge={"use": "openai", "timeout": 60, "max_retries": 3, **judge}, judge_threshold=0.5, judge_calls=7
    )
    assert old == new and type(old.judge) is OpenAI and old.judge.used_as == "openai"
    (problem,) = decontaminate(judge={"use": "transformers"}).problems()
    assert "no model of its own" in problem


def test_the_judge_under_policy_fail(curate, server):
    judge, answers, _ = server
    answers[REWORDED] = "yes"
    with pytest.raises(
        DataError, match=r"(?s)1 row is also in the eval sets.*train:3 ~ heldout:1 \(heldout\): reworded"
    ):
        curate([*filler(2), talk(REWORDED, "36")], [talk(QUESTION, ANSWER)], judge=judge, policy="fail")


def test_unreadable_answers_and_calls_that_were_not_made_confirm_nothing(curate, server):
    judge, answers, listening = server
    answers[QUESTION] = "Perhaps!"
    train = [*filler(2), talk(REWORDED, "36"), talk(OTHER, "36")]
    kept, _, ledger = curate(train, [talk(QUESTION, ANSWER)], judge={**judge, "calls": 1}, paraphrases="drop")
    assert len(kept) == 4
    assert {found["what"] for found in ledger.findings()} == {"paraphrase unconfirmed"}
    details = [found["detail"].split(";")[0] for found in ledger.findings()]
    assert details == ["judge: neither yes nor no, 'Perhaps!'", "judge: not asked after 1 calls"]
    assert len(listening.asked) == 1


def test_a_judge_that_can_not_be_asked_stops_the_run(curate, server, monkeypatch):
    judge, answers, _ = server
    answers[QUESTION] = "broken"
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    rows = [*filler(2), talk(REWORDED, "36")], [talk(QUESTION, ANSWER)]
    with pytest.raises(DataError, match=r"judge: 'openai' can't be asked: .*out of order"):
        curate(*rows, judge=judge)
    monkeypatch.delenv("HOUSE_KEY")
    away = {"model": "m", "base_url": "https://judge.example/v1", "api_key_env": "HOUSE_KEY"}
    with pytest.raises(DataError, match="environment variable HOUSE_KEY"):
        curate(*rows, judge=away)
    assert decontaminate(judge=judge).problems() == []
    (problem,) = decontaminate(judge=away).problems()
    assert problem.startswith("judge: $HOUSE_KEY is not set")


# Real data.


def gsm8k(name):
    with (DATA / "gsm8k" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [(row["question"], row["answer"]) for row in map(json.loads, lines)]


@needs_data
def test_gsm8k(curate):
    train, test = gsm8k("train"), gsm8k("test")
    held = [talk(*pair) for pair in test]
    vocabulary = [word for question, _ in train for word in question.split()]
    rng = random.Random(0)

    def leaked(planted):
        rows = [talk(*pair) for pair in [*planted, *train]]
        ledger = curate(rows, held, policy="report", paraphrases="ignore")[2]
        if not planted:
            return len({found["other"] for found in ledger.findings()})
        return len({f["id"] for f in ledger.findings() if f["id"].rpartition(":")[2] == f["other"].rpartition(":")[2]})

    assert leaked([]) <= 0.005 * len(test)
    assert leaked(test) == len(test) == 1319
    assert leaked([tuple(edited(text, rng, vocabulary) for text in pair) for pair in test]) >= 0.99 * len(test)


@pytest.mark.slow
@needs_data
def test_gsm8k_reworded(curate):
    with (DATA / "contamination" / "rephrased_gsm8k_test.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    reworded = [re.fullmatch(r"Question: (.*)\nAnswer:\s*(.*)", text, re.DOTALL).groups() for text in texts]
    train, held = [talk(*pair) for pair in gsm8k("train")], [talk(*pair) for pair in gsm8k("test")]
    findings = curate(train, held, policy="report")[2].findings()
    assert len({found["other"] for found in findings}) <= 0.01 * len(held)
    findings = curate([talk(question or "-", answer) for question, answer in reworded] + train, held, policy="report")[
        2
    ].findings()
    own = {f["id"] for f in findings if f["id"].rpartition(":")[2] == f["other"].rpartition(":")[2]}
    assert len(own) >= 0.75 * len(held)


def test_the_quickstart_loses_no_row(curate):
    import ftp.templates

    folder = Path(ftp.templates.__path__[0]) / "contracts"

    def rows(name, formatter):
        lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        return [formatter.format(json.loads(line)) for line in lines]

    train = [*rows("train", Instruct()), *rows("replay", Alpaca())]
    kept, _, ledger = curate(train, rows("heldout", Instruct()))
    assert len(kept) == len(train)
    assert ledger.findings() == []
