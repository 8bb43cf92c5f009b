"""The rubric for grading answers: criteria with described levels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

import ftp
from ftp.errors import did_you_mean
from ftp.options import Options


class Criterion(Options):
    """One thing an answer is graded on."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,39}$")
    """Its name, which is also that of the metric."""
    description: str = Field(min_length=1)
    """The question that it asks about an answer."""
    levels: list[str] = Field(min_length=2, max_length=10)
    """The meaning of each level, the lowest first; the first one is 1."""

    def text(self) -> str:
        """Return the criterion as the judge reads it."""
        levels = "".join(f"\n  {level}: {meaning}" for level, meaning in enumerate(self.levels, 1))
        return f"{self.name}: {self.description}{levels}"


DEFAULTS = {
    "accuracy": Criterion(
        name="accuracy",
        description="Is what the answer says true?",
        levels=[
            "wrong in the main point, or says nothing on it",
            "right in a part, with serious errors",
            "right in the main point, with errors that matter",
            "right, with small errors or inexact in details",
            "right in all it says",
        ],
    ),
    "helpfulness": Criterion(
        name="helpfulness",
        description="Does the answer do what the task asks, all of it, so that the reader can use it?",
        levels=[
            "does not do what is asked",
            "does little of it; the reader has to ask again",
            "does the main part and leaves out something that matters",
            "does what is asked, with small gaps or some ballast",
            "does all that is asked, clearly and to the point",
        ],
    ),
    "tone": Criterion(
        name="tone",
        description="Is the answer written as a careful professional would write to this reader?",
        levels=[
            "rude, careless or garbled",
            "clearly off: too casual, too stiff, or repeating itself",
            "acceptable, with turns of phrase that jar",
            "fitting, with small slips",
            "fitting throughout: clear, polite, natural",
        ],
    ),
}
"""The criteria that a recipe can name."""


def resolve(criteria: Sequence[str | Criterion]) -> list[Criterion]:
    """Return the criteria, with the names of default ones resolved.

    Raises:
        ValueError: what is wrong.
    """
    found = []
    for criterion in criteria:
        if isinstance(criterion, str):
            if criterion not in DEFAULTS:
                raise ValueError(f"no criterion '{criterion}' comes with FTP{did_you_mean(criterion, DEFAULTS)}")
            criterion = DEFAULTS[criterion]
        found.append(criterion)
    names = [criterion.name.casefold() for criterion in found]
    if not found or len(set(names)) < len(names):
        raise ValueError("each criterion needs a name of its own, and there has to be one")
    if "overall" in names:
        raise ValueError("'overall' is the mean of all criteria; give the criterion another name")
    if len({len(criterion.levels) for criterion in found}) > 1:
        raise ValueError("all criteria need the same number of levels, or their mean would mean nothing")
    return found


def read(file: str) -> list[Criterion]:
    """Read the criteria in a YAML file: a list of names and blocks, as in a recipe.

    Raises:
        DataError: what is wrong with it.
    """
    try:
        content: Any = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ftp.DataError([f"{file}: {what}"]) from None
    if not isinstance(content, list):
        raise ftp.DataError([f"{file}: it has to hold a list of criteria"])
    try:
        return resolve([item if isinstance(item, str) else Criterion.model_validate(item) for item in content])
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'criterion'}: {fault['msg']}" for fault in error.errors()]
        raise ftp.DataError([f"{file}: {fault}" for fault in faults]) from None
    except ValueError as error:
        raise ftp.DataError([f"{file}: {error}"]) from None
