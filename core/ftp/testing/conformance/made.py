"""What an instance of a component reveals: its options survive a recipe and another process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ftp import plugins
from ftp.components import Component
from ftp.slots import Slots, dump, has_slots
from ftp.testing.conformance.common import attempt, fail, pickled


def made(cls: type[Component], options: Mapping[str, Any]) -> Component:
    """Make a component with these options, and check that they survive a recipe and another process."""
    try:
        component = cls.model_validate(options)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors())
        fail(cls, f"can't be made with the options {dict(options)}: {found}; give options to assert_component_ok.")
    try:
        cls.model_validate({**options, "no_such_option": 1})
    except ValidationError:
        pass
    else:
        fail(cls, "takes an option that it doesn't have.")
    if any(has_slots(field.annotation) for field in cls.model_fields.values()):
        _check_slots(component)
    else:
        dumped = component.model_dump()
        if attempt(cls, cls.model_validate, dumped).model_dump() != dumped:
            fail(cls, "has other options after model_dump and model_validate.")
        if attempt(cls, cls.model_validate_json, component.model_dump_json(), strict=True).model_dump() != dumped:
            fail(cls, "has other options after model_dump_json and model_validate_json, as a recipe's blocks go.")
    try:
        copy = pickled(component)
    except Exception as error:
        fail(
            cls,
            f"can't be pickled ({error}); define the class at the top level of a module, and keep its state simple.",
        )
    if dump(copy) != dump(component):
        fail(cls, "has other options after pickling.")
    problems = attempt(cls, component.problems)
    if not isinstance(problems, list) or not all(isinstance(problem, str) for problem in problems):
        fail(cls, f"problems has to return a list of sentences; it returned {problems!r}.")
    return component


def _check_slots(component: Component) -> None:
    """Check that a component with slots comes back from a recipe; what is in its slots has to be installed."""
    cls, slots = type(component), Slots(plugins.load())
    named = slots.named(component)
    block = {name: value for name, value in dump(named).items() if name != "use"}
    read = attempt(cls, slots.model(cls).model_validate_json, json.dumps(block), strict=True)
    if dump(slots.rebuilt(cls, read, named.used_as)) != dump(named):
        fail(cls, "has other options after a recipe has written and read them.")
