"""What an instance of a component reveals: its options survive a recipe and another process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ftp.components import Component
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
    if copy.model_dump() != dumped:
        fail(cls, "has other options after pickling.")
    problems = attempt(cls, component.problems)
    if not isinstance(problems, list) or not all(isinstance(problem, str) for problem in problems):
        fail(cls, f"problems has to return a list of sentences; it returned {problems!r}.")
    return component
