"""The rooms of the core and their floors: an import never runs up and never in a circle, also for types alone."""

import ast
import re
from pathlib import Path

import pytest

import ftp

CORE = Path(ftp.__file__).parent
DESIGN = (CORE.parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| ((?:`\w+`(?:, )?)+) \|", DESIGN, re.MULTILINE)
# From the ground up; rooms on one floor don't know each other.
FLOORS = [set(re.findall(r"\w+", rooms)) for _, rooms in sorted(ROWS, key=lambda row: int(row[0]))]
KERNEL = {
    *("errors", "types", "options", "components", "hookspecs", "guard"),
    "plugins",
    *("slots", "recipe"),
    "runs",
    "pipeline",
}
"""With `stages`, which put it to work, what a newcomer reads to understand FTP."""
KERNEL_LINES = 3150
PLUGINS = CORE.parents[1] / "plugins" / "ftp_plugins"
LONGEST = 60
"""Lines of a function that fits on a screen."""
MOST_CLOSURES = 3
"""Functions inside a function."""
SHARED_WORDS = {
    "adapter": "a kind of component",
    "reward": "what a trainer makes likelier",
    "hub": "a place of models and data sets",
    "run": "what a recipe makes",
    "openai": "a package, and the protocol of servers",
    "peft": "a package",
    "preference": "a kind of example (`ftp.types.Kind`), which several formatters may make",
    "feedback": "a kind of example",
    "text": "a kind of example, and plain English",
    "messages": "the turns of an `Example`, and plain English",
    "split": "train, validation or eval",
    "local": "plain English, and the launcher that messages name as an example",
    "loss": "what every trainer reports",
    "auto": "the value of an option that leaves a choice to FTP",
    "full": "plain English",
    "forgetting": "plain English",
    "judge": "plain English, in `ftp.stats`",
    "html": "the suffix of a page",
    "mlflow": "a package whose distribution has another name",
    "merged": "plain English",
    "code": "plain English",
    "function": "plain English",
    "length": "plain English",
    "json_schema": "the function that `ftp schema` prints the result of",
    "transformers": "the library, whose classes the contract names",
}
"""Names of built-in components that are also words of the core; none of them refers to the component there."""
OWN_VARIABLES = {"FTP_CACHE", "FTP_COLLECTIVE_SECONDS", "FTP_PLUGINS_DISABLED", "FTP_REPLAY", "FTP_USER_DATA"}
"""The core's own: caches of every component, plugins that are kept out, services that no component may call, and the
mark of a process that a launcher has started."""
OPTIONS_OF_BUILT_INS = {"best_by", "judgments.jsonl", "adapter_config.json", "report.html", "decontaminate"}
"""Options and files that belong to built-in components.

`best_by` is also a value of the events that `ftp.lm.training` emits, so the rehearsal and the test kit know it.
"""


def room_of(path, root=CORE):
    return path.relative_to(root).parts[0].removesuffix(".py")


def imports_of(path, package="ftp"):
    """Every module of a package that a module names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            yield from (f"{package}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{package}."))


MODULES = {path: set(imports_of(path)) for path in CORE.rglob("*.py") if not room_of(path).startswith("__")}
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for root in (CORE, PLUGINS) for path in root.rglob("*.py")}


def file_of(name, root=CORE):
    """The file of the module that a dotted name is, or is in."""
    parts = name.split(".")[1:]
    while parts:
        for path in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts) / "__init__.py"):
            if path in SOURCES:
                return path
        parts.pop()
    return None


def test_every_room_has_its_floor():
    assert {room_of(path) for path in MODULES} == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(CORE)))
def test_imports_between_rooms_go_down(path):
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    for name in MODULES[path]:
        room, other = room_of(path), name.split(".")[1]
        assert room == other or floor[other] < floor[room], f"{path.relative_to(CORE)} imports {name}"


@pytest.mark.parametrize(("root", "package"), [(CORE, "ftp"), (PLUGINS, "ftp_plugins")])
def test_no_circle_of_modules(root, package):
    graph = {
        path: {file_of(name, root) for name in imports_of(path, package)} - {None, path}
        for path in SOURCES
        if path.is_relative_to(root) and not room_of(path, root).startswith("__")
    }
    done = set()

    def visit(path, above):
        assert path not in above, " -> ".join(str(p.relative_to(root)) for p in (*above, path))
        if path not in done:
            for other in graph.get(path, ()):
                visit(other, (*above, path))
            done.add(path)

    for path in graph:
        visit(path, ())


def test_the_kernel_knows_no_language_models():
    for path, names in MODULES.items():
        if room_of(path) in KERNEL:
            assert not any(name.startswith("ftp.lm") for name in names), path


def test_modules_with_torch_are_imported_in_functions_only():
    for root in (CORE, CORE.parents[1] / "plugins"):
        for path in root.rglob("*.py"):
            if path.name.startswith("torch_"):
                continue
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import | ast.ImportFrom):
                    names = [getattr(node, "module", "") or "", *(alias.name for alias in node.names)]
                    assert not any(part.startswith("torch_") for name in names for part in name.split(".")), path


def test_commands_import_nothing_of_the_core_when_they_are_named():
    for path in (CORE / "cli").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("ftp")
                and path.stem not in ("show", "seeds", "memory", "console")
            ):
                assert node.module.startswith("ftp.cli"), f"{path.name} imports {node.module}"


def names_offered():
    """The names that the built-in hooks return, read from their source: no plugin is installed here."""
    for path in (*PLUGINS.glob("*/__init__.py"), PLUGINS / "formatters" / "formats.py"):
        keys = [key for node in ast.walk(SOURCES[path]) if isinstance(node, ast.Dict) for key in node.keys]
        yield from (key.value for key in keys if isinstance(key, ast.Constant))


def words_of(path):
    """The words in the strings of a module, docstrings too: as options, names and files are written."""
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[a-z][a-z0-9]+)?", node.value)


def test_the_core_names_no_built_in_component():
    names = set(names_offered())
    assert {"lora", "sft", "mix", "judge"} <= names >= SHARED_WORDS.keys()
    seen = set()
    for path in SOURCES:
        # The recipe of the test kit's fixture is made of built-in components; plugins of others are tested in it.
        if path.is_relative_to(CORE) and path != CORE / "testing" / "fixtures.py":
            found = {part for word in words_of(path) for part in (word, *word.split("."))} & names
            seen |= found
            assert found <= SHARED_WORDS.keys(), f"{path.relative_to(CORE)} names {found - SHARED_WORDS.keys()}"
    assert seen == SHARED_WORDS.keys(), "a word that the core no longer uses"


def test_the_core_knows_no_option_file_or_variable_of_a_plugin():
    for path in SOURCES:
        if path.is_relative_to(CORE):
            words = set(words_of(path))
            assert {word for word in words if word.startswith("FTP_")} <= OWN_VARIABLES, path
            if room_of(path) not in ("lm", "testing") and path != CORE / "stages" / "rehearsal.py":
                assert not words & OPTIONS_OF_BUILT_INS, path


def test_the_kernel_is_read_in_an_hour():
    counts = {path: path.read_text(encoding="utf-8").count("\n") for path in MODULES if room_of(path) in KERNEL}
    assert sum(counts.values()) <= KERNEL_LINES
    kernel, _, rest = DESIGN.partition("**The kernel**")[2].partition(". ")
    assert set(re.findall(r"`(\w+)`", kernel)) == KERNEL and rest.startswith(f"It has {KERNEL_LINES:,} lines at most.")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CORE.parents[1])))
def test_a_function_fits_on_a_screen(path):
    for node in ast.walk(SOURCES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGEST, f"{path.name}:{node.lineno}: {node.name} has {lines} lines"
            inner = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            assert len(inner) <= MOST_CLOSURES + 1, f"{path.name}:{node.lineno}: {node.name} has too many closures"


def test_nothing_frozen_is_set_and_nothing_global_is_keyed_by_identity():
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            assert ast.unparse(node) != "object.__setattr__" if isinstance(node, ast.Attribute) else True, path
        for node in tree.body:  # a module's own statements
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
                assert not any(isinstance(call.func, ast.Name) and call.func.id == "id" for call in calls), path
