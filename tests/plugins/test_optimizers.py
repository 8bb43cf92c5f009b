"""The optimizers: each trains, resumes exactly, and takes the memory that the plan says."""

import typing

import pytest
import torch
from test_checkpoints import Killed, curve, same_weights, train

import ftp
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.trainers.optimizers import Optimizer, OptimizerName, optimizer_named
from ftp_plugins.trainers.torch_optimizers import make_optimizer, parameter_groups, state_bytes

NAMES = typing.get_args(OptimizerName)
QUICK = {"epochs": 1.2, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0, "precision": "float32"}
"""Four steps; validations at 0, 3 and 4."""


@pytest.fixture(scope="module")
def adamw(ftp_tiny_model, tmp_path_factory):
    """The weights that AdamW makes in these steps."""
    return train(ftp_tiny_model, tmp_path_factory.mktemp("adamw"), Full(), [], **QUICK)[1]


PAGED = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name.startswith("paged")]


@pytest.mark.thin(3)
@pytest.mark.parametrize("name", [*(name for name in NAMES if not name.startswith("paged")), *PAGED])
def test_training_that_was_killed_is_the_same_as_without(ftp_tiny_model, tmp_path, adamw, name):
    whole, broken = [], []
    options = {**QUICK, "optimizer": name, "weight_decay": 0.1}
    _, weights = train(ftp_tiny_model, tmp_path / "whole", Full(), whole, **options)
    with pytest.raises(Killed):
        train(ftp_tiny_model, tmp_path / "broken", Full(), broken, ("checkpoint", 3), **options)
    _, again = train(ftp_tiny_model, tmp_path / "broken", Full(), broken, **options)
    assert [event["step"] for event in broken if event["event"] == "resume"] == [3]
    assert curve(broken, "metric") == curve(whole, "metric")
    assert same_weights(again, weights)
    losses = list(curve(whole, "validation").values())
    assert losses[-1] < losses[0], "it learns"
    assert not same_weights(weights, adamw), "it is not plain AdamW without weight decay"


def stepped(model, options, steps=1, rate=1e-2, weight_decay=0.0):
    """Return an optimizer of a model after some steps on gradients of its own."""
    decaying = {name for name, weight in model.named_parameters() if weight.ndim > 1}
    groups = parameter_groups(model, decaying, rate, weight_decay, None)
    optimizer = make_optimizer(options, model, groups, rate)
    for step in range(steps):
        torch.manual_seed(step)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    return optimizer


@pytest.fixture
def model(ftp_tiny_model):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(ftp_tiny_model, dtype=torch.float32)


@pytest.mark.parametrize("options", [*map(optimizer_named, NAMES), Optimizer(name="sgd", momentum=0.9)], ids=repr)
def test_memory_of_the_state_is_as_planned(model, options):
    optimizer = stepped(model, options)
    kept = ("qmap1", "qmap2", "step", "RMS")  # shared by all tensors, or a number each
    values = [
        value
        for state in optimizer.state.values()
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and key not in kept
    ]
    assert sum(value.numel() * value.element_size() for value in values) == state_bytes(options, model)


def test_settings_are_the_librarys(model):
    weights = [weight.detach().clone() for weight in model.parameters()]
    stepped(model, Optimizer(name="adamw", betas=(0.8, 0.9), eps=1e-3), steps=3)
    ours = [weight.detach().clone() for weight in model.parameters()]
    with torch.no_grad():
        for weight, before in zip(model.parameters(), weights, strict=True):
            weight.copy_(before)
    theirs = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.0)
    for step in range(3):
        torch.manual_seed(step)
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        theirs.step()
    for one, other in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach())


def test_muon_takes_the_matrices_of_hidden_layers_and_adamw_the_rest(model):
    optimizer = stepped(model, Optimizer(name="muon"))
    names = {id(weight): name for name, weight in model.named_parameters()}
    of_muon = {names[id(weight)] for weight, state in optimizer.state.items() if "momentum_buffer" in state}
    hidden = {name for name, weight in model.named_parameters() if weight.ndim == 2 and "layers." in name}
    assert of_muon == hidden
    assert {names[id(weight)] for weight in optimizer.state} == set(names.values())


def test_norms_and_biases_have_no_weight_decay(ftp_tiny_model, tmp_path):
    found = []
    for name, decay in (("without", 0.0), ("with", 0.5)):
        options = {**QUICK, "max_steps": 1, "epochs": 3, "weight_decay": decay}
        found.append(train(ftp_tiny_model, tmp_path / name, Full(), [], **options)[1])
    without, decayed = found
    norms = [name for name in without if "norm" in name]
    assert norms and all(torch.equal(without[name], decayed[name]) for name in norms)
    matrices = [name for name in without if name.endswith("proj.weight")]
    assert matrices and all(decayed[name].norm() < without[name].norm() for name in matrices)


def test_lora_plus_gives_b_a_rate_of_its_own(ftp_tiny_model, tmp_path):
    moved = {}
    for ratio in (None, 16.0):
        options = {**QUICK, "max_steps": 1, "epochs": 3, "loraplus_lr_ratio": ratio}
        weights = train(ftp_tiny_model, tmp_path / str(ratio), LoRA(r=4), events := [], **options)[1]
        # AdamW's first step is as large as the rate, and B begins at 0.
        moved[ratio] = max(float(weight.abs().max()) for name, weight in weights.items() if ".lora_B." in name)
        assert curve(events, "metric", "learning_rate")[1] == pytest.approx(1e-3)
    assert moved[None] == pytest.approx(1e-3, rel=1e-3)
    assert moved[16.0] == pytest.approx(16e-3, rel=1e-3)


def test_rates_of_groups_survive_a_roll_back_and_a_kill(ftp_tiny_model, tmp_path):
    whole, broken, back = [], [], ftp.RollBack("up", factor=0.5)
    options = {"loraplus_lr_ratio": 8.0}
    _, weights = train(ftp_tiny_model, tmp_path / "a", LoRA(r=4), whole, answers={("metric", 5): back}, **options)
    with pytest.raises(Killed):
        answers = {("metric", 5): back}
        train(ftp_tiny_model, tmp_path / "b", LoRA(r=4), broken, ("metric", 7), answers, **options)
    _, again = train(ftp_tiny_model, tmp_path / "b", LoRA(r=4), broken, **options)
    assert curve(broken, "metric") == curve(whole, "metric")
    assert same_weights(again, weights)
    [state] = (tmp_path / "b" / "checkpoints").glob("step-*/optimizer.pt")
    plain, _, second, _ = (group["initial_lr"] for group in torch.load(state, weights_only=True)["param_groups"])
    assert plain == pytest.approx(1e-3) and second == pytest.approx(8e-3)


def test_lora_plus_needs_factors(ftp_tiny_model, tmp_path):
    with pytest.raises(ftp.ModelError, match="no low-rank factors"):
        train(ftp_tiny_model, tmp_path, Full(), [], loraplus_lr_ratio=16.0)


def test_paged_on_a_cpu_is_noted(ftp_tiny_model, tmp_path):
    train(ftp_tiny_model, tmp_path, LoRA(r=4), events := [], **{**QUICK, "optimizer": "paged_adamw_8bit"})
    [note] = [event["text"] for event in events if event["event"] == "note"]
    assert note == "paged_adamw_8bit: on a CPU there is nothing to page; it trains as adamw_8bit."
