"""Training for real, on a tiny Llama: the traps of supervised fine-tuning."""

import dataclasses
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftp.components import TrainingJob
from ftp.data.examples import Corpus
from ftp.data.ledger import fates_in_words
from ftp.errors import DataError, ModelError
from ftp.lm.rendering import encode, stop_ids
from ftp.lm.tokens import TokenRows, parts_of
from ftp.lm.torch_generate import generate
from ftp.lm.torch_losses import token_losses
from ftp.options import AnswerOptions
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.qlora import QLoRA
from ftp_plugins.formatters.pairs import Instruct
from ftp_plugins.formatters.text import Text
from ftp_plugins.loaders.huggingface import HuggingFace
from ftp_plugins.trainers.sft import SFT

ROWS = [
    ("Name the colour of grass.", "green"),
    ("Name the colour of snow.", "white as ever"),
    ("Name the colour of coal.", "black"),
    ("Name the colour of blood.", "red, always red, and nothing but red"),
    ("Name the colour of the sky.", "blue"),
    ("Name the colour of a lemon.", "yellow"),
    ("Name the colour of a carrot.", "orange, they say"),
    ("Name the colour of a mouse.", "grey"),
]


COLUMNS = ("instruction", "response")


def load(directory, adapter, **options):
    import transformers

    loader = HuggingFace(id=str(directory), device="cpu", **options)
    loaded = loader.load(adapter.prepare(loader.describe()))
    transformers.set_seed(1)
    return adapter.apply(loaded)


def job_of(loaded, tmp_path, rows=ROWS, validation=ROWS[:2]):
    """A job on these rows, running text where they are text, with the events in a list."""
    tmp_path.mkdir(exist_ok=True)
    source = tmp_path / "rows.jsonl"
    watched = tmp_path / "watched.jsonl"
    for file, pairs in ((source, rows), (watched, validation)):
        values = [{"text": row} if isinstance(row, str) else dict(zip(COLUMNS, row, strict=True)) for row in pairs]
        file.write_text("".join(json.dumps(row) + "\n" for row in values))
    recipe = Data(
        train=[Source(path=str(source), format=Text() if isinstance(rows[0], str) else Instruct())],
        validation=Source(path=str(watched), format=Instruct()) if validation else 0.0,
    )
    corpus, ledger = build_corpus(recipe, tmp_path / "data", tmp_path, seed=1)
    events = []
    job = TrainingJob(
        loaded, corpus, ledger, tmp_path / "checkpoints", 1, lambda event, **values: events.append((event, values))
    )
    return job, events


def metrics(events, event="metric", key="loss"):
    return [values[key] for name, values in events if name == event]


EXACT = {"precision": "float32"}
"""No bfloat16 where the machine would have it."""


def test_a_tuned_model_answers_and_stops(ftp_tiny_model, tmp_path):
    loaded = load(ftp_tiny_model, Full())
    loaded.tokenizer.pad_token = loaded.tokenizer.eos_token  # the trap: EOS masked along with the padding
    job, events = job_of(loaded, tmp_path)
    trainer = SFT(epochs=60, learning_rate=5e-3, batch_size=4, schedule="constant", evals_per_epoch=0.1, **EXACT)
    result = trainer.train(job)

    said = generate(result.model, list(job.corpus.train), AnswerOptions(max_new_tokens=60))
    assert [answer.text for answer in said] == [reference for _, reference in ROWS]
    assert all(answer.stopped for answer in said)
    losses = metrics(events, "validation")
    assert losses[-1] < 0.1 < losses[0]
    assert result.best_step in [values["step"] for name, values in events if name == "validation"]


def test_the_best_state_is_kept_not_the_last(ftp_tiny_model, tmp_path):
    loaded = load(ftp_tiny_model, Full())
    other = [("Name the shape of the moon.", "round, and bright, and far away")]
    job, events = job_of(loaded, tmp_path, validation=other)
    trainer = SFT(epochs=40, learning_rate=5e-3, batch_size=4, schedule="constant", evals_per_epoch=1, **EXACT)
    result = trainer.train(job)

    losses = metrics(events, "validation")
    assert min(losses) < losses[-1], "this run was meant to overfit"
    tokenizer = result.model.tokenizer
    rows = encode(tokenizer, list(job.corpus.validation), stop_ids(tokenizer, None))
    kept = token_losses(result.model, rows)
    assert sum(k.nll for k in kept) / sum(k.tokens for k in kept) == pytest.approx(min(losses), abs=1e-6)


def test_training_that_only_harms_says_so(ftp_tiny_model, tmp_path):
    loaded = load(ftp_tiny_model, Full())
    other = [("x", "\u00e9\u00fc\u00f1 \u4e2d\u6587 " * 20)]
    job, events = job_of(loaded, tmp_path, validation=other)
    SFT(epochs=8, learning_rate=2e-2, batch_size=4, evals_per_epoch=0.125).train(job)
    [note] = metrics(events, "note", "text")
    assert note.startswith("Training never brought the validation loss below the base model's")


def test_four_small_batches_are_one_large_one(ftp_tiny_model, tmp_path):
    first = {}
    for name, options in {"large": {"batch_size": 8}, "small": {"batch_size": 2, "gradient_accumulation": 4}}.items():
        loaded = load(ftp_tiny_model, Full())
        job, events = job_of(loaded, tmp_path / name, validation=[])
        SFT(epochs=1, learning_rate=1e-3, warmup=0, **EXACT, **options).train(job)
        first[name] = (metrics(events)[0], metrics(events, key="grad_norm")[0])
    assert first["small"] == pytest.approx(first["large"], rel=1e-5)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    "adapter", [LoRA(r=4), LoRA(r=4, dora=True, init="gaussian"), LoRA(r=4, rslora=True), QLoRA(r=4)]
)
def test_adapters_learn_and_leave_the_base_alone(ftp_tiny_model, tmp_path, adapter):
    loaded = load(ftp_tiny_model, adapter)
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters() if not p.requires_grad}
    job, events = job_of(loaded, tmp_path)
    SFT(epochs=12, learning_rate=2e-2, batch_size=4).train(job)
    assert metrics(events)[-1] < metrics(events)[0] - 0.1
    assert metrics(events, "validation")[-1] < metrics(events, "validation")[0]
    after = dict(loaded.model.named_parameters())
    assert all((after[name] == value).all() for name, value in before.items())


def test_qlora_has_the_same_gradient_after_an_evaluation(ftp_tiny_model):
    # bitsandbytes repacks CPU weights for inference, and its product on them has no backward.
    import torch

    gradients = []
    for evaluate_first in (False, True):
        loaded = load(ftp_tiny_model, QLoRA(r=4))
        model = loaded.model
        ids = torch.arange(20)[None] + 10
        if evaluate_first:
            model.eval()
            with torch.inference_mode():
                model(input_ids=ids)
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(g.abs().sum() > 0 for name, g in gradients[0].items() if "layers.0." in name and "lora_B" in name)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-2, atol=1e-4), name


def test_the_same_seed_gives_the_same_losses(ftp_tiny_model, tmp_path):
    runs = []
    for name in ("one", "two"):
        job, events = job_of(load(ftp_tiny_model, LoRA(r=4, dropout=0.1)), tmp_path / name)
        SFT(epochs=2, batch_size=2).train(job)
        runs.append(metrics(events))
    assert runs[0] == runs[1]


def test_overlong_rows_are_an_error_that_names_them(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path, rows=[*ROWS, ("Tell a story.", "and then " * 200)])
    with pytest.raises(
        DataError, match=r"rows.jsonl:9: \d+ tokens, max_length is 128(.|\n)*overlong: drop or truncate"
    ):
        SFT(max_length=128).train(job)


@pytest.mark.parametrize(
    ("overlong", "fate", "reason"),
    [("drop", "dropped", "longer than 128 tokens"), ("truncate", "truncated", "cut to 128 tokens")],
)
def test_overlong_rows_that_are_dropped_or_cut_are_in_the_ledger(ftp_tiny_model, tmp_path, overlong, fate, reason):
    rows = [*ROWS, ("Tell a story.", "and then " * 200)]
    job, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path, rows=rows)
    SFT(max_length=128, overlong=overlong, epochs=1).train(job)
    [total] = [t for t in job.ledger.totals() if t["fate"] == fate]
    assert (total["by"], total["reason"], total["rows"]) == ("SFT", reason, 1)
    assert metrics(events, "plan", "rows") == [8 if overlong == "drop" else 9]


def test_a_row_whose_answer_is_cut_off_whole_never_reaches_the_trainer(ftp_tiny_model, tmp_path):
    rows = [*ROWS, ("why " * 300, "because")]
    job, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path, rows=rows)
    SFT(max_length=128, overlong="truncate", epochs=1).train(job)
    assert [t["rows"] for t in job.ledger.totals() if t["reason"] == "no trained token"] == [1]
    assert metrics(events, "plan", "rows") == [8]


def test_running_text_is_split_and_every_token_is_predicted_once(ftp_tiny_model, tmp_path):
    texts = ["one two three " * 100, "short"]
    job, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path, rows=texts)
    SFT(max_length=128, overlong="split", epochs=1, batch_size=2).train(job)
    whole = job.ledger.row("rows.jsonl:1")
    parts = parts_of(whole["tokens"], 128)
    assert (whole["fate"], whole["by"], whole["lost_tokens"]) == ("split", "SFT", 0)
    assert whole["reason"] == "split into rows of at most 128 tokens"
    assert parts > 1
    assert metrics(events, "plan", "rows") == [parts + 1]
    assert fates_in_words(job.ledger) == ["SFT: 1 row of train split (split into rows of at most 128 tokens)"]


@given(st.integers(2, 300), st.integers(8, 40))
def test_the_parts_of_a_row(tokens, length):
    table = pa.table(
        {"input_ids": [list(range(tokens))], "trained": [[True] * tokens]},
        schema=pa.schema([("input_ids", pa.list_(pa.int32())), ("trained", pa.list_(pa.bool_()))]),
    )
    count = parts_of(tokens, length)
    parts = list(TokenRows(table).split(length, [count]))
    assert len(parts) == count
    assert max(len(part.input_ids) for part in parts) <= length
    predicted = [id for part in parts for id, on in list(zip(part.input_ids, part.trained, strict=True))[1:] if on]
    assert predicted == list(range(1, tokens))
    assert sum(sum(part.trained) for part in parts) == tokens


def test_a_long_conversation_is_not_split(ftp_tiny_model, tmp_path):
    job, _ = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path, rows=[*ROWS, ("Tell a story.", "and then " * 200)])
    with pytest.raises(DataError, match="Only running text is split"):
        SFT(max_length=128, overlong="split").train(job)


def test_a_loss_that_is_not_a_number_stops_the_run(ftp_tiny_model, tmp_path):
    import torch

    loaded = load(ftp_tiny_model, Full())
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight.fill_(float("nan"))
    job, _ = job_of(loaded, tmp_path, validation=[])
    with pytest.raises(ModelError, match=r"the training loss is nan at step 1; lower train\.learning_rate"):
        SFT(epochs=1).train(job)


def test_token_losses_are_those_of_the_plain_forward(ftp_tiny_model):
    import torch

    loaded = load(ftp_tiny_model, Full())
    from ftp.types import Example, Message

    examples = [Example((Message("user", q), Message("assistant", a))) for q, a in ROWS]
    rows = encode(loaded.tokenizer, examples, stop_ids(loaded.tokenizer, None))
    for row, loss in zip(rows, token_losses(loaded, rows), strict=True):
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        with torch.no_grad():
            plain = loaded.model(input_ids=ids, labels=labels).loss.item()
        assert loss.tokens == sum(row.trained)
        assert loss.nll / loss.tokens == pytest.approx(plain, rel=1e-5)


def test_answers_do_not_depend_on_the_batch(ftp_tiny_model):
    loaded = load(ftp_tiny_model, Full())
    from ftp.types import Example, Message

    examples = [Example((Message("user", q * (n + 1)), Message("assistant", a))) for n, (q, a) in enumerate(ROWS)]
    alone = generate(loaded, examples, AnswerOptions(max_new_tokens=12, batch_size=1))
    together = generate(loaded, examples, AnswerOptions(max_new_tokens=12, batch_size=8))
    assert alone == together


@pytest.mark.parametrize(
    ("adapter", "options", "message"),
    [
        (LoRA(targets=["q_prj"]), {}, "has no linear layer 'q_prj'; did you mean 'q_proj'?"),
        (QLoRA(), {"already_quantized": "awq"}, "is quantised already"),
        (Full(), {"already_quantized": "gptq"}, "can't be trained in full"),
    ],
)
def test_wrong_pairs_are_refused_before_any_weight_is_loaded(ftp_tiny_model, adapter, options, message):
    request = HuggingFace(id=str(ftp_tiny_model)).describe()
    with pytest.raises(ModelError, match=message.replace("?", r"\?")):
        adapter.prepare(dataclasses.replace(request, **options))


def test_restored_weights_are_the_trained_ones(ftp_tiny_model, tmp_path):
    import torch

    for adapter in (LoRA(r=4), Full()):
        loaded = load(ftp_tiny_model, adapter)
        job, _ = job_of(loaded, tmp_path / type(adapter).__name__)
        result = SFT(epochs=2, learning_rate=1e-2).train(job)
        saved = tmp_path / type(adapter).__name__ / "model"
        result.model.model.save_pretrained(saved, safe_serialization=True)
        loader = HuggingFace(id=str(ftp_tiny_model), device="cpu")
        again = adapter.restore(loader.load(adapter.prepare(loader.describe())), saved)
        ids = torch.arange(20)[None] + 10
        result.model.model.eval()
        again.model.eval()
        with torch.no_grad():
            assert torch.equal(result.model.model(ids).logits, again.model(ids).logits)


def test_a_corpus_can_be_empty_of_validation(ftp_tiny_model, tmp_path):
    job, events = job_of(load(ftp_tiny_model, LoRA(r=4)), tmp_path, validation=[])
    assert isinstance(job.corpus, Corpus)
    result = SFT(epochs=1).train(job)
    assert metrics(events, "validation") == []
    assert result.best_step == result.steps
