"""Learning rates in words: how a rate compares with the usual ones of an adapter."""

from __future__ import annotations

import math

from ftp.components import Adapter
from ftp.guard import call

USUAL_BATCH = 16
"""Rows of an optimizer step for which the usual learning rates were found (Dettmers et al. 2023, arXiv:2305.14314)."""

EDGE = 1e-9
"""Relative error of a range's ends that rounding may have made."""


def rate_problem(adapter: Adapter, rate: float, batch: int, share: float = 1.0) -> str | None:
    """Return a warning of a learning rate outside the usual range of an adapter, or None.

    Args:
        batch: rows of an optimizer step.
        share: the usual rates of the trainer's loss, as a share of those of supervised fine-tuning.
    """
    usual = adapter.learning_rates
    within = usual is None or usual[0] * share * (1 - EDGE) <= rate <= usual[1] * share * (1 + EDGE)
    return None if within else rate_in_words(adapter, rate, batch, share)


def rate_in_words(adapter: Adapter, rate: float, batch: int, share: float = 1.0) -> str:
    """Describe how a learning rate compares with the usual ones of an adapter, given its scale and the batch size.

    The best rate grows roughly with the square root of the batch size (for Adam: Malladi et al. 2022,
    arXiv:2205.10287).

    Args:
        batch: rows of an optimizer step.
        share: as for `rate_problem`.
    """
    if adapter.learning_rates is None:
        return f"the usual learning rates of '{adapter.used_as}' are not known"
    low, high = (usual * share for usual in adapter.learning_rates)
    where = "below" if rate < low * (1 - EDGE) else "above" if rate > high * (1 + EDGE) else "within"
    of = f"'{adapter.used_as}'" + ("" if share == 1 else " with this loss")
    words = [f"{rate_shown(rate)} is {where} the usual {rate_shown(low)} to {rate_shown(high)} of {of}"]
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
