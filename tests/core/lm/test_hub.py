"""Models and data sets by id, from a hub on loopback."""

import json
import shutil

import pytest
from huggingface_hub import HfApi

from ftp.errors import ModelError
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles, hub_commit
from ftp.testing.hub import TOKEN

PARAMETERS = 122_944


class ById(HuggingFaceFiles):
    """A model of the hub."""

    id: str
    revision: str | None = None

    def locate(self):
        return ModelFiles(self.id, self.id, self.revision)


def test_a_model_is_loaded_by_id_and_known_by_its_commit(ftp_hub, ftp_tiny_model):
    commit = ftp_hub.add("acme/tiny", ftp_tiny_model)
    loader = ById(id="acme/tiny")
    loaded = loader.load(loader.describe())
    assert loaded.fingerprint == loader.fingerprint() == f"commit {commit}"
    assert loaded.tokenizer.chat_template and loaded.model.num_parameters() == PARAMETERS
    assert not any(path.startswith("GET /api/models") and "main" in path for path in ftp_hub.requests)


def test_another_commit_is_another_fingerprint_and_a_revision_stays(ftp_hub, ftp_tiny_model, tmp_path):
    first = ftp_hub.add("acme/tiny", ftp_tiny_model)
    changed = shutil.copytree(ftp_tiny_model, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert hub_commit("acme/tiny") == first
    second = ftp_hub.add("acme/tiny", changed)
    assert hub_commit("acme/tiny") == second != first
    assert hub_commit("acme/tiny", first) == first
    assert ById(id="acme/tiny", revision=first).fingerprint() == f"commit {first}"


@pytest.mark.parametrize(
    ("revision", "gated", "what"),
    [
        ("nowhere", False, "acme/tiny at nowhere: the model has no such revision on the hub"),
        (None, True, "acme/tiny: the hub gives it only to those it knows"),
    ],
)
def test_a_model_that_is_not_given_is_refused_with_the_reason(ftp_hub, ftp_tiny_model, revision, gated, what):
    ftp_hub.add("acme/tiny", ftp_tiny_model)
    ftp_hub.repositories["models/acme/tiny"].gated = gated
    with pytest.raises(ModelError) as error:
        hub_commit("acme/tiny", revision)
    assert str(error.value).startswith(what)


def test_a_gated_model_comes_with_the_token(ftp_hub, ftp_tiny_model, monkeypatch):
    commit = ftp_hub.add("acme/tiny", ftp_tiny_model)
    ftp_hub.repositories["models/acme/tiny"].gated = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert hub_commit("acme/tiny") == commit


def test_a_missing_model_and_a_bad_id_are_refused(ftp_hub):
    with pytest.raises(ModelError, match="acme/none: no such model on the hub"):
        hub_commit("acme/none")
    with pytest.raises(ModelError, match="a/b/c: can't be had from the hub"):
        hub_commit("a/b/c")


@pytest.mark.slow  # huggingface_hub waits between its attempts
def test_a_download_that_breaks_off_is_taken_up_or_told(ftp_hub, ftp_tiny_model):
    ftp_hub.add("acme/tiny", ftp_tiny_model)
    loader = ById(id="acme/tiny")
    request = loader.describe()
    ftp_hub.cut["model.safetensors"] = 1
    assert loader.load(request).model.num_parameters() == PARAMETERS
    commit = hub_commit("acme/tiny")  # asks the hub as well
    assert ftp_hub.requests.count(f"GET /acme/tiny/resolve/{commit}/model.safetensors") == 2


# huggingface_hub hands httpx a body in a way that httpx warns of.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
def test_what_is_uploaded_comes_back_to_the_bit(ftp_hub, ftp_tiny_model, tmp_path):
    api = HfApi(endpoint=ftp_hub.url, token=TOKEN)
    api.create_repo("acme/tuned")
    commit = api.upload_folder(repo_id="acme/tuned", folder_path=ftp_tiny_model)
    assert hub_commit("acme/tuned") == commit.oid
    files = ftp_hub.repositories["models/acme/tuned"].commits[commit.oid]
    assert all(files[file.name] == file.read_bytes() for file in ftp_tiny_model.iterdir())
    back = api.snapshot_download("acme/tuned", local_dir=tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (ftp_tiny_model / "model.safetensors").read_bytes()
    assert back == str(tmp_path / "back")


def test_a_data_set_is_loaded_by_id(ftp_hub, tmp_path):
    import datasets

    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    ftp_hub.add("acme/rows", tmp_path / "rows", kind="datasets")
    rows = datasets.load_dataset("acme/rows", split="train")
    assert rows["text"][:] == ["one", "two"]
