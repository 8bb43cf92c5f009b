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
    "errors",
    "types",
    "options",
    "files",
    "progress",
    "components",
    "hookspecs",
    "guard",
    "plugins",
    "recipe",
    "runs",
}
"""With `pipeline` and `stages`, which put it to work, what a newcomer reads to understand FTP."""


def room_of(path):
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imports_of(path):
    """Every module of the core that a module names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "ftp":
            yield from (f"ftp.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ftp."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("ftp."))


MODULES = {path: set(imports_of(path)) for path in CORE.rglob("*.py") if not room_of(path).startswith("__")}


def file_of(name):
    """The file of the module that a dotted name is, or is in."""
    parts = name.split(".")[1:]
    while parts:
        for path in (CORE.joinpath(*parts).with_suffix(".py"), CORE.joinpath(*parts) / "__init__.py"):
            if path in MODULES:
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


def test_no_circle_of_modules():
    graph = {path: {file_of(name) for name in names} - {None, path} for path, names in MODULES.items()}
    done = set()

    def visit(path, above):
        assert path not in above, " -> ".join(str(p.relative_to(CORE)) for p in (*above, path))
        if path not in done:
            for other in graph[path]:
                visit(other, (*above, path))
            done.add(path)

    for path in graph:
        visit(path, ())


def test_the_kernel_knows_no_language_models():
    for path, names in MODULES.items():
        if room_of(path) in KERNEL | {"pipeline"}:
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
                and path.stem not in ("show", "seeds", "memory")
            ):
                assert node.module.startswith("ftp.cli"), f"{path.name} imports {node.module}"
