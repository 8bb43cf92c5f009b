"""Pytest fixtures: install a plugin, write a recipe, make a tiny model, make answers."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from ftp.testing.conformance import answers_view
from ftp.testing.hub import Hub
from ftp.testing.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from ftp.types import EvalView

# --- installing a plugin for one test --------------------------------------------------------------------------------


class Install(Protocol):
    """The type of the fixture `ftp_install`."""

    def __call__(
        self,
        name: str,
        source: str | Path,
        *,
        version: str = "0.1",
        entry_points: Mapping[str, str] | None = None,
        group: str = "ftp",
    ) -> Path: ...


@pytest.fixture
def ftp_install(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """Install a plugin for one test, in milliseconds, so that FTP discovers it as it would after `pip install`.

    `ftp_install("acme-evals", source)` writes the module `acme_evals` and a real `.dist-info` into a directory of its
    own, puts that first on `sys.path` and returns it (as PYTHONPATH it works for a subprocess too). `source` is the
    module's text, or the path of a module or package, which is copied. `entry_points` maps names to modules or objects
    in `group`; if left out, there is one with the distribution's name. Everything is restored after the test.
    """
    sites: list[Path] = []
    path, kept = list(sys.path), dict[str, Any]()

    def install(
        name: str,
        source: str | Path,
        *,
        version: str = "0.1",
        entry_points: Mapping[str, str] | None = None,
        group: str = "ftp",
    ) -> Path:
        module = source.stem if isinstance(source, Path) else re.sub(r"[-.]", "_", name)
        site = tmp_path_factory.mktemp("site")
        if isinstance(source, str):
            (site / f"{module}.py").write_text(source, encoding="utf-8")
        elif source.is_dir():
            shutil.copytree(source, site / module, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, site)
        _write_dist_info(site, name, version, group, {name: module} if entry_points is None else entry_points)
        for found in [of for of in sys.modules if of.split(".")[0] == module]:
            kept.setdefault(found, sys.modules.pop(found))
        sites.append(site)
        sys.path.insert(0, str(site))
        importlib.invalidate_caches()
        return site

    yield install
    sys.path[:] = path
    sys.modules.update(kept)
    installed = tuple(f"{site}{os.sep}" for site in sites)
    for name, module in list(sys.modules.items()):  # thousands: paths are compared as text
        if (getattr(module, "__file__", None) or "").startswith(installed):
            del sys.modules[name]
    importlib.invalidate_caches()


def _write_dist_info(site: Path, name: str, version: str, group: str, entry_points: Mapping[str, str]) -> None:
    info = site / f"{re.sub(r'[-_.]+', '_', name)}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{entry} = {target}" for entry, target in entry_points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    record = []
    for file in sorted(file for file in site.rglob("*") if file.is_file()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
        record.append(f"{file.relative_to(site).as_posix()},sha256={digest},{file.stat().st_size}\n")
    (info / "RECORD").write_text("".join([*record, f"{info.name}/RECORD,,\n"]), encoding="utf-8")


# --- a recipe, a model, answers --------------------------------------------------------------------------------------


class WriteRecipe(Protocol):
    """The type of the fixture `ftp_recipe`."""

    def __call__(self, **overrides: Any) -> Path: ...


@pytest.fixture
def ftp_recipe(tmp_path: Path) -> WriteRecipe:
    """Write a small, valid recipe with its data (12 training rows, 4 held out) and return the recipe's path.

    Keywords change the recipe: blocks are merged key by key, except that one with another `use:` replaces the old
    block; None removes a key; anything else replaces the old value. The model is only a name that doesn't exist:
    `ftp_recipe(model={"id": str(ftp_tiny_model)})` gives a recipe that runs.
    """

    def write(**overrides: Any) -> Path:
        import yaml

        numbers = range(2, 18)
        rows = [{"instruction": f"Double {n}.", "context": "", "response": f"{n} doubled is {2 * n}."} for n in numbers]
        for name, part in (("train", rows[:12]), ("heldout", rows[12:])):
            text = "".join(json.dumps(row) + "\n" for row in part)
            (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
        recipe = {
            "name": "small",
            "model": {"use": "huggingface", "id": "example/model"},
            "adapter": {"use": "lora", "r": 4},
            "data": {
                "train": [{"path": "train.jsonl", "format": {"use": "instruct"}}],
                "validation": "25%",
                "evals": {"heldout": {"path": "heldout.jsonl", "format": {"use": "instruct"}}},
            },
            "train": {"use": "sft", "epochs": 1, "batch_size": 4},
            "evaluate": [{"use": "exact_match"}],
        }
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(_merged(recipe, overrides), sort_keys=False), encoding="utf-8")
        return file

    return write


def _merged(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)) or new.get("use", old.get("use")) != old.get("use"):
        return new
    merged = {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return {key: value for key, value in merged.items() if value is not None}


@pytest.fixture(scope="session")
def ftp_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a tiny Llama (2 layers, 123,200 random weights) in Hugging Face's layout.

    Its byte-level tokenizer can encode any text, puts a BOS before plain text, and has a ChatML-like template that
    writes the BOS itself; `<|im_end|>` ends a turn. It is built on demand with the same bytes every time; all tests
    share one copy, so don't write to it.
    """
    directory = tmp_path_factory.mktemp("tiny-model")
    write_tiny_model(directory)
    return directory


@pytest.fixture
def ftp_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a model hub on loopback and have this process, and those it starts, ask that one and no other.

    `ftp_hub.add("org/name", directory)` commits a model (`kind="datasets"` a data set) and returns the commit; see
    `ftp.testing.hub.Hub`. The caches begin empty. It needs starlette and uvicorn.
    """
    import datasets.config
    from huggingface_hub import constants

    with Hub().served() as hub:
        home = tmp_path / "hf-home"
        for name, value in hub.environment(home).items():
            monkeypatch.setenv(name, value)
        # The libraries have read their settings when they were imported.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        yield hub


class MakeAnswers(Protocol):
    """The type of the fixture `ftp_answers`."""

    def __call__(self, rows: Sequence[tuple[str, str, str, str]], *, name: str = "heldout") -> EvalView: ...


@pytest.fixture
def ftp_answers() -> MakeAnswers:
    """Make the `ftp.EvalView` that an evaluator gets: `ftp_answers([(prompt, reference, base answer, tuned answer)])`.

    Token counts are word counts, and losses are plausible: the tuned model's are a quarter lower.
    """
    return answers_view
