"""The model store: what is loaded is what the index says."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import ftp
from ftp.testing import assert_component_ok


@pytest.fixture
def store(tmp_path: Path, ftp_tiny_model: Path) -> Path:
    """Make a store with one version of one model."""
    directory = tmp_path / "store" / "acme-legal" / "1.2"
    shutil.copytree(ftp_tiny_model, directory)
    checksum = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    write_index(tmp_path / "store", {"path": "acme-legal/1.2", "sha256": {"model.safetensors": checksum}})
    return tmp_path / "store"


def write_index(store: Path, entry: dict[str, Any]) -> None:
    (store / "index.json").write_text(json.dumps({"models": {"acme-legal": {"1.2": entry}}}), encoding="utf-8")


def loader(store: Path, **options: Any) -> ftp.Loader:
    from ftp_acme_evals.store import Store

    return Store(**{"store": str(store), "model": "acme-legal", "version": "1.2", "device": "cpu", **options})


def test_it_is_a_sound_component(store: Path) -> None:
    assert_component_ok(type(loader(store)), store=str(store), model="acme-legal", version="1.2")


def test_a_model_whose_checksum_is_right_is_loaded(store: Path) -> None:
    found = loader(store, dtype="float32")
    assert found.problems() == []
    request = found.describe()
    assert request.model == "acme-legal 1.2"
    assert "q_proj" in (request.linear_modules or ())

    loaded = found.load(request)
    assert loaded.name == "acme-legal 1.2"
    assert len(loaded.fingerprint) == 64
    assert loaded.model.num_parameters() > 100_000
    assert loaded.tokenizer.decode(loaded.tokenizer("§ 4.2")["input_ids"], skip_special_tokens=True) == "§ 4.2"


def test_a_changed_weight_is_refused(store: Path) -> None:
    file = store / "acme-legal" / "1.2" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ftp.ModelError, match=r"model\.safetensors: its SHA-256 is .* nothing was loaded"):
        loader(store).load(ftp.ModelRequest("acme-legal 1.2"))


def test_a_file_besides_and_a_missing_one_are_refused(store: Path) -> None:
    directory = store / "acme-legal" / "1.2"
    shutil.copy(directory / "model.safetensors", directory / "more.safetensors")
    with pytest.raises(ftp.ModelError, match=r"more\.safetensors: is not in the store's index"):
        loader(store).load(ftp.ModelRequest("acme-legal 1.2"))
    (directory / "more.safetensors").unlink()
    (directory / "model.safetensors").unlink()
    with pytest.raises(ftp.ModelError, match=r"model\.safetensors: is in the store's index and not there"):
        loader(store).load(ftp.ModelRequest("acme-legal 1.2"))


def test_check_finds_what_the_index_lacks(store: Path) -> None:
    (problem,) = loader(store, model="acme-leagl").problems()
    assert problem.endswith("index.json: no model is called 'acme-leagl'; did you mean 'acme-legal'?")
    (problem,) = loader(store, version="1.3").problems()
    assert problem.endswith("no version of acme-legal is called '1.3'; did you mean '1.2'?")
    (problem,) = loader(store.parent / "elsewhere").problems()
    assert problem.endswith("index.json: No such file or directory")


def test_a_broken_index_is_told(store: Path) -> None:
    write_index(store, {"path": "../outside", "sha256": {"model.safetensors": "0" * 64}})
    assert "is outside of the store" in loader(store).problems()[0]
    write_index(store, {"path": "acme-legal/1.1", "sha256": {"model.safetensors": "0" * 64}})
    assert "no model in" in loader(store).problems()[0]
    write_index(store, {"path": "acme-legal/1.2", "sha256": {"model.safetensors": "abc"}})
    assert "models.acme-legal.1.2.sha256.model.safetensors: String should match" in loader(store).problems()[0]
    (store / "index.json").write_text("{", encoding="utf-8")
    assert "index.json: not JSON" in loader(store).problems()[0]
