"""JSON that a schema allows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import ftp

FENCED = re.compile(r"\A\s*```(?:json)?[ \t]*\n(.*?)\n?```\s*\Z", re.DOTALL)
"""An answer that is one fenced block."""


class JSONSchema(ftp.Evaluator):
    """1 if the answer is JSON that a JSON schema allows, in a fenced block or without; else 0.

    The schema's `$schema` names its draft; without it, Draft 2020-12 holds. A schema may refer to its own parts only:
    nothing is fetched.
    """

    requires: ClassVar[tuple[str, ...]] = ("jsonschema", "scipy")

    file: ftp.FilePath | None = None
    """A JSON file with the schema."""
    inline: dict[str, Any] | None = None
    """The schema itself."""
    fenced: bool = True
    """Whether an answer may stand in a fenced block (```json)."""

    def files(self) -> Sequence[Path]:
        return [Path(self.file)] if self.file is not None else []

    def problems(self) -> list[str]:
        if (self.file is None) == (self.inline is None):
            return ["needs a schema: either `file:` or `inline:`"]
        option = "inline" if self.file is None else "file"
        try:
            self._check_schema(self._schema)
        except OSError as error:
            return [f"file: {self.file}: {error.strerror}"]
        except (ValueError, RecursionError) as error:
            return [f"{option}: not a JSON schema: {error}"]
        return []

    def score(self, example: ftp.Example, answer: str) -> ftp.Score:
        found = FENCED.match(answer) if self.fenced else None
        try:
            value = json.loads(found[1] if found else answer, parse_constant=_refuse)
        except RecursionError:
            return ftp.Score(0.0, "nested too deep")
        except ValueError as error:
            return ftp.Score(0.0, f"not JSON: {error}")
        try:
            wrong = next(_validator(json.dumps(self._schema)).iter_errors(value), None)
        except RecursionError:
            return ftp.Score(0.0, "nested too deep")
        return ftp.Score(1.0) if wrong is None else ftp.Score(0.0, f"{wrong.json_path}: {wrong.message[:200]}")

    @cached_property
    def _schema(self) -> Any:
        return json.loads(Path(self.file).read_text(encoding="utf-8")) if self.file is not None else self.inline

    @staticmethod
    def _check_schema(schema: Any) -> None:
        try:
            from jsonschema.exceptions import SchemaError
            from jsonschema.validators import Draft202012Validator, validator_for
        except ImportError:  # the check of the required packages reports it
            return
        if not isinstance(schema, dict | bool):
            raise ValueError("it is no object")
        try:
            validator_for(schema, default=Draft202012Validator).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"{error.json_path}: {error.message[:200]}") from None
        if outside := _references_outside(schema):
            raise ValueError(f"it refers to {outside}, and nothing is fetched; put that part into $defs")


@lru_cache
def _validator(schema: str) -> Any:
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    # An empty registry: jsonschema's own would fetch what a schema refers to.
    return validator_for(parsed, default=Draft202012Validator)(parsed, registry=Registry())


def _references_outside(schema: Any) -> str | None:
    """Return the first `$ref` of a schema that doesn't lead to a part of itself."""
    if isinstance(schema, dict):
        target = schema.get("$ref")
        if isinstance(target, str) and not target.startswith("#"):
            return target
        return next((found for part in schema.values() if (found := _references_outside(part))), None)
    if isinstance(schema, list):
        return next((found for part in schema if (found := _references_outside(part))), None)
    return None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
