"""`ftp.load`: the model of a run answers as it was evaluated."""

import shutil

import pyarrow.parquet as pq
import pytest
from trained_runs import train_run

import ftp
from ftp.lm.answering import together
from ftp.lm.sampling import Sampling
from ftp.lm.torch_decode import Decoder
from ftp.plugins import load as load_plugins
from ftp.stages.trained_model import load_runs, open_run
from ftp.types import Message


def evaluated(run, who="tuned"):
    rows = pq.read_table(run / "answers" / f"{who}-heldout.parquet").to_pylist()
    return {row["prompt"]: row["answer"] for row in rows}


def asked(model, prompts, **more):
    return {prompt: model.answer(prompt, max_new_tokens=12, **more) for prompt in prompts}


@pytest.mark.parametrize(
    "adapter",
    [
        {"use": "lora", "r": 4},
        {"use": "full"},
        {"use": "qlora", "r": 4, "compute_dtype": "float32"},
        {"use": "lora", "r": 4, "dora": True, "targets": ["q_proj", "v_proj"], "modules_to_save": ["lm_head"]},
    ],
    ids=lambda adapter: "-".join(["dora" if "dora" in adapter else adapter["use"]]),
)
def test_answers_are_those_of_the_evaluation(adapter, ftp_tiny_model, tmp_path):
    rate = 0.002 if adapter["use"] == "full" else 0.01
    run = train_run(tmp_path, ftp_tiny_model, adapter=adapter, rate=rate)
    model = ftp.load(run)
    tuned, base = evaluated(run), evaluated(run, "base")
    assert tuned != base
    assert asked(model, tuned) == tuned
    assert asked(model, base, base=True) == base
    assert asked(model, tuned) == tuned  # and the adapter is on again


def test_an_answer_comes_in_pieces(lora_runs):
    model = ftp.load(lora_runs.one)
    pieces = list(model.stream("Double 3.", max_new_tokens=12))
    assert len(pieces) > 1 and "".join(pieces).strip() == model.answer("Double 3.", max_new_tokens=12)
    stream = model.stream("Double 3.", temperature=2, seed=1)
    next(stream)
    stream.close()
    assert model.tuned.decoder.running == 0
    longer = model.answer(messages=[{"role": "user", "content": "Double 3."}], max_new_tokens=12, stop=["1"])
    assert "1" not in longer


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "a prompt or messages"),
        ({"prompt": "a", "messages": []}, "a prompt or messages"),
        ({"messages": []}, "there are none"),
        ({"messages": [{"role": "user"}, {"role": "king", "content": ""}]}, "messages\\[1\\]: role: 'king'"),
        ({"messages": [{"role": "user", "contents": "a"}]}, "unknown field 'contents'"),
        ({"prompt": "a", "max_new_tokens": 10_000}, "context has 2,048 tokens"),
    ],
)
def test_bad_questions_are_named(lora_runs, arguments, says):
    model = ftp.load(lora_runs.one)
    with pytest.raises(ftp.ModelError, match=says):
        model.answer(**arguments)


def test_what_is_no_finished_run_is_named(lora_runs, tmp_path):
    with pytest.raises(ftp.FtpError, match="not a run directory"):
        ftp.load(tmp_path)
    half = shutil.copytree(lora_runs.one, tmp_path / "half")
    (half / "stages.json").write_text("{}")
    with pytest.raises(ftp.FtpError, match="no trained model in it"):
        ftp.load(half)


def test_runs_on_one_base_share_it_and_others_do_not(lora_runs, ftp_tiny_model, tmp_path):
    other = shutil.copytree(ftp_tiny_model, tmp_path / "other")
    (other / "generation_config.json").write_text('{"eos_token_id": 5}')  # another model, by its files
    third = train_run(tmp_path, other, "third")
    paths = {"one": lora_runs.one, "two": lora_runs.two, "third": third}
    plugins = load_plugins()
    one, two, third_model = load_runs([open_run(path, plugins, name) for name, path in paths.items()])
    assert one.tuned.decoder is two.tuned.decoder is one.base.decoder
    assert third_model.tuned.decoder is not one.tuned.decoder
    assert asked(one, evaluated(lora_runs.one)) == evaluated(lora_runs.one)
    assert asked(two, evaluated(lora_runs.two)) == evaluated(lora_runs.two)
    assert asked(two, evaluated(lora_runs.two, "base"), base=True) == evaluated(lora_runs.two, "base")


def test_adapters_that_peft_cannot_mix_answer_in_batches_of_their_own(lora_runs, ftp_tiny_model, tmp_path):
    dora = train_run(tmp_path, ftp_tiny_model, "dora", {"use": "lora", "r": 4, "dora": True})
    plugins = load_plugins()
    models = load_runs([open_run(lora_runs.one, plugins), open_run(dora, plugins)])
    assert models[0].tuned.decoder is models[1].tuned.decoder
    answers = {}
    kinds = [
        (models[0].tuned, lora_runs.one, "tuned"),
        (models[1].tuned, dora, "tuned"),
        (models[0].base, dora, "base"),
    ]
    pairs = [(model, prompt, run, who) for model, run, who in kinds for prompt in evaluated(run, who)]
    requests = [(model, model.chat([Message("user", prompt)], Sampling(12))) for model, prompt, _, _ in pairs]
    for number, piece in together(requests):
        answers[number] = answers.get(number, "") + piece.text
    for number, (_, prompt, run, who) in enumerate(pairs):
        assert answers[number].strip() == evaluated(run, who)[prompt]


def test_requests_join_and_leave_a_batch_at_any_time(lora_runs):
    model = ftp.load(lora_runs.one)
    decoder = Decoder(model.tuned.decoder.model, most_rows=3)
    prompts = [f"Double {n}{', please' * (n % 4)}." for n in range(9)]
    alone = [model.answer(prompt, max_new_tokens=4 + 3 * at) for at, prompt in enumerate(prompts)]
    rows, texts = [], {}

    def step():
        assert decoder.running <= 3
        for row, piece in decoder.step():
            texts[id(row)] = texts.get(id(row), "") + piece.text

    for at, prompt in enumerate(prompts):
        rows.append(decoder.add(model.tuned.chat([Message("user", prompt)], Sampling(4 + 3 * at))))
        step()
    rows[7].cancelled = True
    while decoder.running or decoder.waiting:
        step()
    for at, row in enumerate(rows):
        assert at == 7 or texts[id(row)].strip() == alone[at]
