"""No test reads, sets or imports an underscore name of FTP: what a test needs is public, or is given as an argument."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = [path for folder in ("tests", "contrib") for path in sorted((ROOT / folder).rglob("*.py"))]
OF_OTHERS = {
    "_replace": "namedtuple's public method",
    "_exit": "os._exit, which ends a process without cleaning up",
    "_base_client": "openai has no option for the wait between two tries, and tests would take minutes",
}
"""Underscore names of other libraries that tests use, and why."""
FUNCTIONS = ("getattr", "setattr", "delattr")


def is_private(name):
    return any(part.startswith("_") and not part.startswith("__") for part in name.split(".")) and not (
        set(name.split(".")) & OF_OTHERS.keys()
    )


def own_names(node):
    """Return the underscore names that a class defines or sets on `self`: those of a test's own classes."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            yield part.name
        elif isinstance(part, ast.AnnAssign | ast.Assign):
            targets = part.targets if isinstance(part, ast.Assign) else [part.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
            yield from (
                target.attr
                for target in targets
                if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self"
            )


def private_uses(tree):
    """Yield the line and the name of every private attribute or module that is not defined in the file itself."""
    own = {name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for name in own_names(node)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in FUNCTIONS:
            texts = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
            names = [text for text in texts if isinstance(text, str)]
        yield from ((node.lineno, name) for name in names if is_private(name) and name not in own)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_touched(path):
    assert list(private_uses(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "source",
    [
        "from ftp.results import _read",
        "import ftp._hidden",
        "model._work",
        "monkeypatch.setattr(pages, '_limit', 3)",
        "monkeypatch.setattr('ftp.files._limit', 3)",
        "getattr(model, '_work')",
    ],
)
def test_a_private_name_is_found(source):
    assert len(list(private_uses(ast.parse(source)))) == 1


def test_a_class_of_the_test_may_have_private_names():
    assert (
        list(private_uses(ast.parse("class Mine:\n    _seen: list = []\n    def see(self):\n        self._seen"))) == []
    )
