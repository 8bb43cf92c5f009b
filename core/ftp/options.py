"""Blocks of options and the types of their values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema


def _share(value: object) -> object:
    if isinstance(value, str) and value.endswith("%"):
        try:
            return float(value[:-1]) / 100
        except ValueError:
            return value
    return value


Share = Annotated[
    float,
    BeforeValidator(_share),
    Field(ge=0, lt=1),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
                {"type": "string", "pattern": r"^\d+(\.\d+)?%$"},
            ]
        }
    ),
]
"""A part of a whole, from 0 up to but not including 1: `5%` or `0.05`."""


def _beside_the_recipe(value: str, info: ValidationInfo) -> str:
    base = (info.context or {}).get("directory")
    try:
        return str(Path(base, Path(value).expanduser())) if base else value
    except RuntimeError:
        raise ValueError("the home directory of this user is not known; write the whole path") from None


FilePath = Annotated[str, Field(min_length=1), AfterValidator(_beside_the_recipe)]
"""A path in a recipe: relative ones count from the recipe's own directory."""


class Options(BaseModel):
    """A block of options: frozen, unknown keys are refused, and the docstring below a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    also_known_as: ClassVar[Mapping[str, str]] = {}
    """What other tools call these options, and what they are called here: `{"lr": "learning_rate"}`. An empty name
    stands for the block itself. For the hint that an unknown key gets; they are not accepted."""


PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Pattern for names that become file names; file systems limit their length."""


class Decoding(Options):
    """How an answer is generated, whoever answers. Greedy by default."""

    also_known_as: ClassVar[Mapping[str, str]] = {"max_tokens": "max_new_tokens"}

    max_new_tokens: int = Field(default=256, ge=1)
    """The longest answer, in tokens. A longer one is cut off and marked as cut."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 always takes the most likely token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have this probability (nucleus sampling, Holtzman et al. 2020,
    arXiv:1904.09751)."""
    samples: int = Field(default=1, ge=1)
    """Answers to each prompt. Scores are means over them, with intervals clustered by prompt; needs a temperature."""


class AnswerOptions(Decoding):
    """How a model in memory answers the eval sets."""

    batch_size: int = Field(default=32, ge=1)
    """Prompts answered at once."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """For sampling."""


class Proof(Options):
    """How an export is compared with the model of the run. A bound that is left out is the format's usual one."""

    prompts: int = Field(default=16, ge=1)
    """Prompts to compare on: the first of the eval sets, or of the validation rows where there are none."""
    max_new_tokens: int = Field(default=32, ge=1)
    """The longest greedy answer to compare."""
    kl: float | None = Field(default=None, ge=0)
    """Largest mean KL (Kullback-Leibler) from the model of the run, in nats per token."""
    top1: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of positions with the same likeliest token."""
    same_answers: float | None = Field(default=None, ge=0, le=1)
    """Smallest share of prompts with the same greedy answer."""
