"""What the documentation says is what the code does."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from ftp import cli, plugins, recipe
from ftp.components import KINDS, Formatter
from ftp.recipe.model import Data, Source
from ftp.stages.prepare_data import examples_of
from ftp.testing import assert_component_ok
from ftp_plugins.evaluators.exact_match import ExactMatch

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
READMES = [ROOT / "README.md", *sorted((ROOT / "contrib").glob("*/README.md"))]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.yaml"))
BREVITY = ROOT / "contrib" / "ftp-brevity" / "ftp_brevity.py"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    file: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str, files: list[Path] | None = None) -> list[Block]:
    found = []
    for file in [*DOCS, *READMES, ROOT / "CONTRIBUTING.md"] if files is None else files:
        text = file.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
            indent, language, body = match.groups()
            if language in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(file, line, language, re.sub(f"^{indent}", "", body, flags=re.MULTILINE)))
    return found


def is_recipe(block: Block) -> bool:
    keys = yaml.safe_load(block.text)
    return isinstance(keys, dict) and {"name", "model"} <= keys.keys()


def every(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found, ids=str)


# --- generated pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh(generate: ModuleType) -> None:
    assert generate.stale() == [], "run: python docs/generate.py"


def test_check_names_a_stale_page_and_fails(
    generate: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in generate.pages().items():
        (tmp_path / name).write_text(text.replace("Rank.", "Something else."), encoding="utf-8")
    (tmp_path / "cli.md").unlink()
    monkeypatch.setattr(generate, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        generate.main()
    assert ended.value.code == 1
    named = capsys.readouterr().err
    assert "docs/components.md" in named and "docs/cli.md" in named
    assert "docs/hooks.md" not in named and "docs/recipe.md" not in named


def test_generated_pages_hold_built_in_components_only(generate: ModuleType, ftp_install: Callable[..., Path]) -> None:
    before = generate.pages()
    ftp_install("ftp-brevity", BREVITY)
    assert generate.pages() == before


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> plugins.Plugins:
    """The built-in components, and those of the Python blocks: a recipe of the docs may name both."""
    directory = tmp_path_factory.mktemp("plugins")
    others = [plugin.name for plugin in plugins.load().plugins if plugin.distribution != "ftp-finetune"]
    files: dict[str, Path] = {}
    for number, block in enumerate(PLUGINS):
        file = directory / f"block_{number}.py"
        file.write_text(block.text, encoding="utf-8")
        files.setdefault(block.text.strip(), file)
    return plugins.load(list(files.values()), without=others)


def sources_of(keys: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from keys["data"]["train"]
    if isinstance(keys["data"].get("validation"), dict):
        yield keys["data"]["validation"]
    yield from keys["data"].get("evals", {}).values()


def good_row(formatter: Formatter) -> dict[str, Any]:
    """A row that a formatter can use: every text option but `system` names a column."""
    if formatter.used_as == "messages":
        turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
        return {formatter.model_dump()["messages"]: turns}
    if formatter.used_as == "sharegpt":
        turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
        return {formatter.model_dump()["conversations"]: turns}
    if formatter.used_as == "preference":
        return {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    if formatter.used_as == "feedback":
        return {"prompt": "Why?", "completion": "Because.", "label": True}
    options = formatter.model_dump(exclude={"system", "template"})
    in_template = re.findall(r"{(.+?)}", getattr(formatter, "template", None) or "")
    return {column: "Some words." for column in (*options.values(), *in_template) if isinstance(column, str)}


def write_rows(place: str, row: dict[str, Any], number: int, delimiter: str | None = None) -> None:
    """Put a data file of the right type where a source's path points: a file, a glob, or a directory."""
    import gzip

    import openpyxl
    import pyarrow
    import pyarrow.parquet

    file = Path(place.replace("**", "deep").replace("*", f"part{number}").replace("?", "x"))
    if not file.suffix:
        file = file / f"part{number}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({name: [value] for name, value in row.items()}), file)
        return
    if kind in (".csv", ".tsv"):
        comma = delimiter or ("," if kind == ".csv" else "\t")
        text = f"{comma.join(row)}\n{comma.join(map(str, row.values()))}\n"
    elif kind == ".xlsx":
        book = openpyxl.Workbook()
        book.active.append(list(row))
        book.active.append(list(row.values()))
        book.save(file)
        return
    else:
        text = json.dumps([row] if kind == ".json" else row) + "\n"
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())


def put_model(keys: dict[str, Any], directory: Path) -> None:
    """Make what a local model's path points to, as far as a check looks at it."""
    model = keys["model"]
    local = str(model.get("id", ""))
    if model["use"] == "huggingface" and local.startswith("."):
        (directory / local).mkdir(parents=True)
        (directory / local / "config.json").write_text("{}")
    if model["use"] == "gguf" and not model["file"].startswith("package:"):
        (directory / model["file"]).parent.mkdir(parents=True, exist_ok=True)
        (directory / model["file"]).write_bytes(b"GGUF")
    if model["use"] == "run":
        run = directory / model["path"]
        run.mkdir(parents=True)
        (run / "run.lock.json").write_text('{"recipe": {}, "data": {}, "packages": {}, "plugins": {}}')
        (run / "stages.json").write_text('{"train": {"inputs": {}, "finished": "2026-08-01T10:15:00+00:00"}}')


def assert_recipe_holds(text: str, directory: Path, installed: plugins.Plugins) -> None:
    file = directory / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    put_model(yaml.safe_load(text), directory)
    for curator in yaml.safe_load(text)["data"].get("curate", []):
        for place in curator.get("against", []):
            write_rows(str(directory / place), {"text": "Some words."}, 0)
    for evaluator in yaml.safe_load(text).get("evaluate", []):
        if evaluator["use"] == "forgetting":
            write_rows(str(directory / evaluator["instructions"]), {"instruction": "Greet.", "response": "Hello."}, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "a key that no call is made with")
        checked = recipe.read(file, installed)
    sources = [*checked.data.train, *checked.data.eval_sources.values()]
    if isinstance(checked.data.validation, Source):
        sources.append(checked.data.validation)
    for number, source in enumerate(sources):
        if source.path is not None:
            row = good_row(source.format) | ({source.group: "one"} if source.group else {})
            assert Path(source.path).is_relative_to(directory)
            write_rows(source.path, row, number, source.delimiter)
            assert [found for _, _, found in examples_of(source) if isinstance(found, str)] == []


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.name)
def test_recipe_file_is_valid(file: Path, tmp_path: Path, installed: plugins.Plugins) -> None:
    assert_recipe_holds(file.read_text(encoding="utf-8"), tmp_path, installed)


def test_there_are_recipes_for_every_adapter_loader_and_formatter() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in RECIPES)
    used = set(re.findall(r"use: (\w+)", text))
    assert {"lora", "qlora", "full", "huggingface", "gguf", "run", "mix", "sft"} <= used
    assert {"instruct", "alpaca", "sharegpt", "messages", "prompt_completion", "text"} <= used


@every([block for block in blocks("yaml") if is_recipe(block)])
def test_recipe_on_a_page_is_valid(block: Block, tmp_path: Path, installed: plugins.Plugins) -> None:
    assert_recipe_holds(block.text, tmp_path, installed)


BASE: dict[str, Any] = {
    "name": "base",
    "model": {"use": "huggingface", "id": "example/model"},
    "adapter": {"use": "lora"},
    "data": {
        "train": [{"path": "train.jsonl", "format": {"use": "instruct"}}],
        "evals": {"heldout": {"path": "heldout.jsonl", "format": {"use": "instruct"}}},
    },
    "train": {"use": "sft"},
    "evaluate": [{"use": "exact_match"}],
}
"""What a part of a recipe is put into."""


@every([block for block in blocks("yaml") if not is_recipe(block)])
def test_other_yaml_parses_and_a_part_of_a_recipe_fits_into_one(
    block: Block, tmp_path: Path, installed: plugins.Plugins
) -> None:
    keys = yaml.safe_load(block.text)
    if isinstance(keys, dict) and keys.keys() <= recipe.Recipe.model_fields.keys():
        rest = {key: value for key, value in BASE.items() if key not in keys}
        if "evals" not in keys.get("data", {"evals"}):
            rest.pop("evaluate", None)
        # Put together as text: only FTP's own reader knows that 1e-4 is a number.
        assert_recipe_holds(f"{yaml.safe_dump(rest)}\n{block.text}", tmp_path, installed)


# --- Python ----------------------------------------------------------------------------------------------------------

PYTHON = blocks("python")
PLUGINS = [block for block in PYTHON if "@ftp.hookimpl" in block.text]
OPTIONS = {"blend": {"parts": [ExactMatch(), ExactMatch(numbers=True)]}}
"""Options that a component on a page needs."""
TESTS = [block for block in PYTHON if re.search(r"^def test_", block.text, re.MULTILINE)]


@every(PLUGINS)
def test_plugin_block_loads_and_its_components_are_sound(block: Block, tmp_path: Path) -> None:
    file = tmp_path / f"{block.file.stem}_{block.line}.py".replace("-", "_").lower()
    file.write_text(block.text, encoding="utf-8")
    others = [plugin.name for plugin in plugins.load().plugins if plugin.distribution != "ftp-finetune"]
    found = plugins.load([file], without=others)
    assert found.clashes == []
    plugin = next(plugin for plugin in found.plugins if plugin.name.startswith("file:"))
    assert plugin.offers
    for kind, name in plugin.offers:
        assert_component_ok(found.offers(kind)[name].component, **OPTIONS.get(name, {}))


def test_there_is_an_example_of_every_kind() -> None:
    text = "".join(block.text for block in PLUGINS)
    assert [kind for kind in KINDS if f"def ftp_{kind}(" not in text] == []


@every([block for block in PYTHON if block not in PLUGINS and block not in TESTS])
def test_other_python_runs(block: Block) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "docs"})


@every(TESTS)
def test_test_block_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.slow
def test_the_tests_of_the_test_page_pass(tmp_path: Path) -> None:
    """As their reader would run them, beside the plugins that the docs define."""
    (tmp_path / "ftp_brevity.py").write_bytes(BREVITY.read_bytes())
    (tmp_path / "acme_tickets.py").write_text(next(b.text for b in PLUGINS if "class Tickets" in b.text))
    for number, block in enumerate(block for block in TESTS if block.file.name == "test-a-plugin.md"):
        (tmp_path / f"test_block_{number}.py").write_text(block.text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: minutes long\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


@pytest.mark.slow
def test_the_example_loader_adapter_trainer_and_reporter_make_a_run(
    tmp_path: Path, ftp_recipe: Callable[..., Path], ftp_tiny_model: Path, installed: plugins.Plugins
) -> None:
    from ftp import pipeline

    (tmp_path / "store" / "tiny").mkdir(parents=True)
    (tmp_path / "store" / "tiny" / "1").symlink_to(ftp_tiny_model)
    file = ftp_recipe(
        model={"use": "store", "model": "tiny", "root": str(tmp_path / "store")},
        adapter={"use": "norms"},
        train={"use": "plain", "learning_rate": 0.01},
        answers={"max_new_tokens": 8},
        evaluate=[{"use": "loss"}, {"use": "shape"}, {"use": "brevity"}],
        report=[{"use": "verdicts"}, {"use": "html"}],
    )
    checked = recipe.read(file, installed)
    run = pipeline.run(checked, installed, file, tmp_path / "runs", pipeline.Progress())
    nll = next(metric for evaluation in run.evaluations for metric in evaluation.metrics if metric.name == "nll")
    assert nll.tuned < nll.base
    assert (run.directory / "verdicts.txt").read_text().startswith("small ")
    assert 0 < run.training["trainable_parameters"] < run.training["total_parameters"]


def test_the_trainer_of_the_toolkits_page_is_short_and_has_all_the_parts(
    tmp_path: Path, ftp_recipe: Callable[..., Path], ftp_tiny_model: Path, installed: plugins.Plugins
) -> None:
    from ftp import pipeline
    from ftp.runs.directory import RunDirectory

    (trainer,) = (block.text for block in PLUGINS if "class Padded(" in block.text)
    code = trainer[trainer.index("class Padded(") : trainer.index("@ftp.hookimpl")]
    assert len(code.strip().splitlines()) <= 40
    file = ftp_recipe(
        model={"id": str(ftp_tiny_model), "device": "cpu"},
        train={"use": "padded", "epochs": 2},
        answers={"max_new_tokens": 4},
    )
    run = pipeline.run(recipe.read(file, installed), installed, file, tmp_path / "runs", pipeline.Progress())
    events = [event["event"] for event in RunDirectory(run.directory).events()]
    assert events.count("rehearsal") == 1 and events.count("validation") == 3 and events.count("checkpoint") == 3
    losses = [event["loss"] for event in RunDirectory(run.directory).events() if event["event"] == "validation"]
    assert losses[-1] < losses[0] and run.training["best_step"] == run.training["steps"] == 4


@pytest.mark.parametrize("file", [ROOT / "docs" / "write-a-plugin.md", ROOT / "README.md"], ids=lambda f: f.name)
def test_the_listing_of_brevity_is_the_package(file: Path) -> None:
    listings = [block.text for block in blocks("python", files=[file]) if "class Brevity" in block.text]
    if file.name != "README.md":
        assert listings
    assert [text for text in listings if text.strip() != BREVITY.read_text(encoding="utf-8").strip()] == []


def test_the_pyproject_of_brevity_is_the_package() -> None:
    import tomllib

    shown = next(block.text for block in blocks("toml") if "ftp-brevity" in block.text)
    whole = tomllib.loads((BREVITY.parent / "pyproject.toml").read_text(encoding="utf-8"))
    for table, keys in tomllib.loads(shown).items():
        assert whole[table] == keys


# --- command lines ---------------------------------------------------------------------------------------------------


def command_lines(block: Block) -> Iterator[list[str]]:
    """The arguments of every `ftp` command of a block."""
    for line in block.text.replace("\\\n", " ").split("\n"):
        for part in re.split(r"\s*(?:&&|\|\||;|\|)\s*", line.strip().removeprefix("$ ")):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # a line of output
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words[:3] in (["python", "-m", "ftp"], ["python3", "-m", "ftp"]):
                words = ["ftp", *words[3:]]
            if words and Path(words[0]).name == "ftp":
                upto = next((at for at, word in enumerate(words) if word.startswith((">", "2>"))), len(words))
                yield words[1:upto]


@every([block for block in blocks("bash", "console", "sh") if any(command_lines(block))])
def test_command_lines_name_commands_and_options_that_exist(block: Block) -> None:
    for arguments in command_lines(block):
        if arguments and not arguments[0].startswith("-"):
            command: click.Command | None = cli.cli
            while isinstance(command, click.Group) and arguments:
                command = command.get_command(click.Context(command), arguments[0])
                assert command is not None, f"{block}: {arguments[0]}"
                arguments = arguments[1:]
            assert command is not None
            if not {"-h", "--help"} & set(arguments):
                command.make_context(f"ftp {command.name}", arguments)
        else:
            assert set(arguments) <= {"-h", "--help", "--version"}, f"{block}: ftp {' '.join(arguments)}"


def test_a_wrong_option_would_be_found() -> None:
    with pytest.raises(click.NoSuchOption):
        importlib.import_module("ftp.cli.run").command.make_context("ftp run", ["recipe.yaml", "--epochs", "1"])


# --- completeness ----------------------------------------------------------------------------------------------------


def test_every_hook_component_option_and_command_is_in_the_docs(generate: ModuleType) -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in DOCS)
    missing = [hook for hook in (f"ftp_{kind}" for kind in KINDS) if f"## {hook}\n" not in text]
    page = (ROOT / "docs" / "components.md").read_text(encoding="utf-8")
    found = generate.built_in()
    for kind in KINDS:
        for name, offer in found.offers(kind).items():
            of_kind = page.split(f"\n## {kind.capitalize()}\n")[1].split("\n## ")[0]
            part = re.search(rf"^### {name}(?: {{.*}})?\n(.*?)(?=^##|\Z)", of_kind, re.MULTILINE | re.DOTALL)
            missing += [] if part else [name]
            missing += [
                f"{name}.{option}"
                for option in offer.component.model_fields
                if part and f"| `{option}` |" not in part.group(1)
            ]
    commands = {name: importlib.import_module(f"ftp.cli.{name}").command for name in cli.COMMANDS}
    data = importlib.import_module("ftp_plugins.commands.data").command
    commands |= {f"data {name}": command for name, command in data.commands.items()}
    commands |= {
        entry.name: entry.load() for entry in entry_points(group=cli.GROUP) if entry.dist.name == "ftp-finetune"
    }
    for name, command in commands.items():
        missing += [] if f"## ftp {name}\n" in text else [name]
        for param in command.params:
            missing += [flag for flag in param.opts if flag.startswith("-") and f"`{flag}`" not in text]
    for block in (recipe.Recipe, Data, Source):
        missing += [f"{block.__name__}.{key}" for key in block.model_fields if f"| `{key}` |" not in text]
    assert missing == []


def test_every_public_name_is_a_real_one() -> None:
    import ftp

    text = "".join(block.text for block in PYTHON) + "".join(
        " ".join(re.findall(r"`[^`]*`", file.read_text(encoding="utf-8"))) for file in [*DOCS, *READMES]
    )
    names = set(re.findall(r"\bftp\.([A-Za-z_]+)", text)) - {"commands"}
    modules = {file.stem for file in (ROOT / "core" / "ftp").iterdir()}
    assert sorted(name for name in names - modules if not hasattr(ftp, name)) == []


def slug(heading: str) -> str:
    from markdown.extensions.toc import slugify

    if given := re.search(r"\{ #(\S+) \}$", heading):  # as `attr_list` reads it
        return given[1]
    return str(slugify(re.sub(r"[`*]", "", heading), "-"))


@pytest.mark.parametrize("file", [*DOCS, *READMES, ROOT / "CONTRIBUTING.md"], ids=lambda f: str(f.relative_to(ROOT)))
def test_relative_links_resolve(file: Path) -> None:
    text = re.sub(r"^( *)```.*?^\1```", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    lost = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if not target.exists():
            lost.append(link)
        elif anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in map(slug, headings):
                lost.append(link)
    assert lost == []


# --- the site --------------------------------------------------------------------------------------------------------


def test_the_site_builds_strictly_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(DOCS)
    html = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(https?:[^\s\">]+)", html) == []
    links = re.findall(r"<link[^>]*>", html)
    assert [link for link in links if "stylesheet" in link or "preconnect" in link if re.search(r"https?:", link)] == []
    assert not (tmp_path / "site" / "generate.py").exists()
