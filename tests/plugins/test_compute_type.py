"""The type that multiplies is measured, written down, and a matter of rounding only."""

from types import SimpleNamespace

import psutil
import pytest
import torch
from test_training import job_of, metrics

import ftp.lm.torch_types as types
from ftp.cli.show import products_line
from ftp.lm import processor
from ftp.lm.processor import TYPES, emulates, fastest, measured_speeds, note_speeds, trains_on_it
from ftp.lm.rendering import Tokens
from ftp.lm.torch_bfloat16 import Bfloat16Linear
from ftp.lm.torch_losses import token_losses
from ftp.lm.torch_merge import merged
from ftp.lm.torch_products import type_to_multiply_in
from ftp.stages.load_model import load_base_model
from ftp.types import Quantization
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.qlora import QLoRA
from ftp_plugins.loaders.huggingface import HuggingFace
from ftp_plugins.trainers.sft import SFT

SPEEDS = {"float32": {"float32": 300.0, "bfloat16": 160.0}, "bfloat16": {"float32": 170.0, "bfloat16": 400.0}}


@pytest.fixture
def machine(monkeypatch):
    """Make the measurement come out for one type."""

    def of(kind):
        monkeypatch.setattr(types, "type_to_multiply_in", lambda device, shapes=(): (kind, SPEEDS[kind]))

    return of


def load(directory, adapter, recorded=None, **options):
    import transformers

    notes = []
    loader = HuggingFace(id=str(directory), device="cpu", **options)
    loaded = load_base_model(loader, adapter, notes.append, recorded)
    transformers.set_seed(1)
    return adapter.apply(loaded), notes


def test_both_types_are_measured_once():
    kind, speeds = type_to_multiply_in("cpu", {(64, 32), (96, 64)})
    assert kind == fastest(speeds) in TYPES and min(speeds.values()) > 0
    assert type_to_multiply_in("cpu", {(64, 96)})[1] is speeds, "as wide as the narrowest that is measured"


def test_float32_has_to_be_clearly_ahead():
    assert fastest({"float32": 110, "bfloat16": 100}) == "bfloat16"
    assert fastest({"float32": 120, "bfloat16": 100}) == "float32"


@pytest.mark.parametrize("adapter", [LoRA(r=4), QLoRA(r=4), Full()], ids=lambda adapter: type(adapter).__name__)
def test_either_type_trains_to_the_same_losses(ftp_tiny_model, tmp_path, machine, adapter):
    losses = {}
    for kind in TYPES:
        machine(kind)
        loaded, notes = load(ftp_tiny_model, adapter)
        assert not notes and loaded.request.compute == kind
        assert loaded.request.dtype == ("float32" if adapter == Full() else kind)
        job, events = job_of(loaded, tmp_path / kind)
        SFT(epochs=4, learning_rate=5e-3, batch_size=4).train(job)
        [speed] = [values for name, values in events if name == "speed"]
        assert speed["why_not"] is None and speed["multiplies_in"] == kind and speed["gflops"] == SPEEDS[kind]
        assert f"computed in {kind} (measured: float32" in products_line(speed)
        losses[kind] = metrics(events) + metrics(events, "validation")
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.02)
    assert losses["float32"] != losses["bfloat16"]
    assert losses["float32"][-1] < losses["float32"][0] - 0.05


def test_the_recorded_types_are_used_and_nothing_is_measured(ftp_tiny_model, machine, monkeypatch):
    machine("float32")
    recorded = {"dtype": "bfloat16", "compute": "bfloat16", "device": "cpu", "quantization": None}
    assert load(ftp_tiny_model, LoRA(r=4), recorded)[0].request.dtype == "bfloat16"
    packed = {**recorded, "quantization": {"compute_dtype": "bfloat16"}}
    quantization = load(ftp_tiny_model, QLoRA(r=4), packed)[0].request.quantization
    assert quantization == Quantization("nf4", True, "bfloat16")
    # What the recipe says is not the machine's to choose.
    assert load(ftp_tiny_model, LoRA(r=4), recorded, dtype="float32")[0].request.dtype == "float32"
    assert load(ftp_tiny_model, LoRA(r=4), recorded)[0].gflops == {}


def test_a_slower_type_that_a_recipe_asks_for_is_reported_with_the_ratio(ftp_tiny_model, machine):
    machine("float32")
    loaded, [note] = load(ftp_tiny_model, LoRA(r=4), dtype="bfloat16")
    assert loaded.request.dtype == "bfloat16" and "1.9 times as fast in float32" in note
    _, [note] = load(ftp_tiny_model, QLoRA(r=4, compute_dtype="bfloat16"))
    assert "1.9 times as fast in float32" in note
    machine("bfloat16")
    assert load(ftp_tiny_model, LoRA(r=4), dtype="bfloat16")[1] == []


def test_float32_weights_have_to_fit(ftp_tiny_model, machine, monkeypatch):
    machine("float32")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    loaded, [note] = load(ftp_tiny_model, LoRA(r=4))
    assert loaded.request.dtype == "bfloat16" and "more than half of the free memory" in note


@pytest.fixture(scope="module")
def rounded_model(ftp_tiny_model, tmp_path_factory):
    """The tiny model with weights that are numbers of bfloat16, stored as such."""
    directory = tmp_path_factory.mktemp("rounded")
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu", dtype="bfloat16")
    loaded = loader.load(loader.describe())
    loaded.model.save_pretrained(directory)
    loaded.tokenizer.save_pretrained(directory)
    return directory


def held(model):
    return [module for module in model.modules() if isinstance(module, Bfloat16Linear)]


class Changing(LoRA):
    """An adapter that doesn't say that the weights stay as they are."""

    def prepare(self, request):
        return request


def trained(loaded, directory, **options):
    job, events = job_of(loaded, directory)
    SFT(epochs=2, learning_rate=5e-3, batch_size=4, **options).train(job)
    return metrics(events) + metrics(events, "validation")


@pytest.mark.parametrize("options", [{}, {"speed": "off"}, {"gradient_checkpointing": True}], ids=str)
@pytest.mark.parametrize("adapter", [{}, {"dropout": 0.1}], ids=["plain", "dropout"])
def test_weights_held_in_bfloat16_give_the_numbers_of_float32(rounded_model, tmp_path, machine, adapter, options):
    machine("float32")
    loaded, _ = load(rounded_model, LoRA(r=4, **adapter))
    plain, _ = load(rounded_model, Changing(r=4, **adapter))
    assert len(held(loaded.model)) == 14 and not held(plain.model)
    assert {weight.dtype for layer in held(loaded.model) for weight in layer.parameters()} == {torch.bfloat16}
    others = set(loaded.model.parameters()) - {layer.weight for layer in held(loaded.model)}
    assert {weight.dtype for weight in others} == {loaded.model.dtype} == {torch.float32}
    assert trained(loaded, tmp_path / "held", **options) == trained(plain, tmp_path / "plain", **options)
    rows = [Tokens([5, 6, 7, 8], [False, True, True, True])]
    assert token_losses(loaded, rows)[0].nll == token_losses(plain, rows)[0].nll
    ours, theirs = (dict(merged(model).named_parameters()) for model in (loaded, plain))
    assert all(torch.equal(weight, ours[name]) for name, weight in theirs.items()), "merged in float32"


def test_answers_unpack_held_weights_once(rounded_model, machine, monkeypatch):
    from ftp.lm.decoding.torch_wide import wide_forwards
    from ftp.lm.torch_decode import answer_all
    from ftp.options import AnswerOptions

    machine("float32")
    loaded, _ = load(rounded_model, LoRA(r=4))
    plain, _ = load(rounded_model, Changing(r=4))
    prompts, options = [[5, 6, 7, 8], [9, 10, 11]], AnswerOptions(max_new_tokens=9)
    ours, theirs = ([row.new for row in answer_all(model.model, prompts, [1], options)] for model in (loaded, plain))
    assert ours == theirs and len(ours[0]) > 1
    assert set(wide_forwards(loaded.model, most_rows=1)) == set(held(loaded.model)) and not wide_forwards(
        plain.model, 1
    )
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert not wide_forwards(loaded.model, most_rows=1), "no room for copies"


def test_weights_that_bfloat16_would_round_stay_in_float32(ftp_tiny_model, machine):
    machine("float32")
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu")
    exact = [
        torch.equal(module.weight.bfloat16().float(), module.weight)
        for name, module in loader.load(loader.describe()).model.named_modules()
        if type(module) is torch.nn.Linear and "lm_head" not in name
    ]
    loaded, _ = load(ftp_tiny_model, LoRA(r=4))
    assert loaded.model.dtype == torch.float32 and len(held(loaded.model)) == sum(exact)


@pytest.mark.parametrize("options", [{"dora": True}, {"init": "pissa"}, {"modules_to_save": ["embed_tokens"]}], ids=str)
def test_weights_that_an_adapter_changes_are_not_held(rounded_model, machine, options):
    machine("float32")
    loaded, _ = load(rounded_model, LoRA(r=4, **options))
    assert loaded.model.dtype == torch.float32 and not held(loaded.model)


def test_weights_too_large_for_float32_are_held_and_multiplied_in_it(rounded_model, machine, monkeypatch):
    machine("float32")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    loaded, notes = load(rounded_model, LoRA(r=4))
    assert loaded.request.dtype == "float32" and len(held(loaded.model)) == 14 and not notes


def test_check_warns_of_an_emulated_type(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("processor : 0\nflags : fpu avx2 avx512f\n")
    new.write_text("processor : 0\nflags : fpu avx512f avx512_bf16\n")
    assert emulates("bfloat16", old) and not emulates("bfloat16", new) and not emulates("bfloat16", tmp_path / "none")
    assert emulates("float16", new) and not emulates("float32", old) and not emulates("auto", old)
    assert trains_on_it("cpu") and not trains_on_it("cuda:0")


@pytest.mark.parametrize("kind", TYPES)
def test_check_warns_of_a_slower_type_with_the_measured_ratio(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path))
    assert measured_speeds() == {}
    note_speeds(SPEEDS[kind])
    assert measured_speeds() == SPEEDS[kind]
    loader = HuggingFace(id="someone/model", device="cpu", dtype="bfloat16")
    recipe = SimpleNamespace(model=loader)
    found = [*loader.warnings(recipe), *QLoRA(compute_dtype="bfloat16").warnings(recipe)]
    if kind == "bfloat16":
        assert found == []
    else:
        assert [text.partition(":")[0] for text in found] == ["dtype", "compute_dtype"]
        assert all("float32 1.9 times as fast as bfloat16 (float32 300 GFLOP/s" in text for text in found)
    assert not HuggingFace(id="someone/model", device="cpu").warnings(recipe)
    assert not HuggingFace(id="someone/model", device="cuda", dtype="bfloat16").warnings(recipe)
    monkeypatch.setattr(processor, "measured_speeds", dict)  # none yet: its instructions count
    monkeypatch.setattr(processor, "emulates", lambda dtype: dtype == "bfloat16")
    assert "emulated and several times slower" in loader.warnings(recipe)[0]


def test_measuring_is_remembered_for_check(monkeypatch, tmp_path):
    from ftp.lm.torch_products import product_speeds

    monkeypatch.setenv("FTP_CACHE", str(tmp_path))
    speeds = product_speeds.__wrapped__(512, 512, torch.get_num_threads())
    assert measured_speeds() == pytest.approx(speeds)
