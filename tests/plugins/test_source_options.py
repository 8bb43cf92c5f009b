"""Weights of sources in the loss, slices in recipes, and the names of turns' fields."""

import json

import pytest
import torch
from test_speed import LENGTHS, assert_equal, gradients, rows_of, tiny, with_lora
from test_training import load, metrics

from ftp.components import TrainingJob
from ftp.errors import RowError
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.formatters.chat import Messages
from ftp_plugins.formatters.pairs import Instruct
from ftp_plugins.speed.torch_batches import packed_batch
from ftp_plugins.speed.torch_head import PenalisedLoss
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.trainers.sft import SFT

# --- weights ---------------------------------------------------------------------------------------------------------

WEIGHTS = (1.0, 0.25, 3.0, 1.0, 0.5, 1.0, 2.0, 1.0)


def weighted(model, rows, token_loss=None):
    """The weighted loss of rows by PyTorch's own functions, each row by itself, and its gradients."""
    count = sum(sum(row.trained[1:]) for row in rows)
    total = 0.0
    for row, weight in zip(rows, WEIGHTS, strict=True):
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
        targets = torch.tensor(row.labels[1:], dtype=torch.int64)
        logits, targets = logits[targets != -100], targets[targets != -100]
        plain = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        loss = weight * (token_loss(logits, targets) if token_loss else plain).sum() / count
        loss.backward()
        total += loss.item()
    return total, gradients(model)


@pytest.mark.thin(3)
@pytest.mark.parametrize("once", [False, True], ids=["packed", "prefixes once"])
@pytest.mark.parametrize("token_loss", [None, PenalisedLoss(0.1, 1e-3), lambda x, y: torch.nn.functional.nll_loss(
    torch.log_softmax(x, -1), y, reduction="none") ** 2], ids=["plain", "penalised", "own"])  # fmt: skip
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_weights_are_exact_in_packed_batches(lora, token_loss, once):
    model = with_lora(tiny()) if lora else tiny()
    rows = rows_of(LENGTHS)
    path = FastPath(model, torch.float32, token_loss)
    count = sum(sum(row.trained[1:]) for row in rows)
    entries = [
        {"input_ids": row.input_ids, "trained": row.trained, "weight": weight}
        for row, weight in zip(rows, WEIGHTS, strict=True)
    ]
    total = 0.0
    with path.layers(), path.attention():
        for part in (entries[:3], entries[3:]):  # two batches of an optimizer step
            loss = path.loss(packed_batch(part, once=once)) / count
            loss.backward()
            total += loss.item()
    assert_equal((total, gradients(model)), weighted(model, rows, token_loss), rel=1e-5)


QUESTIONS = [(f"Name {n} things that are {word}.", f"{word} " * (n % 5 + 1)) for n, word in enumerate("abcdefgh")]


def job_of(loaded, directory, weight):
    """A job on two sources of four rows each, the second with a weight."""
    sources = []
    for name, rows, own in (("one", QUESTIONS[:4], 1.0), ("two", QUESTIONS[4:], weight)):
        file = directory / f"{name}.jsonl"
        directory.mkdir(exist_ok=True, parents=True)
        file.write_text("".join(json.dumps({"instruction": q, "response": a}) + "\n" for q, a in rows))
        sources.append(Source(path=str(file), format=Instruct(), weight=own))
    corpus, ledger = build_corpus(Data(train=sources, validation=0.0), directory / "data", directory, seed=1)
    events = []

    def emit(event, **values):
        events.append((event, values))

    return TrainingJob(loaded, corpus, ledger, directory / "checkpoints", 1, emit), events


EXACT = {"precision": "float32", "warmup": 0, "schedule": "constant", "learning_rate": 1e-3, "epochs": 1}


@pytest.mark.parametrize("speed", ["auto", "off"])
def test_weights_reach_the_loss_however_a_step_is_cut(ftp_tiny_model, tmp_path, speed):
    first = {}
    for name, options in {"large": {"batch_size": 8}, "small": {"batch_size": 2, "gradient_accumulation": 4}}.items():
        job, events = job_of(load(ftp_tiny_model, Full()), tmp_path / name, 0.25)
        SFT(speed=speed, **EXACT, **options).train(job)
        first[name] = (metrics(events)[0], metrics(events, key="grad_norm")[0])
    assert first["small"] == pytest.approx(first["large"], rel=1e-5)
    plain, events = job_of(load(ftp_tiny_model, Full()), tmp_path / "plain", 1.0)
    SFT(speed=speed, batch_size=8, **EXACT).train(plain)
    assert first["large"][0] < metrics(events)[0] - 0.1


def test_both_paths_weigh_alike(ftp_tiny_model, tmp_path):
    found = []
    for speed in ("auto", "off"):
        job, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path / speed, 3.0)
        SFT(speed=speed, batch_size=8, **EXACT).train(job)
        found.append(metrics(events)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


RECIPE = """\
name: x
model: {{use: huggingface, id: some/model}}
adapter: {{use: lora}}
data:
  train:
    - {{path: train.jsonl, format: {{use: instruct}}{source}}}
  {more}
train: {{use: {trainer}}}
{end}
"""
BAD = {
    "no weight": (", weight: 0", "", "sft", "data.train.0.weight: must be greater than 0"),
    "weights that nothing reads": (", weight: 2", "", "grpo, rewards: [{use: length, max_words: 3}]",
                                   "data.train.0.weight: the trainer 'grpo' reads none; remove it"),
    "the weight of eval rows": ("", "evals: {held: {path: held.jsonl, format: {use: instruct}, weight: 2}}", "sft",
                                "data.evals.held.weight: is for training rows; remove it"),
    "a split of files": (", split: train", "", "sft", "data.train.0.split: applies only to a `hub:` source"),
    "another split of files": (", split: 'test[:5]'", "", "sft", "files have no split 'test'; write [:5]"),
    "no slice": (", split: '[5]'", "", "sft", "data.train.0.split: must be a split such as train, train[:1%]"),
    "slices that overlap": (
        ", split: '[:60%]'", "evals: {held: {path: train.jsonl, split: '[50%:]', format: {use: instruct}}}", "sft",
        "data.evals.held.path: data.train.0 reads train.jsonl too; a leak",
    ),
    "roles that are none": ("", "", "sft", "roles.human"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_sources_are_refused(check_recipe, name):
    source, more, trainer, said = BAD[name]
    end = "evaluate: [{use: exact_match}]" if "evals" in more else ""
    text = RECIPE.format(source=source, more=more, trainer=trainer, end=end)
    if name == "roles that are none":
        text = text.replace("{use: instruct}", "{use: messages, roles: {human: person}}")
    outcome = check_recipe(text)
    assert outcome.code == 2 and said in outcome.err, outcome.err


def test_slices_that_do_not_overlap_train_and_evaluate(check_recipe, tmp_path):
    source = ", split: '[:1]'"
    more = "validation: {path: held.jsonl, format: {use: instruct}}"
    outcome = check_recipe(RECIPE.format(source=source, more=more, trainer="sft", end=""))
    assert outcome.code == 0, outcome.err
    assert "train.jsonl: 1 row" in outcome.out or "1" in outcome.out


# --- names of fields -------------------------------------------------------------------------------------------------


def test_fields_and_roles_of_turns_have_the_names_that_the_recipe_gives():
    row = {"chat": [{"speaker": "human", "text": "Hi."}, {"speaker": "bot", "text": "Hello."}]}
    format = Messages(messages="chat", role="speaker", content="text", roles={"human": "user", "bot": "assistant"})
    example = format.format(row)
    assert [(turn.role, turn.content) for turn in example.messages] == [("user", "Hi."), ("assistant", "Hello.")]
    assert format.row(example) == row
    usual = {"chat": [{"speaker": "user", "text": "Hi."}, {"speaker": "assistant", "text": "Hello."}]}
    assert format.format(usual) == example


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"role": "human", "text": "Hi."}, "'speaker' is missing"),
        ({"speaker": "human"}, "'text' is missing"),
        (
            {"speaker": "gpt", "text": "Hi."},
            "unknown role 'gpt'; known: system, developer, user, .*, human",
        ),
        ({"speaker": "human", "text": 3}, "'text' must be text"),
    ],
)
def test_bad_turns_are_named_by_the_recipes_names(turn, said):
    with pytest.raises(RowError, match=said):
        Messages(role="speaker", content="text", roles={"human": "user"}).format({"messages": [turn]})


@pytest.mark.parametrize(
    ("key", "name"), [("message_field_role", "role"), ("content_tag", "content"), ("field_messages", "messages")]
)
def test_names_of_other_tools_are_known(check_recipe, key, name):
    text = RECIPE.format(source="", more="", trainer="sft", end="")
    outcome = check_recipe(text.replace("{use: instruct}", f"{{use: messages, {key}: x}}"))
    assert outcome.code == 2 and f"unknown key; here it is '{name}'" in outcome.err
