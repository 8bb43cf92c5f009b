"""`ftp plan --devices`: whether a recipe fits elsewhere, and its speed beside published figures."""

import json
import shutil

import pytest

from ftp.errors import LaunchError
from ftp.types import LoadedModel, ModelRequest
from ftp_plugins.commands.plan.arithmetic import (
    Load,
    activation_bytes,
    flops_per_token,
    memory_on,
    rows_at_once,
    tokens_per_second,
    utilisation,
)
from ftp_plugins.commands.plan.devices import DEVICES, parse_devices

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}
LLAMA_8B = {**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
LLAMA_8B |= {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False}
LLAMA_3B = {**LLAMA_8B, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28}
LLAMA_3B |= {"num_attention_heads": 24, "head_dim": 128, "tie_word_embeddings": True}
QWEN_7B = {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
QWEN_7B |= {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False}
LLAMA_70B = {**LLAMA_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
LLAMA_70B |= {"num_attention_heads": 64}


def shape(config, adapter):
    """The shape of a model by its configuration alone, with an adapter, as it would be on a GPU."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ftp_plugins.adapters.full import Full
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.adapters.qlora import QLoRA
    from ftp_plugins.commands.plan.torch_shape import shape_of

    adapted = {"lora": LoRA(r=8), "qlora": QLoRA(r=8), "full": Full()}[adapter]
    request = adapted.prepare(ModelRequest("a", linear_modules=frozenset(("q_proj", "k_proj"))))
    dtype = torch.float32 if request.dtype == "float32" else torch.bfloat16
    values = dict(config)
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values), dtype=dtype)
    return shape_of(adapted.apply(LoadedModel(made, None, "a", "", request)))


def load(length=4096, rows=1, **more):
    values = {"lengths": [length] * 64, "trained_share": 1.0, "rows_of_a_step": rows, "rows_at_once": 1, "epochs": 1.0}
    return Load(**{**values, "checkpointing": False, **more})


PUBLISHED = [
    ("NeMo AutoModel, Llama-3 8B LoRA", LLAMA_8B, "lora", "H100", 1, 4096, 12_473),
    ("NeMo AutoModel, Qwen2.5-7B LoRA", QWEN_7B, "lora", "H100", 1, 4096, 14_110),
    ("torchtitan, Llama-3.1-8B", LLAMA_8B, "full", "H100", 8, 8192, 5_762),
    ("torchtitan, compiled", LLAMA_8B, "full", "H100", 8, 8192, 6_667),
    ("torchtune, Llama-3.2-3B packed", LLAMA_3B, "full", "A100-80GB", 1, 4096, 7_075),
]
"""Tokens per second of each device."""


@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: case[0])
def test_published_speeds_lie_within_the_range(case):
    _, config, adapter, device, count, length, published = case
    _, kind = parse_devices(device)
    model, rows = shape(config, adapter), load(length, rows=count * 4)
    shares = utilisation(model, measured_peak=False)
    low, middle, high = (speed / count for speed in tokens_per_second(model, rows, count, kind, shares))
    assert low < published < high
    assert published == pytest.approx(middle, rel=0.35)


def test_operations_are_6n_for_full_training_and_4n_for_lora():
    full, lora = shape(LLAMA_8B, "full"), shape(LLAMA_8B, "lora")
    assert full.parameters == pytest.approx(8.03e9, rel=0.01) and full.trainable == full.parameters
    n = full.active_linear + full.head
    assert n == pytest.approx(7.5e9, rel=0.01)
    short = load(length=1)
    assert flops_per_token(full, short) == pytest.approx(6 * n, rel=0.001)
    assert flops_per_token(lora, short) == pytest.approx(4 * n + 6 * lora.trainable, rel=0.01)
    again = load(length=1, checkpointing=True)
    assert flops_per_token(full, again) == pytest.approx(8 * n, rel=0.001)
    attention = flops_per_token(full, load(length=4096)) - flops_per_token(full, short)
    assert attention == pytest.approx(6 * 32 * 4096 * 4095, rel=0.01)


def test_what_has_to_be_sharded():
    """Adam in float32 takes 16 bytes a weight: 8B don't fit on 80 GB, a sixteenth of 70B does with its share."""
    full = shape(LLAMA_8B, "full")
    ddp = memory_on(full, load(1024), 8, "ddp")
    assert ddp.weights + ddp.gradients + ddp.optimizer == pytest.approx(16 * 8.03, rel=0.01)
    sharded = memory_on(full, load(1024), 8, "fsdp2")
    assert sharded.optimizer == pytest.approx(ddp.optimizer / 8)
    assert sharded.total < 78 < ddp.total
    big = shape(LLAMA_70B, "qlora")
    assert memory_on(big, load(1024), 1, "ddp").weights == pytest.approx(
        39.4, rel=0.03
    )  # 69 GB of 4-bit, 2 of embeddings
    assert memory_on(shape(LLAMA_70B, "lora"), load(1024), 1, "ddp").weights == pytest.approx(141, rel=0.01)


def test_activations_shrink_with_checkpointing_and_grow_with_rows():
    model = shape(LLAMA_8B, "lora")
    one = activation_bytes(model, load(1024, trained_share=0.0))
    assert one == pytest.approx(1024 * 5.0e6, rel=0.05)  # 5 MB a token
    assert activation_bytes(model, load(1024, trained_share=0.0, rows_at_once=4)) == pytest.approx(4 * one)
    assert activation_bytes(model, load(1024, trained_share=0.0, checkpointing=True)) < one / 8


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [("8xH100", 8, "H100"), ("RTX 4090", 1, "RTX 4090"), ("2 x rtx4090", 2, "RTX 4090"), ("16xA100", 16, "A100-80GB"),
     ("a100-40gb", 1, "A100-40GB"), ("4*B200", 4, "B200"), ("1xl40s", 1, "L40S"), ("h200", 1, "H200")],
)  # fmt: skip
def test_devices_by_their_names(text, count, name):
    found, device = parse_devices(text)
    assert (found, device.name) == (count, name)


def test_processors_and_unknown_devices():
    assert parse_devices("4xCPU") == (4, None)
    with pytest.raises(LaunchError, match=r"as in 8xH100; did you mean 'H100'\?"):
        parse_devices("8xH10")
    with pytest.raises(LaunchError):
        parse_devices("0xH100")
    assert {device.name for device in DEVICES} >= {"H100", "H200", "B200", "A100-80GB", "A100-40GB", "L40S", "RTX 4090"}


def test_rows_of_a_step_are_dealt_to_the_devices():
    assert rows_at_once(8, 1, 1) == 8 and rows_at_once(8, 1, 8) == 1
    assert rows_at_once(8, 4, 2) == 8, "a process takes up to batch_size rows at once"


@pytest.fixture
def planned(ftp, ftp_recipe, ftp_tiny_model, tmp_path):
    """`ftp plan --devices` for a model of which there is only the configuration."""
    model = tmp_path / "llama"
    shutil.copytree(ftp_tiny_model, model)
    for weights in model.glob("*.safetensors*"):
        weights.unlink()
    (model / "config.json").write_text(json.dumps(LLAMA_8B))

    def plan(devices, *arguments, **overrides):
        return ftp("plan", str(ftp_recipe(model={"id": str(model)}, **overrides)), "--devices", devices, *arguments)

    return plan


def test_a_recipe_that_fits(planned):
    outcome = planned("8xH100", "--json", train={"epochs": 2, "batch_size": 16})
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["fits"] == "ddp" and found["memory_gb"]["weights"] == pytest.approx(16.1, rel=0.02)
    assert found["memory_gb"]["total"] < found["devices"]["memory_gb"]
    low, middle, high = found["tokens_per_second"]
    assert low < middle < high and found["seconds"] == sorted(found["seconds"])
    assert found["rows_at_once"] == 2
    outcome = planned("8xH100", "--json", train={"max_steps": 1, "batch_size": 16, "epochs": 3})
    assert outcome.code == 0, outcome.err
    fewer = json.loads(outcome.out)
    assert 0 < fewer["tokens"] < 3 * found["tokens"]


def test_in_words(planned):
    outcome = planned("8xH100", adapter={"use": "full"}, train={"batch_size": 16})
    assert outcome.code == 0, outcome.err
    names = [line.split("  ")[0] for line in outcome.out.splitlines() if line[0] != " "]
    assert names == ["devices", "parameters", "memory", "fits", "speed", "time", "how sure"]
    assert "not whole: needs sharded weights (FSDP2), which FTP doesn't do yet" in outcome.out


def test_what_fits_nowhere_and_devices_with_nothing_to_do(planned):
    outcome = planned("RTX 4090", adapter={"use": "full"})
    assert "fits        " in outcome.out and "offload" in outcome.out
    outcome = planned("64xH100", train={"batch_size": 8})
    assert "56 devices have nothing to do" in outcome.out


def test_processors_are_measured(ftp, ftp_recipe, ftp_tiny_model):
    outcome = ftp("plan", str(ftp_recipe(model={"id": str(ftp_tiny_model)})), "--devices", "2xCPU")
    assert outcome.code == 0, outcome.err
    assert (
        "2 x CPU" in outcome.out and "measured here in float32" in outcome.out and "yes, whole on each" in outcome.out
    )


@pytest.mark.parametrize("adapter", ["lora", "qlora", "full"])
def test_numbers_of_weights_are_those_of_the_run(ftp, ftp_recipe, ftp_tiny_model, adapter):
    file = str(ftp_recipe(model={"id": str(ftp_tiny_model)}, adapter={"use": adapter}, train={"epochs": 2}))
    there, here = (json.loads(ftp("plan", file, *more, "--json").out) for more in (("--devices", "H100"), ()))
    assert there["trainable_parameters"] == here["trainable_parameters"]
    assert there["parameters"] == here["total_parameters"]
    assert there["tokens"] == 2 * here["tokens_per_epoch"]
