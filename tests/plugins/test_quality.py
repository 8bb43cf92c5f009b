"""The curator `quality`: bad rows go, each with its reason; good rows stay; personal data are masked."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ftp.data.examples import Corpus, write_examples
from ftp.data.ledger import Ledger
from ftp.errors import DataError
from ftp.types import Example, Message
from ftp_plugins.curators import quality
from ftp_plugins.curators.pii import KINDS, mask
from ftp_plugins.curators.quality import Quality
from ftp_plugins.curators.rules import boilerplate, broken_encoding, gopher, loop, open_fence, refusal

DATA = Path(__file__).resolve().parents[3] / Path("shared/data")


def chat(*contents, **fields):
    roles = ("user", "assistant")
    return Example(tuple(Message(roles[at % 2], content) for at, content in enumerate(contents)), **fields)


@pytest.fixture
def curate(tmp_path):
    """Curate rows to train on and rows to watch; return both as lists and the ledger."""

    def curate(train, validation=(), count_tokens=None, **options):
        ledger = Ledger()
        parts = []
        for name, rows in (("train", train), ("validation", validation)):
            ids = [ledger.add(name, line, name, row.role) for line, row in enumerate(rows, 1)]
            rows = [
                Example(**{**{f: getattr(row, f) for f in row.__slots__}, "id": id, "source": name})
                for id, row in zip(ids, rows, strict=True)
            ]
            parts.append(write_examples(tmp_path / f"{name}.arrow", rows))
        found = Quality(**options).curate(Corpus(*parts, {}, count_tokens), ledger)
        kept = ledger.kept("train")
        assert found.train.column("id") == [id for id in parts[0].column("id") if id in kept]
        assert ledger.count_kept("validation") == len(found.validation)
        assert sum(total["rows"] for total in ledger.totals()) == len(train) + len(validation)
        return list(found.train), list(found.validation), ledger

    return curate


def reasons(ledger, fate="dropped"):
    found = Counter()
    for total in ledger.totals():
        if total["fate"] == fate:
            found[total["reason"]] += total["rows"]
    return dict(found)


# --- the rules -------------------------------------------------------------------------------------------------------

REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I\u2019m sorry, but I cannot help you with that request.",
    "Sorry, I can't help with that.",
    "I cannot assist with creating such a tool.",
    "Unfortunately, I am unable to fulfill your request.",
    "I apologize, but I cannot generate content that is harmful or illegal.",
    "I can't help.",
    "As an AI language model, I don't have feelings.",
    "Paris is lovely. However, as an AI, I have never been there.",
    "As a large language model trained by OpenAI, I must be neutral. As an AI assistant, my role is to help.",
    "As an AI language model, it is not appropriate for me to say so.",
    "I am just an AI language model and know no more.",
    "As of my last knowledge update in September 2021, the king was a queen.",
    "My knowledge cutoff is 2021.",
    "I do not have personal opinions or beliefs.",
]
NO_REFUSALS = [
    "I'm sorry to hear that your parcel is late. I can help you with that.",
    "Unfortunately, I cannot find an order with this number; could you check it?",
    "I'm sorry, but we can't refund tickets after the show.",
    "You cannot help with that unless you are a member.",
    "GPT-3 is known as a large language model. BERT works as a language model too.",
    "The film shows an artificial intelligence that refuses to obey.",
    "No.",
    "We provide the data as an AI training set.",
    "The board can't comply with this law.",
    "As an airline, I would refund it.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_one(answer):
    assert refusal(answer)


@pytest.mark.parametrize("answer", NO_REFUSALS)
def test_an_answer_that_only_sounds_like_a_refusal(answer):
    assert refusal(answer) == ""


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        ("Sure! Here is the list:", True),
        ("Certainly! Here's a poem about the sea:\n", True),
        ("Here are the steps:", True),
        ("<nooutput>", True),
        ("<no output />", True),
        ("[deleted]", True),
        ("The answer is 4.\n\nRegenerate response", True),
        ("Sure! Here is the list:\n- one\n- two", False),
        ("Sure!", False),
        ("Of course.", False),
        ("Here is the house where I was born.", False),
        ("n/a", False),
        ("nan", False),
        ("deleted", False),
    ],
)
def test_boilerplate(answer, is_one):
    assert bool(boilerplate(answer)) is is_one


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        ("sch\u00c3\u00b6n", True),
        ("It\u00e2\u20ac\u2122s late", True),
        ("caf\ufffd", True),
        (
            "sch\u00f6n, \u00e0 bient\u00f4t, \u00bfqu\u00e9?, N\u00ba 5, \u00a35, 20 \u00b0C, \u00ab\u0153uvre\u00bb",
            False,
        ),
        ("\u4f60\u597d\uff0c\u4e16\u754c \u2014 \u041f\u0440\u0438\u0432\u0435\u0442 \u2013 \u0645\u0631\u062d", False),
        ("5 \u00d7 3 \u2264 16, \u221a2 \u2248 1.41, \u03b1 \u2192 \u03b2 \u2026", False),
        ("\u00bbZeitstempel\u00ab und \u00bb\u00dcber alles\u00ab, [a\u00e1\u00c1], \u201e\u20ac\u201c", False),
        ("\u4f60\u597d, sch\u00c3\u00b6n", True),
        ("d\u00c3\u00a9j\u00c3\u00a0 vu", True),
        ("plain", False),
    ],
)
def test_broken_encoding(text, is_broken):
    assert bool(broken_encoding(text)) is is_broken


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("```python\nx = 1\n", True),
        ("one\n```\na\n```\ntwo\n```\nb", True),
        ("  ```\n  indented, never closed", True),
        ("```python\nx = 1\n```", False),
        ("````md\n```\ninside\n```\n````", False),
        ("```python\nx = 1```", False),  # sloppy, but not cut off
        ("A fence is written as ``` in Markdown.", False),
        ("> ```\n> quoted\n> ```", False),
        ("no code", False),
    ],
)
def test_code_fences(text, is_open):
    assert bool(open_fence(text)) is is_open


PROSE = (
    "Glaucoma is a group of diseases that damage the optic nerve and can lead to loss of sight. It has hardly any "
    "symptom at first, which is why regular examinations matter, above all for people over sixty years of age. Drops, "
    "lasers and surgery lower the pressure inside the eye, and each of them has its own risks and side effects."
)
CODE = "if a:\n    go(1)\n}\n" + "".join(f"else {{\n    call_{n}({n}, other)\n}}\n" for n in range(20))


@pytest.mark.parametrize(
    ("text", "loops", "breaks"),
    [
        (PROSE, False, False),
        (f"{PROSE}\n{PROSE}", True, True),
        ("I don't know. " * 10, True, False),
        ("the cat and " * 40, True, True),
        ("\u6211\u4e0d\u77e5\u9053\u3002" * 40, True, True),
        (f"{PROSE}\n" + "Call us any time today.\n" * 5, False, True),
        (CODE, False, True),
        ("yes yes yes", False, False),
        ("", False, False),
        ("?!", False, False),
    ],
)
def test_repetition(text, loops, breaks):
    assert bool(loop(text)) is loops
    assert bool(gopher(text)) is breaks


@given(st.text(alphabet="ab \n.", max_size=400))
def test_repetition_takes_any_text(text):
    for found in (loop(text), gopher(text)):
        assert all(0 <= int(share.rstrip("%")) <= 100 for share in found.split() if share.endswith("%"))


# --- the curator -----------------------------------------------------------------------------------------------------

GOOD = chat("What is glaucoma?", PROSE)
BAD = {
    "refusal or talk of being an AI": ("refusals", chat("Q?", REFUSALS[0])),
    "boilerplate": ("boilerplate", chat("Q?", "Sure! Here is the list:")),
    "answer equals question": ("echoes", chat("Is Williams syndrome inherited ?", "Is Williams  syndrome inherited?")),
    "answer repeats itself": ("repeats", chat("Q?", "I don't know. " * 20)),
    "broken encoding": ("broken_encoding", chat("sch\u00c3\u00b6n?", "Yes.")),
    "unclosed code fence": ("code_fences", chat("Q?", "```python\nx = 1")),
}


@pytest.mark.parametrize(("reason", "option", "row"), [(reason, *case) for reason, case in BAD.items()])
@pytest.mark.parametrize("role", ["domain", "replay"])
def test_each_rule_drops_its_row_and_can_be_turned_off(curate, reason, option, row, role):
    row = Example(row.messages, role=role)
    train, validation, ledger = curate([GOOD, row, GOOD], [row, GOOD])
    assert [len(train), len(validation)] == [2, 1]
    assert reasons(ledger) == {reason: 2}
    assert [(f["id"], f["by"], f["what"]) for f in ledger.findings()] == [
        ("train:2", "Quality", reason),
        ("validation:1", "Quality", reason),
    ]
    assert len(curate([GOOD, row], **{option: False})[0]) == 2


def test_a_row_goes_for_its_first_fault_and_all_are_noted(curate):
    row = chat("Q?", "As an AI language model, I loop. " * 10 + "\n```\n")
    _, _, ledger = curate([row])
    assert reasons(ledger) == {"refusal or talk of being an AI": 1}
    assert [finding["what"] for finding in ledger.findings("train:1")] == [
        "refusal or talk of being an AI",
        "answer repeats itself",
        "unclosed code fence",
    ]


def test_any_answer_that_is_learnt_counts(curate):
    learnt = chat("Q?", REFUSALS[0], "Please.", "All right: 4.")
    first = learnt.messages[1]
    context = Example((learnt.messages[0], Message(first.role, first.content, train=False), *learnt.messages[2:]))
    train, _, _ = curate([learnt, context])
    assert [row.id for row in train] == ["train:2"]


def test_answers_that_are_meant_to_be_bad_stay(curate):
    refused = (Message("assistant", REFUSALS[0]),)
    rows = [chat("Q?", REFUSALS[0], label=False), chat("Q?", "A good one.", rejected=refused)]
    assert len(curate(rows)[0]) == 2
    assert len(curate([chat("Q?", REFUSALS[0], label=True), chat("Q?", REFUSALS[0], rejected=refused)])[0]) == 0


def test_greetings_and_labels_may_equal_their_question(curate):
    assert len(curate([chat("Hello!", "Hello."), chat("Good morning, sir", "Good morning, sir.")])[0]) == 2


def words_in(texts):
    return [len(text.split()) for text in texts]


def test_length_limits(curate):
    rows = [chat("one two three", "one"), chat("one", "one two three"), Example(text="one two three four five")]
    train, _, ledger = curate(rows, count_tokens=words_in, min_tokens=2, max_tokens=4)
    assert [row.id for row in train] == ["train:2"]
    assert reasons(ledger) == {"answer shorter than 2 tokens": 1, "answer longer than 4 tokens": 1}
    train, _, ledger = curate(rows, count_tokens=words_in, max_tokens=4, tokens_of="row")
    assert [row.id for row in train] == ["train:1", "train:2"]
    assert reasons(ledger) == {"row longer than 4 tokens": 1}


def test_length_limits_need_a_tokenizer(curate):
    with pytest.raises(DataError, match="Quality: min_tokens and max_tokens need the model's tokenizer"):
        curate([GOOD], max_tokens=5)
    assert len(curate([GOOD])[0]) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens 9 is above max_tokens 3"),
        ({"languages": ["English"]}, "should match pattern"),
        ({"phone_region": "Germany"}, "should match pattern"),
        ({"same_answer": 0}, "greater than or equal to 1"),
        ({"pii": "hide"}, "'mask', 'drop' or 'keep'"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(ValidationError, match=words):
        Quality(**options)


def test_unwanted_phrases(curate):
    assert Quality(unwanted=["*"]).problems() == [
        "unwanted: '*' is not a regular expression: nothing to repeat at position 0"
    ]
    _, _, ledger = curate([GOOD, chat("Q?", "Ask ACME's hotline.")], unwanted=["no such", r"\bacme\b"])
    assert reasons(ledger) == {"unwanted phrase": 1}
    assert ledger.findings()[0]["detail"] == r"\bacme\b"


GERMAN = (
    "Das Glaukom ist eine Gruppe von Erkrankungen, die den Sehnerv sch\u00e4digen und zum Verlust des Augenlichts "
    "f\u00fchren k\u00f6nnen. Am Anfang gibt es kaum Beschwerden."
)


def test_languages(curate):
    rows = [GOOD, chat("Q?", GERMAN), chat("Q?", "Guten Tag!"), chat("Q?", f"Like this:\n```\n{GERMAN}\n```")]
    train, _, ledger = curate(rows, languages=["en"])
    assert [row.id for row in train] == ["train:1", "train:3", "train:4"]  # short texts and code are not judged
    assert reasons(ledger) == {"wrong language": 1}
    assert ledger.findings()[0]["detail"].startswith("de, ")
    assert len(curate(rows, languages=["en", "de"])[0]) == 4
    with pytest.raises(DataError, match="Quality: languages: no language 'xx' is known"):
        curate(rows, languages=["xx"])


def test_the_same_answer_to_many_prompts(curate):
    clause = "This condition is inherited in an autosomal recessive pattern, as both copies have mutations."
    rows = [chat(f"Is disease {n} inherited?", clause.upper() if n % 2 else clause) for n in range(6)]
    rows += [rows[0], rows[5]]  # the same prompt again: for `dedupe` to settle
    rows += [chat(f"Is {n} even?", "yes") for n in range(50)]
    train, _, ledger = curate(rows, same_answer=4)
    assert [row.id for row in train][:5] == ["train:1", "train:2", "train:3", "train:4", "train:7"]
    assert reasons(ledger) == {"same answer to more than 4 prompts": 3}
    assert {finding["detail"] for finding in ledger.findings()} == {"6 prompts"}
    assert len(curate(rows)[0]) == len(curate(rows, same_answer=6)[0]) == len(rows)


# --- personal data and keys ------------------------------------------------------------------------------------------

FOUND = [
    ("Write to jane.doe+x@mail.acme.co.uk.", "Write to [EMAIL]."),
    ("<j\u00fcrgen@b\u00fcro.de>", "<[EMAIL]>"),
    ("Call +49 30 901820 now", "Call [PHONE] now"),
    ("(Tel. +1 (650) 253-0000)", "(Tel. [PHONE])"),
    ("card 4111 1111 1111 1111, please", "card [CARD], please"),
    ("4111-1111-1111-1111", "[CARD]"),
    ("4111111111111111.", "[CARD]."),
    ("Amex 3782 822463 10005", "Amex [CARD]"),
    ("to DE89 3704 0044 0532 0130 00.", "to [IBAN]."),
    ("PAY GB29NWBK60161331926819 AND GO", "PAY [IBAN] AND GO"),
    ("DE89 3704 0044 0532 0130 00 PLEASE", "[IBAN] PLEASE"),
    ("aws AKIAIOSFODNN7EXAMPLE", "aws [KEY]"),
    ("ghp_" + "a1B2" * 9, "[KEY]"),
    ("github_pat_" + "11ABCDEFG0" * 3, "[KEY]"),
    ("key=sk-proj-" + "aB3_" * 10, "key=[KEY]"),
    ("sk-" + "0123456789abcdef" * 2, "[KEY]"),
    ("xoxb-123456789012-abcdefGHIJ", "[KEY]"),
    ("AIza" + "Sy0-_" * 7, "[KEY]"),
    ("hf_" + "aBcDe" * 6 + "fGhI", "[KEY]"),
    ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N", "Bearer [KEY]"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIE+/==\n-----END RSA PRIVATE KEY-----\nend", "[KEY]\nend"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEabc", "[KEY]"),
]
KEPT = [
    "a@b, @pytest.fixture, x@y",
    "git clone git@github.com:acme/tool.git",
    "someone@example.com, me@mail.example",
    "card 4111 1111 1111 1112",  # the checksum is wrong
    "order 1234567890123456",  # no network
    "4111 1111-1111 1111",
    "DE89 3704 0044 0532 0130 01",
    "030 901820, 650-253-0000",  # no country: see phone_region
    "1 + 2345678901 = 2345678902",
    "<<30000-11520=18480>>18480 + 10500",
    "sk-fading-circle-container-with-long-names",
    "sk-learn, xoxo-hugs-and-kisses, eyJ",
    "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
    "3.14159265358979323846264338327950288",
    "2024-01-15 10:30:00, 192.168.100.200, 978-3-16-148410-0",
    "[EMAIL] [PHONE] [CARD] [IBAN] [KEY]",
]


@pytest.mark.parametrize(("text", "masked"), FOUND)
def test_what_is_masked(text, masked):
    changed, found = mask(text)
    assert changed == masked
    assert found.total() == 1
    assert mask(changed) == (changed, Counter())


@pytest.mark.parametrize("text", KEPT)
def test_what_is_not_masked(text):
    assert mask(text) == (text, Counter())


def test_a_region_finds_its_own_numbers():
    assert mask("call (650) 253-0000 or 1-800-QUIT (650-253-0000)", region="US") == (
        "call [PHONE] or 1-800-QUIT ([PHONE])",
        Counter(phone=2),
    )
    assert mask("call (650) 253-0000", region="DE")[1] == Counter()


@given(st.text(max_size=300))
def test_masking_takes_any_text(text):
    mask(text, region="US")


ROW = Example(
    (
        Message("user", "I am jane@acme.org."),
        Message("assistant", "", tool_calls='[{"function": {"arguments": {"to": "jane@acme.org", "n": 3}}}]'),
        Message("tool", "sent to jane@acme.org", name="mail", tool_call_id="1"),
        Message("assistant", "Your card is 4111 1111 1111 1111."),
    ),
    rejected=(Message("assistant", "Call +49 30 901820."),),
    tools='[{"type": "function"}]',
    role="replay",
    origin="general",
    group="7",
)


def test_every_text_of_a_row_is_masked_and_nothing_else_changes(curate):
    train, validation, ledger = curate([GOOD, ROW], [ROW, Example(text="Write to jane@acme.org.")])
    row = train[1]
    assert [message.content for message in row.messages] == [
        "I am [EMAIL].",
        "",
        "sent to [EMAIL]",
        "Your card is [CARD].",
    ]
    assert json.loads(row.messages[1].tool_calls)[0]["function"]["arguments"] == {"to": "[EMAIL]", "n": 3}
    assert row.rejected[0].content == "Call [PHONE]."
    assert (row.messages[2].name, row.messages[2].tool_call_id) == ("mail", "1")
    assert (row.tools, row.role, row.origin, row.group) == (ROW.tools, "replay", "general", "7")
    assert train[0].messages == GOOD.messages
    assert validation[1].text == "Write to [EMAIL]."
    assert reasons(ledger, "masked") == {"masked: email, phone, card": 2, "masked: email": 1}
    assert "jane" not in str(ledger.findings())


def test_rows_with_personal_data_can_be_dropped(curate):
    train, _, ledger = curate([GOOD, ROW], pii="drop")
    assert len(train) == 1
    assert reasons(ledger) == {"personal data or keys": 1}
    assert ledger.findings()[0]["detail"] == "3 email, 1 phone, 1 card"


def test_personal_data_can_be_kept_or_masked_in_part(curate):
    train, _, ledger = curate([ROW], pii="keep")
    assert train[0].messages == ROW.messages and not ledger.findings()
    train, _, _ = curate([ROW], pii_kinds=["card"])
    assert train[0].messages == (*ROW.messages[:3], Message("assistant", "Your card is [CARD]."))
    assert set(Quality().pii_kinds) == set(KINDS)


def test_many_masked_rows_in_order(curate, monkeypatch):
    monkeypatch.setattr(quality, "AT_ONCE", 7)
    rows = [chat(f"{n}?", f"n{n}@acme.org is {n}" if n % 3 else REFUSALS[0]) for n in range(2500)]
    train, _, ledger = curate(rows)
    assert [row.messages[1].content for row in train] == [f"[EMAIL] is {n}" for n in range(2500) if n % 3]
    assert reasons(ledger, "masked") == {"masked: email": 1666}


# --- real data -------------------------------------------------------------------------------------------------------


def pairs_of(file, question, answer):
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [chat(row[question], row[answer]) for row in rows]


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(
    ("file", "columns", "dropped", "masked"),
    [
        ("gsm8k/train.jsonl", ("question", "answer"), {}, {}),
        (
            "medquad/medquad.jsonl",
            ("instruction", "response"),
            {"answer repeats itself": 69, "answer equals question": 5},
            {"masked: email": 11},
        ),
    ],
)
def test_the_defaults_leave_good_data_alone(curate, file, columns, dropped, masked):
    _, _, ledger = curate(pairs_of(DATA / file, *columns))
    assert (reasons(ledger), reasons(ledger, "masked")) == (dropped, masked)
