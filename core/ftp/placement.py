"""Where a run runs: a placement file or the name of a launcher, read and validated like a recipe and kept apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftp.components import Launcher
from ftp.errors import LaunchError, RecipeError, did_you_mean
from ftp.mistakes.explain import explain
from ftp.options import Options
from ftp.plugins import Plugins, missing_packages
from ftp.slots import Slots, block_schema
from ftp.yaml_source import parse

ROOT = "on"
NAME = re.compile(r"([a-z][a-z0-9_]*)(?::([0-9]{1,6}))?")
"""`local`, or with a number of processes `local:2`."""


class Placement(Options):
    """The place of a run."""

    on: Launcher
    """What starts the processes of the run."""


def read_placement(text: str, plugins: Plugins) -> Launcher:
    """Return the launcher of `--on`.

    Args:
        text: the path of a placement file, such as one with `{use: local, processes: 2}`; or the name of a launcher,
            also with the number of processes: `local`, `local:2`.

    Raises:
        RecipeError: with every problem of the file, each with its place.
        LaunchError: there is neither such a file nor such a launcher.
    """
    content, origin, is_file = _content(text, plugins)
    document = parse(content, origin, (ROOT,), is_file=is_file)
    if not isinstance(document.data, dict):
        raise RecipeError([f"{origin}: a placement is a block such as `{{use: local, processes: 2}}`"])
    document.data = {ROOT: document.data}
    slots = Slots(plugins)
    model = slots.model(Placement)
    try:
        checked = model.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise RecipeError(document.problems + list(explain(error, model, document, plugins))) from None
    launcher = slots.rebuilt(Placement, checked).on
    offer = plugins.offer_of(launcher)
    found = [*launcher.problems(), *(missing_packages(offer) if offer else ())]
    problems = document.problems + [document.described((ROOT,), what) for what in found]
    if problems:
        raise RecipeError(problems)
    return launcher


def _content(text: str, plugins: Plugins) -> tuple[str, str, bool]:
    """Return the YAML of a placement, what to call its origin, and whether that is a file."""
    launchers = plugins.offers("launchers")
    name = NAME.fullmatch(text)
    if name and name[1] in launchers and not Path(text).exists():
        processes = f", processes: {name[2]}" if name[2] else ""
        return f"{{use: {name[1]}{processes}}}", f"--on {text}", False
    try:
        return Path(text).read_text(encoding="utf-8"), text, True
    except (OSError, ValueError) as error:
        known = did_you_mean(name[1] if name else text, launchers)
        what = getattr(error, "strerror", None) or "not UTF-8"
        raise LaunchError(f"--on {text}: no launcher of this name, and no file: {what}{known}") from None


def placement_schema(plugins: Plugins) -> dict[str, Any]:
    """Return the JSON schema (Draft 2020-12) of placement files for what is installed."""
    schema = block_schema(Placement, plugins)
    block = schema["properties"][ROOT]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "FTP placement",
        "$defs": schema.get("$defs", {}),
        **{key: value for key, value in block.items() if key != "description"},
    }
