"""A third party's loader on the public base: where the files are, and no more."""

from pathlib import Path

import pytest

import ftp
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles, directory_fingerprint
from ftp.testing import assert_component_ok


class Shelf(HuggingFaceFiles):
    """A model of a directory of models."""

    shelf: str
    """The directory of models."""
    model: str = "tiny"
    """Which of them."""

    def locate(self) -> ModelFiles:
        directory = Path(self.shelf)
        if not (directory / "config.json").is_file():
            raise ftp.ModelError(f"{directory}: no model here")
        return ModelFiles(str(directory), self.model)


def test_it_is_a_sound_component(ftp_tiny_model):
    assert_component_ok(Shelf, shelf=str(ftp_tiny_model))


def test_files_become_a_model(ftp_tiny_model):
    loader = Shelf(shelf=str(ftp_tiny_model), device="cpu", dtype="float32", new_tokens=["<|call|>"])
    request = loader.describe()
    assert (request.model, request.dtype, request.new_tokens) == ("tiny", "float32", ("<|call|>",))
    assert "q_proj" in request.linear_modules and request.layers
    loaded = loader.load(request)
    assert (loaded.name, loaded.fingerprint) == ("tiny", directory_fingerprint(ftp_tiny_model))
    assert str(loaded.model.dtype) == "torch.float32"
    assert loaded.tokenizer("a<|call|>b", add_special_tokens=False)["input_ids"].count(*loaded.new_tokens) == 1


def test_the_tokenizer_comes_without_weights(ftp_tiny_model):
    loaded = Shelf(shelf=str(ftp_tiny_model), chat_template="{{ messages }}").load_tokenizer()
    assert loaded.tokenizer.chat_template == "{{ messages }}" and loaded.tokenizer.pad_token_id is not None
    assert loaded.tokenizer.eos_token_id in loaded.stops


def test_what_the_loader_finds_missing_is_said_by_every_method(tmp_path):
    loader = Shelf(shelf=str(tmp_path))
    for method in (loader.describe, loader.load_tokenizer, lambda: loader.load(ftp.ModelRequest("tiny"))):
        with pytest.raises(ftp.ModelError, match="no model here"):
            method()


def test_bfloat16_is_picked_where_it_is_multiplied():
    from ftp.lm.torch_devices import multiplies_bfloat16, pick_device, pick_dtype

    for device in ("cpu", "mps", pick_device()):
        assert pick_dtype(device) == ("bfloat16" if multiplies_bfloat16(device) else "float32")
    assert pick_dtype("mps") == "float32"
