"""The choice of decoder layers that an adapter trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

import ftp

Layers = (
    Literal["all"]
    | Annotated[str, Field(pattern=r"^last [1-9]\d*$")]
    | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
)
"""Decoder layers: `all`, `last 8`, or a list of numbers that begin at 0."""


def layer_numbers(layers: Layers, count: int) -> list[int]:
    """Return the numbers of the chosen layers of a model that has `count` of them, in ascending order.

    Raises:
        ModelError: it has fewer.
    """
    if layers == "all":
        return list(range(count))
    if isinstance(layers, str):
        wanted = int(layers.removeprefix("last "))
        if wanted > count:
            raise ftp.ModelError(f"layers: {layers}: the model has {count} layers")
        return list(range(count - wanted, count))
    if max(layers) >= count:
        raise ftp.ModelError(f"layers: {max(layers)}: the model has {count} layers, 0 to {count - 1}")
    return sorted(set(layers))
