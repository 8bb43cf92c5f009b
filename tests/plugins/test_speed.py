"""The fast path: its loss and every gradient are those of the plain Hugging Face forward and autograd."""

import copy
from itertools import chain
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftp.lm.rendering import Tokens
from ftp.lm.torch_attention import OWN_KERNEL, SIZES, rounded
from ftp.lm.torch_losses import token_losses
from ftp.lm.torch_packing import pack
from ftp.types import LoadedModel, ModelRequest
from ftp_plugins.speed.torch_batches import Batches, packed_batch
from ftp_plugins.speed.torch_path import FastPath

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024,
}  # fmt: skip
TARGETS = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
FAMILIES = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama-untied-bias": ("LlamaConfig", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "gemma": ("GemmaConfig", {}),
    "gemma2": ("Gemma2Config", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
}


def tiny(family="llama", dtype="float32", **options):
    import torch
    import transformers

    name, special = FAMILIES[family]
    torch.manual_seed(3)
    config = getattr(transformers, name)(**{**SHAPE, **special, **options, "pad_token_id": 0})
    model = transformers.AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    for name, weight in model.named_parameters():
        # Norms and biases begin at 1 and 0, where a mistake wouldn't show; with weights as small as models begin with,
        # attention is flat, and what comes back through it is mostly rounding.
        torch.nn.init.normal_(weight, mean=float("norm" in name and "gemma" not in family), std=0.15)
    return model.train()


def with_lora(model, dropout=0.0, **options):
    import peft
    import torch

    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules=TARGETS, **options
    )
    model = peft.get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # begins at zero, which would hide the gradient of A
            torch.nn.init.normal_(weight, std=0.1)
    return model.train()


def rows_of(lengths, prompt=2, seed=0):
    import random

    draw = random.Random(seed)
    return [
        Tokens([draw.randrange(1, VOCABULARY) for _ in range(n)], [at >= min(prompt, n - 1) for at in range(n)])
        for n in lengths
    ]


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def plain(model, rows):
    """Mean loss over the trained tokens of all rows, each row by itself through the model's own forward."""
    import torch

    count = sum(sum(row.trained[1:]) for row in rows)
    total = 0.0
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1].float()
        loss = (
            torch.nn.functional.cross_entropy(logits, torch.tensor(row.labels[1:], dtype=torch.int64), reduction="sum")
            / count
        )
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def fast(model, rows, batches=1, compute="float32"):
    """The same by the fast path, in so many batches of one optimizer step."""
    import torch

    path = FastPath(model, getattr(torch, compute))
    assert path.why_not(model) is None
    count = sum(sum(row.trained[1:]) for row in rows)
    size = -(-len(rows) // batches)
    total = 0.0
    with path.layers() as done:
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            batch = packed_batch([{"input_ids": row.input_ids, "trained": row.trained} for row in part])
            with path.attention():
                loss = path.loss(batch) / count
                loss.backward()
            total += loss.item()
    return total, gradients(model), done


def assert_equal(ours, theirs, rel):
    assert ours[0] == pytest.approx(theirs[0], rel=rel)
    assert ours[1].keys() == theirs[1].keys()
    whole = sum(float(gradient.float().norm()) ** 2 for gradient in theirs[1].values()) ** 0.5
    for name, expected in theirs[1].items():
        # A gradient that is nothing beside the others (queries of documents of one token) is all rounding.
        size = max(float(expected.float().norm()), whole / 100)
        apart = float((ours[1][name].float() - expected.float()).norm()) / size
        assert apart <= rel, f"{name}: {apart:.2e}"


LENGTHS = (9, 2, 17, 5, 30, 1, 12, 8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_loss_and_gradients_are_the_models_own(family, method):
    model = tiny(family)
    model = with_lora(model) if method == "lora" else model
    rows = rows_of(LENGTHS)
    ours, theirs = fast(model, rows), plain(model, rows)
    assert_equal(ours, theirs, 1e-5)
    on = " ".join(ours[2])
    assert "norms" in on
    assert ("LoRA layers" in on) == (method == "lora")
    assert ("gated units" in on) == (not family.startswith(("gemma", "mixtral")))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("batches", [1, 4, 8])
def test_accumulated_batches_are_the_full_one(method, batches):
    model = tiny("llama-untied-bias")
    model = with_lora(model) if method == "lora" else model
    rows = rows_of(LENGTHS)
    assert_equal(fast(model, rows, batches), plain(model, rows), 1e-5)


@pytest.mark.parametrize("double", [True, False])
def test_four_bit_weights(ftp_tiny_model, double):
    from ftp_plugins.adapters.qlora import QLoRA
    from ftp_plugins.loaders.huggingface import HuggingFace

    adapter = QLoRA(r=4, compute_dtype="float32", double_quantization=double)
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu")
    model = adapter.apply(loader.load(adapter.prepare(loader.describe()))).model.train()
    import torch

    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    rows = rows_of(LENGTHS)
    ours = fast(model, rows)
    assert_equal(ours, plain(model, rows), 1e-5)
    assert "14 LoRA layers" in ours[2]


def test_dropout_falls_where_the_models_own_does():
    import torch

    model = with_lora(tiny(), dropout=0.3)
    [row] = rows_of([rounded(23, SIZES)])  # filling would draw random numbers too
    torch.manual_seed(11)
    ours = fast(model, [row])
    torch.manual_seed(11)
    theirs = plain(model, [row])
    torch.manual_seed(12)
    other = plain(model, [row])
    assert_equal(ours, theirs, 1e-5)
    assert other[0] != pytest.approx(theirs[0], rel=1e-4)


def test_attention_dropout_falls_in_the_fast_path_too():
    model = tiny(attention_dropout=0.5)
    rows = rows_of([40])
    assert fast(model, rows)[0] != pytest.approx(fast(model, rows)[0], rel=1e-4)
    model.eval()
    assert fast(model, rows)[0] == pytest.approx(plain(model, rows)[0], rel=1e-5)


@pytest.mark.parametrize(("method", "compute"), [("lora", "float32"), ("full", "bfloat16")])
def test_bfloat16_is_as_near_as_the_models_own(method, compute):
    """Against float32 gradients, ours are no further off than those of the plain bfloat16 forward are."""
    import torch

    exact = tiny()
    exact = with_lora(exact) if method == "lora" else exact
    rows = rows_of(LENGTHS)
    truth = plain(exact, rows)
    if method == "lora":
        rough = copy.deepcopy(exact)
        for name, weight in rough.named_parameters():
            if "lora" not in name:
                weight.data = weight.data.bfloat16()
        theirs = plain(rough, rows)
        ours = fast(rough, rows)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            theirs = plain(exact, rows)
        ours = fast(exact, rows, compute=compute)
        assert "15 linear layers in bfloat16" in ours[2]
    assert ours[0] == pytest.approx(truth[0], rel=1e-2)

    def error(found):
        return sum(float((found[1][n].float() - g).norm() / g.norm()) for n, g in truth[1].items()) / len(truth[1])

    assert error(ours) <= 1.5 * error(theirs) + 1e-3


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=6),
    prompt=st.integers(0, 10),
    seed=st.integers(0, 99),
)
def test_any_lengths(lengths, prompt, seed):
    model = with_lora(tiny("mistral"))
    rows = rows_of(lengths, prompt, seed)
    assert_equal(fast(model, rows), plain(model, rows), 1e-5)


@pytest.mark.parametrize("lengths", [(OWN_KERNEL - 5, 7), (OWN_KERNEL + 9, 300, 3)])
def test_long_documents_take_the_other_kernels(lengths):
    model = tiny(num_hidden_layers=1)
    rows = rows_of(lengths)
    assert_equal(fast(model, rows), plain(model, rows), 1e-5)


def test_batches_of_any_length_have_few_sizes():
    sizes = {rounded(n, SIZES) for n in range(1, 4097)}
    assert len(sizes) < 200
    assert all(n <= rounded(n, SIZES) <= max(n + 7, n * 33 / 32) for n in range(1, 4097))
    made = pack([[5] * 300, [6] * 401])
    assert made.input_ids.shape == made.position_ids.shape == (1, 704) and made.lengths == (300, 401, 3)


def test_the_filling_of_the_last_chunk_is_no_loss(monkeypatch):
    from ftp_plugins.speed import torch_head as head

    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCABULARY * 6)  # chunks of 6: the last is nothing but filling
    model = tiny()
    rows = rows_of([13], prompt=1)
    assert_equal(fast(model, rows), plain(model, rows), 1e-5)


def test_documents_do_not_see_each_other():
    model = tiny()
    first, second, other = rows_of([14, 9, 14])
    with_first = fast(model, [first, second])[0]
    alone = [fast(model, [row])[0] for row in (first, second, other)]
    weights = [sum(row.trained[1:]) for row in (first, second)]
    assert with_first == pytest.approx(
        sum(a * w for a, w in zip(alone, weights, strict=False)) / sum(weights), rel=1e-5
    )
    assert alone[0] != pytest.approx(alone[2], rel=1e-4)


def test_recomputed_activations_change_nothing():
    model = with_lora(tiny())
    rows = rows_of(LENGTHS)
    without = fast(model, rows)
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    assert_equal(fast(model, rows), without, 1e-6)


def test_a_head_with_an_adapter():
    model = with_lora(tiny("llama-untied-bias"), modules_to_save=["lm_head"])
    rows = rows_of(LENGTHS)
    ours = fast(model, rows)
    assert any("lm_head" in name for name in ours[1])
    assert_equal(ours, plain(model, rows), 1e-5)


def test_the_copies_follow_the_optimizer():
    """A fused optimizer leaves the version of a tensor as it was, so the copies have to be told."""
    import torch

    model = tiny()
    rows = rows_of(LENGTHS)
    loaded = LoadedModel(model, SimpleNamespace(pad_token_id=0), "tiny", "", ModelRequest("tiny"))
    path = FastPath(model, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    losses = []
    with path.layers():
        for _ in range(3):
            with path.attention():
                path.loss(packed_batch([{"input_ids": r.input_ids, "trained": r.trained} for r in rows])).backward()
            optimizer.step()
            path.weights_changed()
            optimizer.zero_grad()
            losses.append(sum(loss.nll for loss in token_losses(loaded, rows)))
        with torch.no_grad():
            last = losses[-1]
    assert last == pytest.approx(sum(loss.nll for loss in token_losses(loaded, rows)), rel=2e-2)
    assert losses[0] != pytest.approx(losses[1], rel=2e-2)


def test_the_model_is_as_it_was_afterwards():
    import torch

    model = with_lora(tiny())
    rows = rows_of(LENGTHS)
    ids = torch.tensor([rows[4].input_ids])
    before = model(input_ids=ids).logits
    fast(model, rows)
    assert torch.equal(before, model(input_ids=ids).logits)
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_cannot_take_it_says_so():
    import transformers

    small = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2}
    gpt2 = transformers.AutoModelForCausalLM.from_config(transformers.GPT2Config(**small))
    state_space = transformers.AutoModelForCausalLM.from_config(
        transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    assert "does not take its attention from transformers' interface" in (FastPath.why_not(state_space) or "")
    assert FastPath.why_not(gpt2) is None


SCALED = {
    "dynamic": {"max_position_embeddings": 32, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
    "longrope": {
        "max_position_embeddings": 128,
        "rope_parameters": {
            "rope_type": "longrope", "original_max_position_embeddings": 32, "factor": 4.0,
            "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0],
        },
    },
    "yarn": {
        "max_position_embeddings": 128,
        "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    },
}  # fmt: skip


@pytest.mark.parametrize("scaling", SCALED)
def test_rotary_scaling_that_looks_at_the_longest_row_is_known_by_its_kind(scaling):
    options = SCALED[scaling]
    options["rope_parameters"]["rope_theta"] = 10_000.0
    model = tiny(**options).eval()
    why = FastPath.why_not(model, longest=33)
    assert (why is None) == (scaling == "yarn")
    assert why is None or "from 33 tokens on" in why
    assert FastPath.why_not(model, longest=32) is None
    # The loss of a row is its own, whatever is beside it in the batch.
    rows = rows_of([20, 60, 12, 45])
    together = token_losses(LoadedModel(model, SimpleNamespace(pad_token_id=0), "tiny", "", ModelRequest("tiny")), rows)
    for row, found in zip(rows, together, strict=True):
        plain_loss(model, Tokens([0, 0], [False, True]))  # transformers remembers the longest row so far
        alone = plain_loss(model, row)
        assert found.nll == pytest.approx(alone, rel=1e-5)


def plain_loss(model, row):
    import torch

    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, :-1]
    labels = torch.tensor(row.labels[1:])
    return float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))


def test_every_row_comes_once_an_epoch_in_an_order_of_its_own():
    lengths = list(range(1, 38))
    batches = Batches(lengths, 4, seed=5, alike=False)
    first, second = batches.of(0), batches.of(1)
    assert sorted(chain.from_iterable(first)) == sorted(chain.from_iterable(second)) == list(range(37))
    assert first != second
    assert first == Batches(lengths, 4, seed=5, alike=False).of(0)
    assert first != Batches(lengths, 4, seed=6, alike=False).of(0)
    assert [len(batch) for batch in first] == [4] * 9 + [1]
    alike = Batches(lengths, 4, seed=5, alike=True).of(0)
    assert sorted(chain.from_iterable(alike)) == list(range(37))
    assert max(max(batch) - min(batch) for batch in alike) <= 4
