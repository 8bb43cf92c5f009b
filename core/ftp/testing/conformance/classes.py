"""What a component's class reveals without an instance: its structure, its docstrings, its options and its imports."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Sequence
from typing import get_args

from ftp.components import (
    KINDS,
    BringsEvals,
    Component,
    Engine,
    Evaluator,
    Formatter,
    Loader,
    LoadsTokenizer,
    MeasuresModel,
    Trainer,
    unfinished,
)
from ftp.options import AnswerOptions
from ftp.testing.conformance.common import own_classes, source, sources
from ftp.types import Kind

HEAVY = frozenset(("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes", "openai"))
"""Libraries that take seconds to import, so that no module may import them before a run needs them."""
MIXINS = ((Evaluator, BringsEvals), (Evaluator, MeasuresModel), (Loader, LoadsTokenizer))
"""The mixins, each with the kind that it is for."""


def problems_of(cls: type[Component]) -> Iterator[str]:
    """Return what is wrong with a component class, a sentence for each problem."""
    yield from _wrong_shape(cls)
    yield from _missing_docstrings(cls)
    yield from _unread_options(cls)
    yield from _wrong_imports(cls)


def _wrong_shape(cls: type[Component]) -> Iterator[str]:
    missing = unfinished(cls)
    if missing:
        yield f"it {missing}."
    if not cls.model_config.get("frozen"):
        yield "its options can be changed after it is made; leave model_config's frozen on."
    if cls.model_config.get("extra") != "forbid":
        yield "it takes options that it doesn't have; leave model_config's extra at 'forbid'."
    if "use" in cls.model_fields:
        yield "it has an option called 'use', which in a recipe names the component itself."
    if issubclass(cls, Formatter) and cls.makes not in get_args(Kind):
        yield f"makes is {cls.makes!r}; it has to be one of {', '.join(get_args(Kind))}."
    if issubclass(cls, Evaluator | Trainer) and not (
        isinstance(cls.takes, tuple) and cls.takes and set(cls.takes) <= set(get_args(Kind))
    ):
        yield f"takes is {cls.takes!r}; it has to be a tuple of some of {', '.join(get_args(Kind))}."
    # A class has a mixin by defining its method, too; then the mixin is not among its bases.
    mixins = [mixin for kind, mixin in MIXINS if issubclass(cls, kind) and issubclass(cls, mixin)]
    for base in dict.fromkeys((*cls.__mro__, *mixins)):
        if not base.__module__.startswith("ftp.components."):
            continue
        for name, method in vars(base).items():
            if not inspect.isfunction(method) or name.startswith("_"):
                continue
            arguments = list(inspect.signature(method).parameters)
            try:
                inspect.signature(getattr(cls, name)).bind(*arguments)
            except (TypeError, ValueError):
                yield f"{name} has to be callable as {name}({', '.join(arguments[1:])})."


def _missing_docstrings(cls: type[Component]) -> Iterator[str]:
    if not (cls.__doc__ or "").strip():
        yield "the class has no docstring; it is the component's help."
    for name, field in cls.model_fields.items():
        if not (field.description or "").strip():
            yield f"the option '{name}' has no docstring under it; it is the option's help."


def _unread_options(cls: type[Component]) -> Iterator[str]:
    trees = sources(cls)
    if not trees:
        yield f"the source of its module, {cls.__module__}, can't be read."
        return
    parts = [tree for tree in map(source, _own_imports(cls, trees)) if tree is not None]
    # A trainer hands its options on to its loss, and that to the parts of its own in the same folder.
    folders = {of.__module__.rpartition(".")[0] for of in own_classes(cls)} - {""}
    near = {name for name in _own_imports(cls, parts) if name.rpartition(".")[0] in folders}
    parts += [tree for tree in map(source, near) if tree is not None]
    nodes = [node for tree in (*trees, *parts) for node in ast.walk(tree)]
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    of_the_kind = {name for base in KINDS.values() if issubclass(cls, base) for name in base.model_fields}
    if issubclass(cls, Engine):
        of_the_kind |= set(AnswerOptions.model_fields)  # `Engine.options` hands them on
    for name in cls.model_fields:
        if name not in read | of_the_kind:  # FTP reads those that every component of the kind has
            yield f"nothing reads the option '{name}'; remove it, or use it (self.{name})."


def _own_imports(cls: type[Component], trees: Sequence[ast.Module]) -> set[str]:
    """Return the modules of its packages that a component imports, in functions too: they may read its options."""
    packages = {of.__module__.split(".")[0] for of in own_classes(cls)}
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and not node.level and str(node.module).split(".")[0] in packages:
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _wrong_imports(cls: type[Component]) -> Iterator[str]:
    modules = [of.__module__ for of in own_classes(cls)]
    packages = [".".join(module.split(".")[:depth]) for module in modules for depth in range(1, module.count(".") + 2)]
    for module in dict.fromkeys(packages):
        tree = source(module)
        for package in sorted(HEAVY.intersection(_imported(tree, on_import=True)) if tree else ()):
            yield f"{module} imports {package} at module level; import it inside the function that needs it."
    if not isinstance(cls.requires, tuple):
        yield f"requires is {cls.requires!r}; it has to be a tuple of import names."
        return
    for package in cls.requires:
        if not package.isidentifier() or importlib.util.find_spec(package) is None:
            yield f"requires names '{package}', which can't be imported here; it takes import names."
    names = {of.__name__ for of in own_classes(cls)}
    bodies = [
        node for tree in sources(cls) for node in tree.body if isinstance(node, ast.ClassDef) and node.name in names
    ]
    used = {package for body in bodies for package in _imported(body, on_import=False)}
    for package in sorted(used & HEAVY - set(cls.requires)):
        yield f"it imports {package}, which requires doesn't name."


def _imported(node: ast.AST, *, on_import: bool) -> Iterator[str]:
    """Return the top-level packages that a piece of source imports; with `on_import` only those imported on import."""
    for child in ast.iter_child_nodes(node):
        if on_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.split(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and not child.level:
            yield str(child.module).split(".")[0]
        yield from _imported(child, on_import=on_import)
