"""Models and GGUF files that are damaged or made to do harm: a message, in time."""

import json
import os
import shutil
import struct

import pytest

from ftp.cache import kept_digest
from ftp.errors import ModelError
from ftp.files import file_digest
from ftp.lm.hf_loader import directory_fingerprint
from ftp_plugins.adapters.lora import LoRA
from ftp_plugins.loaders.gguf import Gguf
from ftp_plugins.loaders.huggingface import HuggingFace


@pytest.fixture
def model(ftp_tiny_model, tmp_path):
    return shutil.copytree(ftp_tiny_model, tmp_path / "model")


def pipe(model):
    (model / "tokenizer_config.json").unlink()
    os.mkfifo(model / "tokenizer_config.json")


def endless(model):
    (model / "generation_config.json").unlink()
    (model / "generation_config.json").symlink_to("/dev/zero")


def loop(model):
    (model / "vocab.json").symlink_to("vocab.json")


def header(model):
    content = bytearray((model / "model.safetensors").read_bytes())
    content[:8] = (2**60).to_bytes(8, "little")
    (model / "model.safetensors").write_bytes(content)


def config(**values):
    def change(model):
        known = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**known, **values}))

    return change


def deep(model):
    (model / "config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (pipe, "tokenizer_config.json: not a plain file"),
        (endless, "generation_config.json: not a plain file"),
        (loop, "vocab.json: not a plain file"),
        (header, "model.safetensors: damaged: its header says"),
        (config(num_hidden_layers=10**7), "num_hidden_layers: 1e\\+07 is more than any model has"),
        (config(hidden_size=64_000, intermediate_size=900_000), "config.json describes .* parameters and the weights"),
        (config(hidden_size="64"), "can't be loaded"),
        (deep, "config.json: can't be read"),
    ],
    ids=["pipe", "endless", "loop", "header", "layers", "wide", "type", "deep"],
)
def test_a_hostile_model_directory_is_refused(model, harm, what):
    harm(model)
    loader = HuggingFace(id=str(model), device="cpu")
    with pytest.raises(ModelError, match=what):
        loader.load(loader.describe())


def test_links_to_files_are_as_good_as_the_files(model, tmp_path):
    before = directory_fingerprint(model)
    shutil.move(model / "model.safetensors", tmp_path / "blob")
    (model / "model.safetensors").symlink_to(tmp_path / "blob")
    loader = HuggingFace(id=str(model), device="cpu")
    assert loader.load(loader.describe()).fingerprint == before


def test_a_rank_beyond_every_layer_is_refused_before_it_takes_memory(ftp_tiny_model):
    loader = HuggingFace(id=str(ftp_tiny_model), device="cpu")
    with pytest.raises(ModelError, match=r"adapter\.r: 10,000,000 is more than the widest layer's 128"):
        LoRA(r=10**7).apply(loader.load(loader.describe()))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "says that it has 1,152,921,504,606,846,976 tensors"),
        (b"GGUF", "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + b"x" * 100, "can't be dequantised"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"a" + b"\xff" * 60, "can't be dequantised"),
        (b"GGUF" + struct.pack("<IQQ", 9, 1, 1) + os.urandom(200), "can't be dequantised"),
        (b"", "not a GGUF file"),
    ],
    ids=["tensors", "short", "long name", "shape", "noise", "empty"],
)
def test_a_damaged_gguf_file_is_refused(tmp_path, monkeypatch, content, what):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(content)
    loader = Gguf(file=str(tmp_path / "model.gguf"))
    with pytest.raises(ModelError, match=what):
        loader.describe()


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_weights_in_a_folder_below_count_and_hidden_files_do_not(model):
    before = directory_fingerprint(model)
    (model / ".cache").mkdir()
    (model / ".cache" / "x.json").write_text("{}")
    (model / "README.md").write_text("about")
    assert directory_fingerprint(model) == before
    (model / "shards").mkdir()
    (model / "shards" / "a.safetensors").write_bytes(b"1")
    one = directory_fingerprint(model)
    (model / "shards" / "a.safetensors").write_bytes(b"2")
    assert len({before, one, directory_fingerprint(model)}) == 3


def test_a_kept_digest_follows_every_change(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("ftp.cache.SETTLED_NS", -1)  # keep at once what otherwise has to settle first
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 2**21)
    assert kept_digest(file) == kept_digest(file) == file_digest(file)
    assert list((tmp_path / "cache" / "digests").iterdir())
    stamp = file.stat()
    file.write_bytes(b"b" * 2**21)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as good as it can be hidden
    assert kept_digest(file) == file_digest(file)


def test_a_file_that_was_just_written_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("FTP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"a" * 2**21)
    kept_digest(tmp_path / "weights")
    assert not (tmp_path / "cache" / "digests").exists()


def test_other_weights_under_the_same_path_are_another_run(ftp, ftp_recipe, model, tmp_path):
    from safetensors.torch import load_file, save_file

    loader = {"use": "huggingface", "id": str(model), "device": "cpu"}
    recipe = str(ftp_recipe(model=loader, answers={"max_new_tokens": 4}))
    assert ftp("run", recipe).code == 0
    assert "has been run on the same inputs" in ftp("run", recipe).err
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"] *= 2
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    again = ftp("run", recipe)
    assert again.code == 0 and "has been run on the same inputs" not in again.err
    assert len(list((tmp_path / "runs" / "small").iterdir())) == 2
