"""Families of models through LoRA, QLoRA and full training: they learn, are saved and come back."""

import json

import pytest
from tiny_tokenizers import INFILLING, sentencepiece_like

from ftp import ModelError
from ftp.components import TrainingJob
from ftp.lm.rendering import DEFAULT_CHAT_TEMPLATE, encode, render, stop_ids
from ftp.lm.torch_generate import generate
from ftp.options import AnswerOptions
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import build_corpus
from ftp.types import Example, Message
from ftp_plugins.adapters.full import Full
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.adapters.qlora import QLoRA
from ftp_plugins.formatters.pairs import Instruct
from ftp_plugins.loaders.huggingface import HuggingFace
from ftp_plugins.trainers.sft import SFT

ROWS = [
    ("Name the risk.", "The notice term is thirty days."),
    ("What is the fix?", "Say why in writing."),
    ("Double two.", "four"),
    ("May either party end this?", "Yes, by notice, in thirty days."),
]

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
HEAD = {"head_dim": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", HEAD),
    "qwen3-moe": ("Qwen3Moe", HEAD | MOE),
    "qwen2-moe": ("Qwen2Moe", MOE | {"shared_expert_intermediate_size": 32}),
    "gemma": ("Gemma", HEAD),
    "gemma2": ("Gemma2", HEAD | {"sliding_window": 8, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3", HEAD | {"sliding_window": 8, "query_pre_attn_scalar": 16}),
}
MIXTURES = ["mixtral", "qwen2-moe", "qwen3-moe"]


@pytest.fixture(scope="session")
def family(ftp_tiny_model, tmp_path_factory):
    """Write a tiny random model of a family, with the tiny model's tokenizer, once."""
    import torch
    import transformers

    made = {}

    def write(name):
        if name not in made:
            directory = made[name] = tmp_path_factory.mktemp(name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(ftp_tiny_model)
            tokenizer.save_pretrained(directory)
            kind, options = FAMILIES[name]
            text = "Text" if kind == "Gemma3" else ""
            ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
            config = getattr(transformers, f"{kind}{text}Config")(
                vocab_size=len(tokenizer) + 2, **SIZES, **ends, **options
            )
            torch.manual_seed(0)
            getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(directory)
        return made[name]

    return write


def base_for(adapter, directory, **options):
    loader = HuggingFace(id=str(directory), device="cpu", **options)
    return loader.load(adapter.prepare(loader.describe()))


def applied(adapter, directory, **options):
    import transformers

    assert adapter.problems() == []
    base = base_for(adapter, directory, **options)
    transformers.set_seed(1)
    return adapter.apply(base)


def train(loaded, tmp_path, **options):
    """Train on the rows; the loss of each step."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"instruction": q, "response": a}) + "\n" for q, a in ROWS))
    recipe = Data(train=[Source(path=str(file), format=Instruct())], validation=0.0)
    corpus, ledger = build_corpus(recipe, tmp_path / "data", tmp_path, seed=1)
    losses = []

    def emit(event, **values):
        if event == "metric":
            losses.append(values["loss"])

    job = TrainingJob(loaded, corpus, ledger, tmp_path / "checkpoints", 1, emit)
    result = SFT(batch_size=4, warmup=0, schedule="constant", **options).train(job)
    return result.model, losses


def logits(loaded):
    import torch

    loaded.model.eval()
    with torch.no_grad():
        return loaded.model(input_ids=torch.arange(40)[None] + 10).logits


def check(adapter, directory, tmp_path, rate, **options):
    """A few steps, saved, and loaded again beside a fresh base."""
    import torch

    loaded = applied(adapter, directory, **options)
    before = logits(loaded)
    tuned, losses = train(loaded, tmp_path, epochs=6, learning_rate=rate)
    assert len(losses) == 6 and all(0 < loss < 100 for loss in losses)
    assert losses[-1] < losses[0] - 0.1
    for parameter in tuned.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # TRL makes QLoRA's bfloat16; they come back as float32
    after = logits(tuned)
    assert not torch.equal(before, after)
    adapter.save(tuned, tmp_path / "model")
    again = adapter.restore(base_for(adapter, directory, **options), tmp_path / "model")
    assert torch.equal(logits(again), after)
    return tuned


RATES = {"lora": 5e-3, "qlora": 5e-3, "full": 2e-3}


ADAPTERS = {"lora": LoRA(r=4), "qlora": QLoRA(r=4), "full": Full()}


def pairs(names, with_all):
    """Every family with LoRA, some of them with the other adapters too; the other pairs are slow tests."""
    return [
        pytest.param(name, adapter, marks=() if adapter == "lora" or name in with_all else pytest.mark.slow)
        for name in names
        for adapter in ADAPTERS
    ]


@pytest.mark.thin(4)
@pytest.mark.parametrize(("name", "adapter"), pairs(FAMILIES, {"llama", "llama-tied", "mixtral", "gemma3"}))
def test_a_family_learns_and_comes_back(family, tmp_path, name, adapter):
    tuned = check(ADAPTERS[adapter], family(name), tmp_path, RATES[adapter])
    head, embeddings = tuned.model.get_output_embeddings(), tuned.model.get_input_embeddings()
    tied = name == "llama-tied" or name.startswith("gemma")
    assert (head.weight is embeddings.weight) == tied


# Mixtures of experts.


@pytest.mark.parametrize("adapter", [LoRA(r=4), QLoRA(r=4)])
@pytest.mark.parametrize("name", MIXTURES)
def test_what_stays_as_it_is_in_a_mixture_is_said(family, name, adapter):
    loaded = applied(adapter, family(name))
    [note] = [note for note in loaded.notes if "experts" in note]
    assert "(experts.down_proj, experts.gate_up_proj)" in note and "get no adapter" in note
    assert ("not quantised" in note) == isinstance(adapter, QLoRA)
    shared = "down_proj, gate_proj, up_proj beside them get no adapter"
    assert (shared in note) == (name == "qwen2-moe"), "the shared expert's layers are linear ones"
    trained = {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained and all("self_attn" in name or "shared_expert_gate" in name for name in trained)


def test_a_target_that_means_the_experts_to_peft_is_refused(family):
    request = HuggingFace(id=str(family("qwen2-moe"))).describe()
    with pytest.raises(ModelError, match="peft takes 'gate_proj' for a weight of the experts"):
        LoRA(targets=["q_proj", "gate_proj"]).prepare(request)


@pytest.mark.thin(2)
@pytest.mark.parametrize(("name", "adapter"), pairs(["llama", "llama-tied", "gemma3"], {"llama-tied"}))
def test_new_tokens_train_with_the_family(family, tmp_path, name, adapter):
    tuned = check(ADAPTERS[adapter], family(name), tmp_path, RATES[adapter], new_tokens=["<|sum|>", "notice term"])
    assert len(tuned.new_tokens) == 2


def test_a_run_of_a_mixture_says_what_stays_as_it_is(family, ftp, ftp_recipe):
    recipe = ftp_recipe(
        model={"id": str(family("mixtral")), "new_tokens": ["<|sum|>"]}, answers={"max_new_tokens": 4}, adapter={"r": 2}
    )
    assert ftp("run", str(recipe)).code == 0
    [events] = recipe.parent.glob("runs/small/*/events.jsonl")
    notes = [event["text"] for event in map(json.loads, events.read_text().splitlines()) if event["event"] == "note"]
    assert [note for note in notes if note.startswith("The weights of the experts")]
    assert "New tokens, which begin as the mean of all others: <|sum|>" in notes
    saved = json.loads((events.parent / "model" / "adapter_config.json").read_text())
    assert saved["trainable_token_indices"] == {"lm_head": [382], "model.embed_tokens": [382]}


@pytest.mark.thin(3)
@pytest.mark.parametrize("kind", [LoRA, QLoRA])
@pytest.mark.parametrize(
    ("name", "layers", "numbers"), [*((name, "all", {0, 1}) for name in MIXTURES), (MIXTURES[0], "last 1", {1})]
)
def test_experts_get_adapters_where_asked(family, tmp_path, kind, name, layers, numbers):
    adapter = kind(r=4, experts=True, layers=layers)
    tuned = check(adapter, family(name), tmp_path, 5e-3)
    trained = {n for n, p in tuned.model.named_parameters() if p.requires_grad and ".experts." in n}
    assert {int(n.split("layers.")[1][0]) for n in trained} == numbers
    assert len(trained) == 4 * len(numbers)


@pytest.mark.parametrize("name", MIXTURES)
def test_full_training_of_a_mixture_trains_experts_and_router(family, tmp_path, name):
    loaded = applied(Full(), family(name))
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    tuned, _ = train(loaded, tmp_path, epochs=3, learning_rate=2e-3)
    changed = {n for n, p in tuned.model.named_parameters() if (p != before[n]).any()}
    assert {
        f"model.layers.1.mlp.{part}" for part in ("experts.gate_up_proj", "experts.down_proj", "gate.weight")
    } < changed


# Tokenizers of CodeLlama's kind.


@pytest.fixture(scope="session", params=["normalizer", "metaspace"])
def codellama(request, tmp_path_factory):
    """A tiny Llama with such a tokenizer, without a chat template or a pad token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp(f"codellama-{request.param}")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=sentencepiece_like(request.param),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=INFILLING,
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), **SIZES, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def examples():
    return [Example((Message("user", q), Message("assistant", a)), id=str(n)) for n, (q, a) in enumerate(ROWS)]


def encoded(directory, rows):
    loaded = HuggingFace(id=str(directory)).load_tokenizer()
    return loaded.tokenizer, encode(loaded.tokenizer, rows, loaded.stops)


def test_a_codellama_tokenizer_gets_a_template_that_begins_with_bos(codellama):
    loaded = HuggingFace(id=str(codellama)).load_tokenizer()
    assert loaded.tokenizer.chat_template == "{{ bos_token }}" + DEFAULT_CHAT_TEMPLATE
    assert "no chat template" in loaded.notes[0]
    assert loaded.stops == (2,)


def test_a_codellama_tokenizer_writes_one_bos_and_trains_one_eos(codellama):
    texts = [Example(text="def double(n):\n    return 2 * n", id="text"), Example(text="é中 🙂", id="bytes")]
    tokenizer, rows = encoded(codellama, [*examples(), *texts])
    for row in rows:
        assert row.input_ids[0] == 1 and row.input_ids.count(1) == 1
        assert row.input_ids[-1] == 2 and row.input_ids.count(2) == 1 and row.trained[-1]
        assert 0 not in row.input_ids, "nothing is unknown: bytes are spelt out"
    for row, example in zip(rows[-2:], texts, strict=True):
        assert tokenizer.decode(row.input_ids, skip_special_tokens=True).strip() == example.text


@pytest.mark.parametrize("answer", ["four", " four", "é is é, 中 too", "two\n    lines", "x " * 9 + "x", "🙂"])
def test_the_mask_of_a_codellama_tokenizer_is_the_answer(codellama, answer):
    turns = [Message("user", "Ünder é: double two."), Message("assistant", answer)]
    tokenizer, [row] = encoded(codellama, [Example(tuple(turns), id="1")])
    first = row.trained.index(True)
    assert all(row.trained[first:]), "the answer is the end of the row"
    prompt = tokenizer(render(tokenizer, turns[:1], answer_next=True), add_special_tokens=False)["input_ids"]
    assert row.input_ids[:first] == prompt, "training sees the prompt that generation sees"
    whole, before = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (row.input_ids, prompt))
    assert whole.removeprefix(before) == answer


def test_infilling_tokens_of_a_codellama_tokenizer_stay_whole(codellama):
    text = "▁<PRE> def double(n):\n ▁<SUF>\n ▁<MID> return 2 * n ▁<EOT>"
    tokenizer, [row] = encoded(codellama, [Example(text=text, id="1", control_tokens="allow")])
    ids = tokenizer.convert_tokens_to_ids(INFILLING)
    assert [id for id in row.input_ids if id in ids] == ids
    assert row.input_ids[:2] == [1, ids[0]] and row.input_ids[-2:] == [ids[3], 2]


def test_a_model_with_a_codellama_tokenizer_learns_and_comes_back(codellama, tmp_path):
    check(LoRA(r=4), codellama, tmp_path, RATES["lora"])


def test_a_model_with_a_codellama_tokenizer_answers_and_stops(codellama, tmp_path):
    loaded = applied(Full(), codellama)
    assert stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id) == (2,)
    tuned, _ = train(loaded, tmp_path, epochs=60, learning_rate=5e-3, precision="float32")
    said = generate(tuned, examples(), AnswerOptions(max_new_tokens=40))
    assert [answer.text for answer in said] == [reference for _, reference in ROWS]
    assert all(answer.stopped for answer in said)
