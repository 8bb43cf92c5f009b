"""A base in 8 bits: nearer to the plain weights than 4 bits, trained on, saved, restored and dequantised."""

import pytest
from test_adapters import applied, loaded_for, logits, saved_and_restored, shake
from test_checkpoints import Killed, curve, same_weights, train

from ftp.stages.load_trained import in_form
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.qlora import QLoRA

INT8 = {"r": 4, "scheme": "int8", "compute_dtype": "float32"}


def test_eight_bits_lose_less_than_four(ftp_tiny_model):
    exact = logits(loaded_for(LoRA(), ftp_tiny_model, dtype="float32"))
    errors = {}
    for scheme in ("int8", "nf4"):
        loaded = loaded_for(QLoRA(r=4, scheme=scheme, compute_dtype="float32"), ftp_tiny_model)
        errors[scheme] = float((logits(loaded) - exact).norm())
    assert 0 < errors["int8"] < 0.5 * errors["nf4"]


def test_a_saved_adapter_on_8_bits_is_the_trained_model(ftp_tiny_model, tmp_path):
    adapter = QLoRA(**INT8)
    loaded = applied(adapter, ftp_tiny_model)
    before = logits(loaded)
    losses = shake(loaded)
    assert losses is None or losses[-1] < losses[0]
    trained = logits(loaded)
    assert (trained - before).abs().max() > 1e-3
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, ftp_tiny_model), tmp_path)
    assert (logits(again) == trained).all()


def test_dequantised_it_is_nearly_the_same_model(ftp_tiny_model):
    base = loaded_for(QLoRA(**INT8), ftp_tiny_model)
    before = logits(base)
    plain = in_form(base, "plain")
    assert plain.request.quantization is None
    assert {type(module).__name__ for module in plain.model.modules()} & {"Linear8bitLt"} == set()
    assert (logits(plain) - before).abs().max() < 0.05  # inputs are no longer rounded to 8 bits


@pytest.mark.slow
def test_training_that_was_killed_is_the_same_as_without(ftp_tiny_model, tmp_path):
    whole, broken = [], []
    options = {"epochs": 1.2, "learning_rate": 5e-3}
    _, weights = train(ftp_tiny_model, tmp_path / "whole", QLoRA(**INT8), whole, **options)
    with pytest.raises(Killed):
        train(ftp_tiny_model, tmp_path / "broken", QLoRA(**INT8), broken, ("metric", 4), **options)
    _, again = train(ftp_tiny_model, tmp_path / "broken", QLoRA(**INT8), broken, **options)
    assert curve(broken, "metric") == curve(whole, "metric") and same_weights(again, weights)
    losses = list(curve(whole, "validation").values())
    assert losses[-1] < losses[0]
    [speed] = [event for event in whole if event["event"] == "speed"]
    assert "packed rows" in speed["on"] and not any("LoRA" in layer for layer in speed["on"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": "loftq"}, "init: loftq compensates for what 4 bits lose; remove it with `scheme: int8`"),
        ({"double_quantization": False}, "double_quantization: is for 4 bits; remove it with `scheme: int8`"),
    ],
)
def test_what_8_bits_do_not_read_is_refused(options, said):
    assert QLoRA(scheme="int8", **options).problems() == [said]


def test_the_lock_and_the_card_know_of_it(ftp_tiny_model, tmp_path):
    from trained_runs import train_run

    run = train_run(tmp_path, ftp_tiny_model, adapter={"use": "qlora", **INT8}, export=[{"use": "merged"}])
    card = (run / "README.md").read_text()
    assert "load_in_8bit" in card and "bnb_4bit" not in card
    assert (run / "exports" / "merged" / "model.safetensors").is_file()
