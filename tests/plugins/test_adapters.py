"""What trains, what is saved, and that base and saved adapter are the trained model again."""

import itertools
import json
import math

import pytest

import ftp
from ftp import ModelError
from ftp.lm.byte_level import ByteLevel
from ftp.records.answers import read_answers
from ftp.testing import assert_component_ok
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.peft import PEFT
from ftp_plugins.adapters.qlora import QLoRA
from ftp_plugins.loaders.huggingface import HuggingFace


def loaded_for(adapter, directory, **options):
    """The base as this adapter wants it."""
    loader = HuggingFace(id=str(directory), device="cpu", **options)
    return loader.load(adapter.prepare(loader.describe()))


def applied(adapter, directory, **options):
    import transformers

    assert adapter.problems() == []
    loaded = loaded_for(adapter, directory, **options)
    transformers.set_seed(1)
    return adapter.apply(loaded)


def logits(loaded, ids=None):
    import torch

    ids = torch.arange(30)[None] + 10 if ids is None else ids
    loaded.model.eval()
    with torch.no_grad():
        return loaded.model(input_ids=ids).logits.float()


def shake(loaded, ids=None, steps=4):
    """Train a little: a few large steps on whatever the adapter left trainable."""
    import torch

    ids = torch.arange(30)[None] + 10 if ids is None else ids
    parameters = [p for p in loaded.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    loaded.model.train()
    losses = []
    for _ in range(steps):
        loss = loaded.model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def saved_and_restored(adapter, loaded, base, directory):
    adapter.save(loaded, directory)
    return adapter.restore(base, directory)


def trained(loaded):
    return {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}


@pytest.fixture
def untied(ftp_tiny_model):
    return ftp_tiny_model


@pytest.fixture(scope="session")
def tied(ftp_tiny_model, tmp_path_factory):
    """The tiny model with its embeddings for an output head, and eight spare rows in them."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("tied")
    AutoTokenizer.from_pretrained(ftp_tiny_model).save_pretrained(directory)
    config = AutoConfig.from_pretrained(ftp_tiny_model)
    config.tie_word_embeddings = True
    config.vocab_size += 8
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("adapter", [Full, LoRA, QLoRA])
def test_the_adapters_keep_to_the_rules(adapter):
    assert_component_ok(adapter)


class Frozen(ftp.Adapter):
    """Freezes everything."""

    def apply(self, loaded):
        loaded.model.requires_grad_(False)
        return loaded


class Forgets(Frozen):
    """Returns nothing."""

    def apply(self, loaded):
        super().apply(loaded)


class NeedsAnother(Frozen):
    """Wants a layer that the model doesn't have."""

    def apply(self, loaded):
        raise KeyError("model.h.0")


class Refuses(Frozen):
    """Says that it can't."""

    def apply(self, loaded):
        raise ModelError("the model has no layer 'model.h.0'")


@pytest.mark.parametrize(
    ("adapter", "what"),
    [
        (Frozen, "Frozen: apply returned a model in which nothing trains"),
        (Forgets, "Forgets: apply has to return an ftp.LoadedModel"),
        (NeedsAnother, r"NeedsAnother: apply raised KeyError \('model.h.0'\)"),
    ],
)
def test_the_conformance_check_finds(adapter, what):
    with pytest.raises(AssertionError, match=what):
        assert_component_ok(adapter)
    assert_component_ok(Refuses)


STARTS = [
    {"init": "default"},
    {"init": "gaussian"},
    {"init": "pissa"},
    {"init": "pissa", "pissa_iterations": 4},
    {"init": "olora"},
]


@pytest.mark.thin(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("init", "dora", "rslora"), list(itertools.product(STARTS, (False, True), (False, True))))
def test_base_and_saved_adapter_are_the_trained_model(untied, tmp_path, init, dora, rslora, dtype):
    adapter = LoRA(r=4, dora=dora, rslora=rslora, **init)
    plain = logits(loaded_for(adapter, untied, dtype=dtype))
    loaded = applied(adapter, untied, dtype=dtype)
    # In bfloat16 the base weights less their principal part are rounded once more.
    near = 1e-5 if dtype == "float32" else 2e-2 * plain.abs().max().item()
    assert (logits(loaded) - plain).abs().max() < near, "no adapter changes the model before it has learnt"
    shake(loaded)
    before = logits(loaded)
    assert (before - plain).abs().max() > 5 * near

    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied, dtype=dtype), tmp_path)
    assert (logits(again) - before).abs().max() < near
    if init["init"] in ("default", "gaussian"):
        assert (logits(again) == before).all()


@pytest.mark.parametrize(
    ("init", "dora", "rslora"), list(itertools.product(("default", "loftq"), (False, True), (False, True)))
)
def test_a_saved_adapter_on_4_bits_is_the_trained_model(untied, tmp_path, init, dora, rslora):
    adapter = QLoRA(r=4, init=init, dora=dora, rslora=rslora)
    loaded = applied(adapter, untied)
    shake(loaded)
    before = logits(loaded)
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied), tmp_path)
    assert (logits(again) == before).all()


@pytest.mark.parametrize(("dora", "alpha"), [(False, 32), (True, 32), (False, 1)])
def test_loftq_brings_back_some_of_what_4_bits_lost(untied, dora, alpha):
    options = {"r": 16, "alpha": alpha, "compute_dtype": "float32"}
    exact = logits(loaded_for(LoRA(), untied, dtype="float32"))
    errors = [
        (logits(applied(QLoRA(init=init, dora=dora, **options), untied)) - exact).norm()
        for init in ("default", "loftq")
    ]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("kind", [{"init": "loftq"}, {"init": "default"}])
def test_dora_begins_where_the_adapter_without_it_begins(untied, kind):
    options = {"r": 16, "compute_dtype": "float32", **kind}
    without, begun = (logits(applied(QLoRA(dora=dora, **options), untied, dtype="float32")) for dora in (False, True))
    assert (without - begun).abs().max() < 1e-5


def test_pissa_trains_the_principal_part_and_saves_a_plain_adapter(untied, tmp_path):
    import peft
    import torch

    adapter = LoRA(r=4, alpha=8, init="pissa")
    weight = loaded_for(adapter, untied).model.model.layers[0].mlp.up_proj.weight.float()
    loaded = applied(adapter, untied)
    layer = loaded.model.base_model.model.model.layers[0].mlp.up_proj
    u, s, vh = torch.linalg.svd(weight)
    principal = (u[:, :4] * s[:4]) @ vh[:4]
    assert torch.allclose(layer.get_delta_weight("default"), principal, atol=1e-5)
    adapter.save(loaded, tmp_path)
    config = peft.LoraConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (8, 16, True)
    again = adapter.restore(loaded_for(adapter, untied), tmp_path)
    assert torch.allclose(
        again.model.base_model.model.model.layers[0].mlp.up_proj.get_delta_weight("default"),
        torch.zeros_like(weight),
        atol=1e-6,
    )


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_rank_that_the_weights_do_not_have_is_an_error(untied, init):
    with pytest.raises(ModelError, match=r"its rank is at most 32, so no adapter of rank 40.*lower adapter\.r"):
        applied(LoRA(r=40, init=init), untied)


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        (LoRA(init="loftq"), "use qlora, or init: pissa"),
        (QLoRA(init="pissa"), "4 bits can't hold"),
        (QLoRA(init="olora"), "use lora, or init: loftq"),
        (LoRA(pissa_iterations=4), "only to init: pissa"),
        (LoRA(experts=True, dropout=0.1), "can't have dropout"),
        (LoRA(experts=True, dora=True), "can't have dora"),
        (LoRA(experts=True, init="pissa"), "can't begin as pissa"),
        (QLoRA(experts=True, init="loftq"), "can't begin as loftq"),
        (LoRA(targets=["q_proj", "k_proj"], modules_to_save=["k_proj"]), "k_proj is among the targets too"),
    ],
)
def test_options_that_do_not_go_together(adapter, problem):
    [found] = adapter.problems()
    assert problem in found


# Layers.


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
@pytest.mark.parametrize(("layers", "numbers"), [("last 1", {1}), ([0], {0}), ([1, 0], {0, 1}), ("all", {0, 1})])
def test_only_the_chosen_layers_get_adapters(untied, tmp_path, targets, layers, numbers):
    adapter = LoRA(r=4, layers=layers, targets=targets)
    loaded = applied(adapter, untied)
    names = trained(loaded)
    assert {int(name.split("layers.")[1].split(".")[0]) for name in names} == numbers
    assert len(names) == 2 * len(numbers) * (7 if targets == "all-linear" else 2)
    shake(loaded)
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied), tmp_path)
    assert (logits(again) == logits(loaded)).all()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"layers": "last 1"}, {"model.embed_tokens", "lm_head", "model.norm", "model.layers.1"}),
        ({"layers": [0], "embeddings": False}, {"model.norm", "model.layers.0"}),
        ({"embeddings": False}, {"model.norm", "model.layers.0", "model.layers.1"}),
    ],
)
def test_full_training_of_some_layers_leaves_the_others_alone(untied, tmp_path, options, names):
    adapter = Full(**options)
    loaded = applied(adapter, untied)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    assert all(any(name.startswith(f"{part}.") for part in names) for name in trained(loaded))
    shake(loaded)
    changed = {name for name, p in loaded.model.named_parameters() if (p != before[name]).any()}
    assert changed == trained(loaded) and len(changed) > 1
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied), tmp_path)
    assert (logits(again) == logits(loaded)).all()


@pytest.mark.parametrize("kind", [LoRA, QLoRA, Full])
@pytest.mark.parametrize(
    ("layers", "message"),
    [("last 3", "layers: last 3: the model has 2 layers"), ([0, 2], "layers: 2: the model has 2 layers, 0 to 1")],
)
def test_layers_that_are_not_there_are_refused_before_loading(untied, kind, layers, message):
    with pytest.raises(ModelError, match=message):
        kind(layers=layers).prepare(HuggingFace(id=str(untied)).describe())


@pytest.mark.parametrize("layers", ["last", "last 0", "some", [], [-1]])
def test_layers_have_few_spellings(layers):
    with pytest.raises(ValueError, match="layers"):
        LoRA(layers=layers)


# Modules to save.


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", [LoRA, QLoRA])
@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"], ["norm"]])
@pytest.mark.parametrize("model", ["tied", "untied"])
def test_modules_that_train_whole_are_saved_and_restored(request, tmp_path, kind, modules, model):
    import torch

    directory = request.getfixturevalue(model)
    adapter = kind(r=4, modules_to_save=modules)
    loaded = applied(adapter, directory)
    whole = {name for name in trained(loaded) if "modules_to_save" in name}
    assert whole and all(loaded.model.get_parameter(name).dtype == torch.float32 for name in whole)
    base = {name: p.clone() for name, p in loaded.model.named_parameters() if not p.requires_grad}
    shake(loaded)
    assert all((loaded.model.get_parameter(name) == p).all() for name, p in base.items())
    embeddings, head = loaded.model.get_input_embeddings().weight, loaded.model.get_output_embeddings().weight
    assert (head is embeddings) == (model == "tied"), "tied stays tied"

    again = saved_and_restored(adapter, loaded, loaded_for(adapter, directory), tmp_path)
    assert (logits(again) == logits(loaded)).all()
    embeddings, head = again.model.get_input_embeddings().weight, again.model.get_output_embeddings().weight
    assert torch.equal(head, embeddings) == (model == "tied")


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (LoRA(modules_to_save=["lm_haed"]), r"has no module 'lm_haed'; did you mean 'lm_head'\?"),
        (LoRA(modules_to_save=["q_proj"]), "gets an adapter as one of all-linear"),
        (QLoRA(modules_to_save=["q_proj"], targets=["k_proj"]), "is quantised and can't be trained in full"),
        (LoRA(experts=True), "has no experts; remove `experts`"),
    ],
)
def test_modules_are_checked_before_loading(untied, adapter, message):
    with pytest.raises(ModelError, match=message):
        adapter.prepare(HuggingFace(id=str(untied)).describe())


# New tokens.

NEW = ["<|tool|>", "<|end_tool|>"]


def ids_of(loaded, text="keep <|tool|>secret<|end_tool|> now"):
    import torch

    return torch.tensor([loaded.tokenizer(text)["input_ids"]])


@pytest.mark.parametrize("model", ["tied", "untied"])
@pytest.mark.parametrize("kind", [LoRA, QLoRA, Full])
def test_rows_of_new_tokens_train_and_come_back(request, tmp_path, kind, model):
    import torch

    directory = request.getfixturevalue(model)
    adapter = kind() if kind is Full else kind(r=4)
    loaded = applied(adapter, directory, new_tokens=NEW)
    tokenizer = loaded.tokenizer
    assert tokenizer.convert_tokens_to_ids(NEW) == list(loaded.new_tokens) == [382, 383]
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    assert rows == (390 if model == "tied" else 384), "spare rows are used where there are some"
    ids = ids_of(loaded)
    assert set(loaded.new_tokens) < set(ids[0].tolist())
    text = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert "<|tool|>secret<|end_tool|>" in text, "the new tokens are seen in answers"

    embeddings = loaded.model.get_input_embeddings()
    begun = logits(loaded, ids)
    shake(loaded, ids)
    if kind is not Full:
        assert {math.prod(p.shape) for n, p in loaded.model.named_parameters() if "trainable_tokens_delta" in n} == {
            128
        }
        assert all(p.dtype == torch.float32 for p in loaded.model.parameters() if p.requires_grad)
        assert sum("trainable_tokens_delta" in name for name in trained(loaded)) == (1 if model == "tied" else 2)
        assert not embeddings.original_module.weight.requires_grad
    before = logits(loaded, ids)
    assert (before - begun).abs().max() > 1e-3

    base = loaded_for(adapter, directory, new_tokens=NEW)
    again = saved_and_restored(adapter, loaded, base, tmp_path)
    assert (logits(again, ids) == before).all()


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_new_tokens_and_modules_survive_the_way_back_to_a_plain_adapter(untied, tmp_path, init):
    adapter = LoRA(r=4, init=init, modules_to_save=["lm_head"])
    loaded = applied(adapter, untied, new_tokens=NEW)
    ids = ids_of(loaded)
    shake(loaded, ids)
    before = logits(loaded, ids)
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied, new_tokens=NEW), tmp_path)
    assert (logits(again, ids) - before).abs().max() < 1e-5


def test_the_saved_files_are_enough_for_plain_peft(untied, tmp_path):
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = LoRA(r=4, init="pissa")
    loaded = applied(adapter, untied, new_tokens=NEW, dtype="float32")
    ids = ids_of(loaded)
    shake(loaded, ids)
    adapter.save(loaded, tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(untied)
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert tokenizer("keep <|tool|>secret<|end_tool|> now")["input_ids"] == ids[0].tolist()
    assert (model(ids).logits - logits(loaded, ids)).abs().max() < 1e-5


def test_new_rows_begin_as_the_mean_of_the_used_ones(tied):
    import torch

    plain = loaded_for(LoRA(), tied, dtype="float32").model.get_input_embeddings().weight
    new = loaded_for(LoRA(), tied, dtype="float32", new_tokens=NEW).model.get_input_embeddings().weight
    assert torch.equal(new[:382], plain[:382]) and torch.equal(new[384:], plain[384:])
    assert torch.allclose(new[382:384], plain[:382].mean(0).expand(2, -1))


@pytest.mark.parametrize("text", ["keep <|tool|>it<|end_tool|>", "<|tool|><|tool|> é", "a<|end_tool|>\n", "<|tool|"])
def test_every_way_to_tokenise_knows_new_tokens(untied, text):
    tokenizer = HuggingFace(id=str(untied), new_tokens=NEW).load_tokenizer().tokenizer
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    [(ids, _)] = ByteLevel.of(tokenizer).encode([text], [[(0, len(text))]])
    assert ids == plain and tokenizer.decode(ids) == text
    assert sum(ids.count(id) for id in (382, 383)) == sum(text.count(token) for token in NEW)


@pytest.mark.parametrize("part", ["load", "load_tokenizer"])
def test_a_new_token_that_is_there_already_is_an_error(untied, part):
    loader = HuggingFace(id=str(untied), device="cpu", new_tokens=["<|tool|>", "<|im_end|>"])
    with pytest.raises(ModelError, match=r"new_tokens: '<\|im_end\|>' is in the vocabulary already, as 2; remove it"):
        loader.load(loader.describe()) if part == "load" else loader.load_tokenizer()


@pytest.mark.parametrize(("tokens", "what"), [(["<a>", "<a>"], "occurs twice"), ([" "], "more than white space")])
def test_new_tokens_are_checked(untied, tokens, what):
    with pytest.raises(ValueError, match=what):
        HuggingFace(id=str(untied), new_tokens=tokens)


def test_frozen_embeddings_and_new_tokens_do_not_go_together(untied):
    with pytest.raises(ModelError, match="new tokens learn nothing while the embeddings are frozen"):
        Full(embeddings=False).prepare(HuggingFace(id=str(untied), new_tokens=NEW).describe())


@pytest.mark.parametrize(
    ("adapter", "near"),
    [
        ({"use": "lora", "r": 4, "init": "pissa"}, 1e-4),
        ({"use": "qlora", "r": 4, "init": "loftq", "compute_dtype": "float32"}, 1e-4),
        ({"use": "full", "layers": "last 1"}, 0),
    ],
)
def test_an_interrupted_run_goes_on_with_the_saved_model(ftp, ftp_recipe, ftp_tiny_model, adapter, near):
    recipe = ftp_recipe(
        model={"id": str(ftp_tiny_model), "dtype": "float32", "new_tokens": ["doubled is"]},
        adapter=adapter,
        train={"learning_rate": 1e-3},
        evaluate=[{"use": "loss"}],
    )

    def losses():
        assert ftp("run", str(recipe)).code == 0
        [run] = recipe.parent.glob("runs/small/*")
        return run, read_answers(run / "answers" / "tuned-heldout.parquet")[1]

    run, before = losses()
    (run / "answers" / "tuned-heldout.parquet").unlink()
    stages = json.loads((run / "stages.json").read_text())
    (run / "stages.json").write_text(json.dumps({name: stages[name] for name in ("data", "base", "train")}))
    _, after = losses()
    assert [loss.nll for loss in after] == pytest.approx([loss.nll for loss in before], rel=near or 1e-12)


PEFT_METHODS = [
    ("IA3", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    ("VERA", {"target_modules": ["q_proj", "o_proj"], "r": 8}),
    ("OFT", {"target_modules": "all-linear", "oft_block_size": 8}),
    ("LOHA", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
    ("LOKR", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
    ("HRA", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
    ("FOURIERFT", {"target_modules": ["q_proj", "v_proj"], "n_frequency": 50}),
    ("RANDLORA", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
    ("MISS", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
    ("DELORA", {"target_modules": ["q_proj", "v_proj"], "r": 4}),
]


@pytest.mark.parametrize(("method", "config"), PEFT_METHODS, ids=[name for name, _ in PEFT_METHODS])
def test_a_method_of_peft_trains_is_restored_and_merges(untied, tmp_path, method, config):
    adapter = PEFT(method=method, config=config)
    plain = logits(loaded_for(adapter, untied, dtype="float32"))
    loaded = applied(adapter, untied, dtype="float32")
    few = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    assert 0 < few < 0.5 * sum(p.numel() for p in loaded.model.parameters())
    shake(loaded)
    before = logits(loaded)
    assert (before - plain).abs().max() > 1e-4
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied, dtype="float32"), tmp_path)
    assert (logits(again) - before).abs().max() < 1e-5
    merged = again.model.merge_and_unload()
    merged.eval()
    assert (merged(input_ids=torch_ids()).logits - before).abs().max() < 1e-3


def torch_ids():
    import torch

    return torch.arange(30)[None] + 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "IA3", "config": {"target_moduls": ["k_proj"]}}, "no option 'target_moduls'; did you mean"),
        ({"method": "LOHA", "config": {"target_modules": ["k_prj"]}}, "k_prj"),
        ({"method": "VERA", "config": {"target_modules": ["q_proj"], "r": 0}}, "PEFT refuses the configuration"),
    ],
)
def test_what_peft_would_not_take_is_refused(untied, options, message):
    adapter = PEFT(**options)
    with pytest.raises(ModelError, match=message):
        applied(adapter, untied)


def test_keys_of_peft_that_follow_from_the_recipe_are_refused():
    assert PEFT(method="IA3", config={"task_type": "SEQ_CLS"}).problems() == [
        "config.task_type: follows from the recipe; remove it"
    ]


def test_targets_by_a_regular_expression_get_the_adapters(untied):
    loaded = applied(LoRA(r=4, targets=r".*layers\.1\.self_attn\.[qv]_proj"), untied)
    paths = {name.split(".lora_")[0] for name in trained(loaded)}
    assert paths == {f"base_model.model.model.layers.1.self_attn.{name}" for name in ("q_proj", "v_proj")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": r".*\.q_prj"}, "matches no layer's whole path"),
        ({"targets": r".*self_attn"}, "is matched and is not a linear layer"),
        ({"targets": r"(lm_head)"}, "is the output head"),
        ({"rank_pattern": {"up_prj": 8}}, "rank_pattern: no adapted layer takes 'up_prj'"),
        ({"targets": ["q_proj"], "alpha_pattern": {"up_proj": 8}}, "alpha_pattern: no adapted layer takes 'up_proj'"),
        ({"rank_pattern": {"up_proj": 10**6}}, "adapter.rank_pattern.up_proj: 1,000,000 is more than the widest"),
    ],
)
def test_a_pattern_that_nothing_takes_is_refused(untied, options, message):
    with pytest.raises(ModelError, match=message):
        applied(LoRA(**options), untied)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (
            LoRA(targets="all_linear"),
            "targets: 'all_linear' is no layer's whole path; write all-linear, or a list",
        ),
        (LoRA(targets="(q_proj"), "targets: '(q_proj' is not a regular expression"),
        (LoRA(rank_pattern={"*": 2}), "rank_pattern: '*' is not a regular expression"),
        (LoRA(targets=".*q_proj", layers="last 1"), "layers: applies to targets given by name"),
        (Full(parameters=["("]), "parameters: '(' is not a regular expression"),
        (Full(parameters=["norm"], layers="last 1"), "parameters: chooses everything that trains"),
    ],
)
def test_patterns_are_checked_with_the_recipe(adapter, message):
    assert message in adapter.problems()[0]


@pytest.mark.parametrize("init", ["default", "pissa"])
def test_single_layers_have_ranks_and_scales_of_their_own(untied, tmp_path, init):
    adapter = LoRA(r=4, alpha=8, init=init, rank_pattern={"q_proj": 2}, alpha_pattern={r"layers\.0\..*v_proj": 16})
    loaded = applied(adapter, untied, dtype="float32")
    layer = loaded.model.base_model.model.model.layers[0].self_attn
    assert (layer.q_proj.r["default"], layer.k_proj.r["default"]) == (2, 4)
    assert (layer.q_proj.scaling["default"], layer.v_proj.scaling["default"]) == (4, 4)
    shake(loaded)
    before = logits(loaded)
    again = saved_and_restored(adapter, loaded, loaded_for(adapter, untied, dtype="float32"), tmp_path)
    assert (logits(again) - before).abs().max() < 1e-5


def test_only_parameters_that_a_pattern_is_found_in_train(untied):
    loaded = applied(Full(parameters=["norm", r"layers\.1\..*down_proj"]), untied)
    assert trained(loaded) == {
        *(f"model.layers.{n}.{kind}_layernorm.weight" for n in (0, 1) for kind in ("input", "post_attention")),
        "model.norm.weight",
        "model.layers.1.mlp.down_proj.weight",
    }
    with pytest.raises(ModelError, match=r"parameters: 'nrm' is found in no name, such as lm_head.weight"):
        applied(Full(parameters=["nrm"]), untied)
