"""The smallest true difference that an evaluation of this size finds in 80 of 100 cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ftp.stats.intervals import CONFIDENCE, POWER, Estimate, design_effect, quantile
from ftp.stats.small_samples import EXACT_UP_TO, FEWEST_THAT_TELL


def detectable(
    estimate: Estimate,
    differences: Sequence[float],
    clusters: Sequence[str] | None,
    *,
    unit: float,
    groups: int,
    tests: int = 1,
) -> float | None:
    """Return the smallest true difference that 80 of 100 such evaluations find, or None where none can be found.

    Args:
        differences: of each example; with weights, per unit of weight.
        unit: what one example's scores may differ by, above 0.
        groups: examples, or clusters, that carry weight.
        tests: the tests that share the 5%: 1 for a metric by itself. With Holm's procedure, those not yet rejected.

    A difference that is not there yet makes examples differ that agree so far, and those add to the variance. Leaving
    that out (the standard error that was observed, times 2.8) is right where nearly all examples differ, and far too
    hopeful where few do.
    """
    level = (1 - CONFIDENCE) / tests
    if groups < FEWEST_THAT_TELL or (groups <= EXACT_UP_TO and 2 / 2**groups > level):
        return None
    alpha, beta = quantile(1 - level / 2, estimate.df), quantile(POWER, estimate.df)
    if estimate.bound == 1:
        effect, _ = design_effect(differences, clusters)
        return _of_proportions(differences, len(differences) / effect, effect, alpha, beta)
    return _of_numbers(estimate, differences, unit, alpha, beta)


def _of_proportions(differences: Sequence[float], n: float, effect: float, alpha: float, beta: float) -> float | None:
    """Connor 1987, Biometrics 43:207, for McNemar's test, in n independent examples.

    As many are lost and gained by chance as the rarer kind was here, half a count added; the difference comes on top.
    """
    rarer = min(sum(d > 0 for d in differences), sum(d < 0 for d in differences))
    by_chance = 2 * (rarer / effect + 0.5) / (n + 2)

    def short(x: float) -> float:
        differ = min(1.0, by_chance + x)
        return x * math.sqrt(n) - alpha * math.sqrt(differ) - beta * math.sqrt(max(0.0, differ - x * x))

    return _zero(short, 1.0)


def _of_numbers(
    estimate: Estimate, differences: Sequence[float], unit: float, alpha: float, beta: float
) -> float | None:
    """Student's t, where the examples that agree so far come to differ by as much as the others do.

    A share x / size of them changing by `size` each has the variance x size - x².
    """
    if not math.isfinite(estimate.error) or estimate.error == 0:
        return None
    differing = [d for d in differences if d]
    agree = 1 - len(differing) / len(differences)
    size = math.sqrt(math.fsum(d * d for d in differing) / len(differing)) if differing else unit
    n = estimate.df + 1 if math.isfinite(estimate.df) else estimate.n

    def short(x: float) -> float:
        added = agree * max(0.0, x * size - x * x) / n
        return x - (alpha + beta) * math.sqrt(estimate.error**2 + added)

    return _zero(short, (alpha + beta) * (estimate.error + size) * 2)


def _zero(short: Callable[[float], float], most: float) -> float | None:
    """Return where the function passes 0 on its way up, or None where it is still below at `most`."""
    from scipy.optimize import brentq

    return float(brentq(short, 0.0, most)) if short(0.0) < 0 < short(most) else None
