"""GGUF files of every family and kind of tokenizer, opened with transformers and, where it is there, with llama.cpp."""

import importlib.util
import json

import numpy as np
import pytest
from tiny_tokenizers import CHAT, INSTRUCT, byte_level, fast, sentencepiece_like

from ftp import Example, ExportJob, LoadedModel, LoadedTokenizer, Message, ModelError, ModelRequest, Proof
from ftp.lm.rendering import prompt_ids
from ftp.lm.torch_parity import compare, opened, reference
from ftp_plugins.exporters.gguf.pre_tokenizers import LLAMA_3, QWEN_2
from ftp_plugins.exporters.gguf.quantise import other_types, quantise_with_llama_cpp
from ftp_plugins.exporters.gguf.torch_export import with_transformers
from ftp_plugins.exporters.gguf.torch_read import arrays_of, fields_of
from ftp_plugins.exporters.gguf.writer import check_writable, write_gguf
from ftp_plugins.loaders.gguf import Gguf

needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # predictions that a wrong weight changes
}
HEAD = {"head_dim": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 32}),
    "llama-3.1": ("Llama", {"rope_parameters": LLAMA_3_1}),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}}),
    "mistral": ("Mistral", {"sliding_window": 512}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen2": ("Qwen2", {}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN}),
    "qwen2-moe": ("Qwen2Moe", MOE | {"shared_expert_intermediate_size": 32, "norm_topk_prob": False}),
    "qwen3": ("Qwen3", HEAD),
    "qwen3-moe": ("Qwen3Moe", HEAD | MOE | {"norm_topk_prob": True}),
    "gemma": ("Gemma", HEAD),
    "gemma2": ("Gemma2", HEAD | {"sliding_window": 512, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3", HEAD | {"sliding_window": 512, "query_pre_attn_scalar": 16}),
}
TOKENIZERS = {
    "gpt-2": lambda: fast(byte_level(), CHAT, "<|begin|>", "<|end|>"),
    "llama-bpe": lambda: fast(byte_level(LLAMA_3), CHAT, "<|begin|>", "<|end|>"),
    "qwen2": lambda: fast(byte_level(QWEN_2, normalizer=True), CHAT, "<|begin|>", "<|end|>"),
    "default": lambda: fast(sentencepiece_like("normalizer"), INSTRUCT, "<s>", "</s>", unk_token="<unk>"),
    "default-metaspace": lambda: fast(sentencepiece_like("metaspace"), INSTRUCT, "<s>", "</s>", unk_token="<unk>"),
}
PROMPTS = [
    "Name the risk.",
    "What is the fix?  Two spaces,\n\nand 2 lines: 1234567.",
    "Double two — é, 中文, 🙂 — and you get four. I'VE said it's 3.5!",
    "def double(n):\n    return 2 * n\n" * 6,
]
EXAMPLES = [Example((Message("user", text), Message("assistant", "four"))) for text in PROMPTS]
PROOF = Proof(prompts=8, max_new_tokens=8)


def model_of(family, tokenizer, **more):
    import torch
    import transformers

    kind, options = FAMILIES[family]
    text = "Text" if kind == "Gemma3" else ""
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    settings = {**SIZES, **ends, **options, **more}
    config = getattr(transformers, f"{kind}{text}Config")(vocab_size=len(tokenizer) + 3, **settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):  # all the same as made, and then nothing shows which is which
                weight += 0.3 * torch.randn_like(weight)
    return model


def loaded_of(model, tokenizer):
    return LoadedModel(model, tokenizer, "tiny", "", ModelRequest("tiny", dtype="float32"))


def job_of(loaded, directory):
    stops = (loaded.tokenizer.eos_token_id,)
    tokenizer = LoadedTokenizer(loaded.tokenizer, stops)
    return ExportJob(None, directory, lambda weights: loaded, lambda: loaded, tokenizer, print)


def written(model, tokenizer, place, kind="F32"):
    file = place / f"tiny-{kind}.gguf"
    write_gguf(file, model, tokenizer, (tokenizer.eos_token_id,), "tiny", kind)
    return file


def parity(model, tokenizer, file, engine="transformers"):
    loaded = loaded_of(model, tokenizer)
    rows = reference(opened(model, tokenizer, "the run"), EXAMPLES, PROOF)
    if engine == "llama.cpp":
        from ftp_plugins.exporters.gguf.torch_llama_cpp import with_llama

        return compare(rows, with_llama(file, tokenizer, (tokenizer.eos_token_id,)))
    return compare(rows, with_transformers(job_of(loaded, file.parent), file))


# --- families --------------------------------------------------------------------------------------------------------


@pytest.mark.thin(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_comes_back_with_the_same_predictions(family, tmp_path):
    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of(family, tokenizer)
    found = parity(model, tokenizer, written(model, tokenizer, tmp_path))
    assert found.same_ids == found.prompts == 4 and found.first_difference == ""
    assert found.top1 == 1 and found.kl < 1e-6 and found.same_answers == 1


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_predicts_what_a_family_predicts(family, tmp_path):
    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of(family, tokenizer)
    found = parity(model, tokenizer, written(model, tokenizer, tmp_path), "llama.cpp")
    assert found.same_ids == found.prompts == 4, found.first_difference
    assert found.top1 > 0.98 and found.kl < 1e-4, found


def test_a_weight_that_is_wrong_shows(tmp_path):
    """The comparison is worth something: rows of k that aren't reordered are found."""
    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of("llama", tokenizer)
    file = written(model, tokenizer, tmp_path)
    import torch

    from ftp_plugins.exporters.gguf.torch_tensors import unpermuted

    with torch.no_grad():
        k = model.model.layers[0].self_attn.k_proj.weight
        k.copy_(unpermuted(k, 2))
    found = parity(model, tokenizer, file)
    assert found.kl > 0.01 and found.top1 < 0.9


def test_the_settings_are_in_the_file(tmp_path):
    tokenizer = TOKENIZERS["gpt-2"]()
    fields = fields_of(written(model_of("qwen2-yarn", tokenizer), tokenizer, tmp_path))
    assert fields["general.architecture"] == "qwen2" and fields["qwen2.rope.scaling.type"] == "yarn"
    assert (fields["qwen2.rope.scaling.factor"], fields["qwen2.rope.scaling.original_context_length"]) == (4, 32)
    fields = fields_of(written(model_of("mistral", tokenizer), tokenizer, tmp_path))
    assert fields["llama.context_length"] == 512, "beyond its window llama.cpp would compute something else"
    fields = fields_of(written(model_of("gemma2", tokenizer), tokenizer, tmp_path))
    assert fields["gemma2.attn_logit_softcapping"] == 50 and fields["gemma2.attention.sliding_window"] == 512
    assert fields["tokenizer.ggml.add_bos_token"] is False and fields["tokenizer.chat_template"] == CHAT


def test_the_factors_of_llama_3_are_those_of_transformers(tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of("llama-3.1", tokenizer)
    factors = arrays_of(written(model, tokenizer, tmp_path))["rope_freqs.weight"]
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    plain = 1 / 10000.0 ** (np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-6)
    assert len({round(float(factor), 3) for factor in factors}) > 1 and factors[0] == 1


# --- types of numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bits", "kl"),
    [
        ("F16", 16, 1e-4), ("BF16", 16, 1e-2), ("Q8_0", 8.5, 1e-2),
        ("Q5_1", 6, 0.2), ("Q5_0", 5.5, 0.3), ("Q4_1", 5, 0.6), ("Q4_0", 4.5, 0.8), ("MXFP4", 4.25, 2.0),
    ],
)  # fmt: skip
def test_fewer_bits_are_further_away(kind, bits, kl, tmp_path):
    import gguf

    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of("llama", tokenizer)
    file = written(model, tokenizer, tmp_path, kind)
    found = parity(model, tokenizer, file)
    assert found.kl < kl and found.same_ids == 4
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weight = tensors["blk.0.ffn_up.weight"]
    assert weight.n_bytes * 8 / weight.n_elements == bits
    assert tensors["blk.0.attn_norm.weight"].tensor_type.name == "F32"
    assert tensors["output.weight"].tensor_type.name == (kind if bits >= 8 else "Q8_0")


WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "initializer_range": 0.05}


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize(
    ("kind", "bits", "kl"),
    [
        ("Q6_K", 6.5625, 0.004), ("Q5_K_M", 5.5, 0.012), ("Q5_K_S", 5.5, 0.012), ("Q4_K_M", 4.5, 0.05),
        ("Q4_K_S", 4.5, 0.05), ("Q3_K_M", 3.4375, 0.12), ("Q2_K", 2.625, 0.4),
    ],
)  # fmt: skip
def test_llama_cpp_writes_k_quants(kind, bits, kl, tmp_path, capfd):
    import gguf

    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of("llama", tokenizer, **WIDE, tie_word_embeddings=False)
    plain, file = written(model, tokenizer, tmp_path), tmp_path / f"{kind}.gguf"
    quantise_with_llama_cpp(str(plain), str(file), kind)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    weight = tensors["blk.0.attn_q.weight"]
    assert weight.n_bytes * 8 / weight.n_elements == pytest.approx(bits)
    found = parity(model, tokenizer, file, "llama.cpp")
    assert found.same_ids == 4 and found.kl < kl, found
    assert other_types(str(file), kind) == ""
    assert capfd.readouterr() == ("", ""), "a line and more for every tensor"


@pytest.mark.slow
@needs_llama_cpp
def test_k_quants_of_other_rows_are_said_to_be_of_other_types(tmp_path, capfd):
    tokenizer = TOKENIZERS["gpt-2"]()
    plain, file = written(model_of("llama", tokenizer), tokenizer, tmp_path), tmp_path / "small.gguf"
    quantise_with_llama_cpp(str(plain), str(file), "Q4_K_M")
    assert "Q4_K_M: 16 of 16 weights have rows of no multiple of 256 numbers" in other_types(str(file), "Q4_K_M")
    with pytest.raises(ModelError, match=r"can't quantise to Q6_K: .*no\.gguf"):
        quantise_with_llama_cpp(str(tmp_path / "no.gguf"), str(file), "Q6_K")
    with pytest.raises(ModelError, match=r"llama\.cpp can't open it"):
        (tmp_path / "half.gguf").write_bytes(plain.read_bytes()[:5000])
        parity(model_of("llama", tokenizer), tokenizer, tmp_path / "half.gguf", "llama.cpp")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_llama_cpp_goes_back_to_what_two_prompts_share(family, tmp_path):
    from ftp_plugins.exporters.gguf.torch_llama_cpp import with_llama

    tokenizer = TOKENIZERS["gpt-2"]()
    model = model_of(family, tokenizer, **({} if family == "llama" else {"sliding_window": 16}))
    file, stops = written(model, tokenizer, tmp_path), (tokenizer.eos_token_id,)
    first = list(range(20, 220))
    second = [*first[:60], *range(250, 300)]
    warm, cold = with_llama(file, tokenizer, stops), with_llama(file, tokenizer, stops)
    warm.logits(first)
    np.testing.assert_allclose(warm.logits(second), cold.logits(second), atol=1e-3)
    warm.logits([*second, 30, 31])
    assert warm.answer(second, 8) == with_llama(file, tokenizer, stops).answer(second, 8)


# --- tokenizers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_comes_back_with_the_same_ids(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_tokens(["<|sum|>", "notice term"])
    model = model_of("llama", tokenizer)
    file = written(model, tokenizer, tmp_path)
    fields = fields_of(file)
    assert fields["tokenizer.ggml.pre"] == name.split("-metaspace")[0]
    assert fields["tokenizer.ggml.tokens"][-3:] == [f"[PAD{len(tokenizer) + n}]" for n in range(3)]
    kinds = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True))
    assert kinds["<|sum|>"] == kinds["notice term"] == 4 and kinds[tokenizer.eos_token] == 3
    found = parity(model, tokenizer, file)
    assert found.same_ids == 4, found.first_difference


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_makes_the_same_ids(name, tmp_path):
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_tokens(["<|sum|>", "notice term"])
    model = model_of("llama", tokenizer)
    found = parity(model, tokenizer, written(model, tokenizer, tmp_path), "llama.cpp")
    assert found.same_ids == 4, found.first_difference
    assert found.kl < 1e-4


@pytest.mark.parametrize("rows", [0, 3], ids=["full", "with-padding"])
@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_the_loader_reads_the_ids_that_were_written(name, rows, tmp_path, monkeypatch):
    """Without a token of its own: transformers adds `<|endoftext|>` to byte-level vocabularies."""
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_tokens(["<|sum|>"])
    model = model_of("llama", tokenizer)
    model.resize_token_embeddings(len(tokenizer) + rows)
    loader = Gguf(file=str(written(model, tokenizer, tmp_path)), device="cpu", dtype="float32")
    loaded = loader.load(loader.describe())
    assert len(loaded.tokenizer) == loaded.model.config.vocab_size == len(tokenizer) + rows
    assert set(loaded.tokenizer.get_vocab()) - set(tokenizer.get_vocab()) == {
        f"[PAD{len(tokenizer) + at}]" for at in range(rows)
    }
    for example in EXAMPLES:
        assert prompt_ids(loaded.tokenizer, example) == prompt_ids(tokenizer, example)
        text = example.messages[0].content
        assert loaded.tokenizer(f"{text} <|sum|>")["input_ids"] == tokenizer(f"{text} <|sum|>")["input_ids"]


def test_sentencepiece_has_scores_in_the_order_of_its_merges(tmp_path):
    tokenizer = TOKENIZERS["default"]()
    fields = fields_of(written(model_of("llama", tokenizer), tokenizer, tmp_path))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    tokens = fields["tokenizer.ggml.tokens"]
    scores = [fields["tokenizer.ggml.scores"][tokens.index("".join(merge))] for merge in merges]
    assert scores == sorted(scores, reverse=True) and fields["tokenizer.ggml.add_space_prefix"] is True
    assert fields["tokenizer.ggml.token_type"][tokens.index("<0x41>")] == 6


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(model, tokenizer):
    with pytest.raises(ModelError) as error:
        check_writable(model, tokenizer, ())
    return str(error.value)


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("llama", {"hidden_act": "gelu"}, "llama.cpp computes silu"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}, "no sliding window"),
        ("gemma2", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ("gemma3", {"layer_types": ["full_attention", "sliding_attention"]}, "every 6th layer"),
        ("qwen3-moe", {"mlp_only_layers": [0]}, "no experts"),
        ("qwen3-moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("gemma2", {"tie_word_embeddings": False}, "trained apart"),
    ],
)
def test_settings_that_llama_cpp_has_no_key_for_are_refused(family, change, reason):
    tokenizer = TOKENIZERS["gpt-2"]()
    assert reason in refusal(model_of(family, tokenizer, **change), tokenizer)


def test_a_family_that_isnt_written_is_refused_with_the_reason():
    from transformers import Phi3Config, Phi3ForCausalLM

    tokenizer = TOKENIZERS["gpt-2"]()
    model = Phi3ForCausalLM(Phi3Config(vocab_size=403, pad_token_id=0, **{**SIZES, "initializer_range": 0.02}))
    assert "'phi3' can't be written as GGUF: llama.cpp keeps its fused projections" in refusal(model, tokenizer)


def test_a_tokenizer_that_llama_cpp_doesnt_know_is_refused():
    tokenizer = fast(byte_level(r"\w+|\W"), CHAT, "<|begin|>", "<|end|>")
    assert "none of llama.cpp's rules" in refusal(model_of("llama", tokenizer), tokenizer)
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<|begin|>": 0, "<|end|>": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer = fast(words, CHAT, "<|begin|>", "<|end|>")
    assert "a WordLevel vocabulary can't be written" in refusal(model_of("llama", tokenizer), tokenizer)
