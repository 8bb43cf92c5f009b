"""Learning rates in words: how a rate compares with the usual ones of an adapter."""

from __future__ import annotations

import math

from ftp.components import Adapter
from ftp.guard import call

USUAL_BATCH = 16
"""Rows of an optimizer step for which the usual learning rates were found (Dettmers et al. 2023, arXiv:2305.14314)."""


def rate_problem(adapter: Adapter, rate: float, batch: int) -> str | None:
    """Return a warning of a learning rate outside the usual range of an adapter, or None.

    Args:
        batch: rows of an optimizer step.
    """
    usual = adapter.learning_rates
    return None if usual is None or usual[0] <= rate <= usual[1] else rate_in_words(adapter, rate, batch)


def rate_in_words(adapter: Adapter, rate: float, batch: int) -> str:
    """Describe how a learning rate compares with the usual ones of an adapter, given its scale and the batch size.

    The best rate grows roughly with the square root of the batch size (for Adam: Malladi et al. 2022,
    arXiv:2205.10287).

    Args:
        batch: rows of an optimizer step.
    """
    if adapter.learning_rates is None:
        return f"the usual learning rates of '{adapter.used_as}' are not known"
    low, high = adapter.learning_rates
    where = "below" if rate < low else "above" if rate > high else "within"
    words = [f"{rate_shown(rate)} is {where} the usual {rate_shown(low)} to {rate_shown(high)} of '{adapter.used_as}'"]
    scale, why = call(tuple, adapter.update_scale)
    if not math.isclose(scale, 1):
        words.append(f"{why}: the weights move as if the rate were {rate_shown(rate * scale)}")
    grows = math.sqrt(batch / USUAL_BATCH)
    if not 0.6 < grows < 1.6:
        words.append(
            f"a step has {batch} row{'s' if batch > 1 else ''}: good rates grow roughly with the square root of it, "
            f"so the usual ones for {USUAL_BATCH} rows become {rate_shown(low * grows)} to {rate_shown(high * grows)}"
        )
    return "; ".join(words)


def rate_shown(rate: float) -> str:
    """Format a learning rate with two significant digits, as people write it: 2e-4."""
    mantissa, _, exponent = f"{rate:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
