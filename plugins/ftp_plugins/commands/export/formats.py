"""The formats that a command line names, as exporters with their options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import ValidationError

from ftp.components import Exporter
from ftp.errors import RecipeError, RunError, did_you_mean
from ftp.guard import call
from ftp.plugins import Plugins, missing_packages
from ftp.slots import Slots


def exporters_for(
    formats: Sequence[str], settings: Sequence[str], output: Path | None, plugins: Plugins
) -> list[Exporter]:
    """Return the exporters of these formats.

    Args:
        settings: `option=value` each, with the value in YAML; dots lead into blocks.

    Raises:
        RunError: no such format, a package that it needs is missing, or options that are given to several formats.
        RecipeError: an option that the format doesn't have, or a value that it doesn't take.
    """
    if (settings or output) and len(formats) > 1:
        raise RunError("--set and -o are for one format; name one")
    return [_exporter(name, settings, plugins) for name in dict.fromkeys(formats)]


def _exporter(name: str, settings: Sequence[str], plugins: Plugins) -> Exporter:
    offers = plugins.offers("exporters")
    if name not in offers:
        raise RunError(f"no format '{name}'{did_you_mean(name, offers)}")
    problems = list(missing_packages(offers[name]))
    if problems:
        raise RunError("\n".join(f"{name}: {problem}" for problem in problems))
    try:
        slots, cls = Slots(plugins), offers[name].component
        options = json.dumps(_options(settings))  # as strict as a recipe
        block = slots.model(cls).model_validate_json(options, strict=True, context={"directory": str(Path.cwd())})
        exporter = slots.rebuilt(cls, block, use=name)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
        raise RecipeError([f"{name}: {line}" for line in found]) from None
    if problems := call(list, exporter.problems):
        raise RecipeError([f"{name}: {problem}" for problem in problems])
    return cast(Exporter, exporter)


def _options(settings: Sequence[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise RecipeError([f"--set {setting}: say OPTION=VALUE"])
        *blocks, last = path.split(".")
        place = options
        for block in blocks:
            place = place.setdefault(block, {})
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError([f"--set {setting}: the value is no YAML"]) from None
    return options
