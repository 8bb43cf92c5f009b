"""What so few examples, or examples so alike, can and can't show: an exact test, and a spread where none was seen."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ftp.stats.intervals import Estimate

FEWEST_THAT_TELL = 6
"""With fewer independent examples no exact two-sided test reaches 5%: the smallest p-value of five is 2 / 2^5."""
EXACT_UP_TO = 10
"""Up to this many examples or clusters Student's t is checked by the exact test."""
NO_SPREAD = 1e-9
"""A standard error below this share of the scores is rounding of numbers that are all the same."""


def sign_flip_p_value(sums: Any) -> float:
    """Return the two-sided p-value of no difference by flipping the signs of the groups' differences, all 2^G ways.

    Exact for differences that are as likely in either direction (Fisher 1935, The Design of Experiments, ch. 3; Pitman
    1937, JRSS Supplement 4:119), whatever else their distribution is: whole numbers, ties, one that outweighs the rest.

    Args:
        sums: float64 array of shape (G,), the summed difference of each group; G is at most `EXACT_UP_TO`.
    """
    import numpy as np

    groups = len(sums)
    signs = 1 - 2 * ((np.arange(2**groups)[:, None] >> np.arange(groups)) & 1)
    flipped = np.abs(signs @ sums)
    return float(np.mean(flipped >= abs(sums.sum()) * (1 - 1e-12)))


def checked(estimate: Estimate, sums: Any, fewest: int = EXACT_UP_TO + 1) -> Estimate:
    """Return the estimate with the exact test's p-value, where there are fewer than `fewest` groups.

    Args:
        sums: as in `sign_flip_p_value`.
    """
    return dataclasses.replace(estimate, exact=sign_flip_p_value(sums)) if len(sums) < fewest else estimate


def with_spread(estimate: Estimate, unit: float) -> Estimate:
    """Return the estimate with a standard error above 0, also where all differences are the same.

    Differences that are all the same don't say that the next one will be: of n examples without an exception up to
    about 3 in n may be exceptions (Hanley & Lippman-Hand 1983, JAMA 249:1743). They are taken for n of n changes of
    their own size, or for none of size `unit` where they are 0, with the adjusted Wald interval of such a count
    (Agresti & Min 2005, Statistics in Medicine 24:729).

    Args:
        unit: what one example's scores may differ by, above 0.
    """
    if not math.isfinite(estimate.error) or estimate.error > NO_SPREAD * max(abs(estimate.mean), unit):
        return estimate
    n = estimate.df + 1 if math.isfinite(estimate.df) else estimate.n
    same = abs(estimate.mean) <= NO_SPREAD * unit
    size, changed = (unit, 0.0) if same else (estimate.mean, n)
    error = abs(size) * math.sqrt(changed + 1 - changed**2 / (n + 2)) / (n + 2)
    return dataclasses.replace(estimate, error=error, centre=size * changed / (n + 2))
