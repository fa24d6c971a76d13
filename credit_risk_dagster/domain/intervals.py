"""Confidence intervals of shares, at 95 %."""

import math
from dataclasses import dataclass
from typing import Final

Z_95: Final = 1.959963984540054  # the normal distribution's quantile of 0.975


@dataclass(frozen=True)
class Interval:
    """An estimate between its limits; NaN where there is nothing to estimate from."""

    low: float
    value: float
    high: float


NOTHING: Final = Interval(math.nan, math.nan, math.nan)


def wilson_interval(successes: float, rows: float, z: float = Z_95) -> tuple[float, float] | None:
    """Score interval of a share (Wilson, 1927), for few rows and shares near 0 and 1 too; None
    without rows. Expected numbers may be fractions."""
    if not rows:
        return None
    share = successes / rows
    centre = share + z * z / (2 * rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    # At the ends the limits are exact; computed, they are a rounding error away.
    low = (centre - half) / scale if successes else 0.0
    high = (centre + half) / scale if successes < rows else 1.0
    return low, high


def share(part: float, whole: float) -> Interval:
    """A share with its `wilson_interval`."""
    limits = wilson_interval(part, whole)
    return NOTHING if limits is None else Interval(limits[0], part / whole, limits[1])


def difference(one: Interval, other: Interval) -> Interval:
    """The second of two independent shares less the first, of their `share`.

    Source: R. G. Newcombe, "Interval estimation for the difference between independent
    proportions: comparison of eleven methods", Statistics in Medicine 17 (1998), method 10: of the
    two shares' Wilson intervals.
    """
    value = other.value - one.value
    low = value - math.hypot(other.value - other.low, one.high - one.value)
    high = value + math.hypot(other.high - other.value, one.value - one.low)
    return Interval(low, value, high)


def paired_difference(both: int, gained: int, lost: int, whole: int) -> Interval:
    """The change of a share when the same cases are judged again: `both` times they had it and have
    it, `gained` have it now and had it not, `lost` the other way round.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998), method 10: of the two
    shares' Wilson intervals. Wald's covers 59 to 83 % where few cases move, and is empty where none
    does; Agresti and Min's 86 % where all that move gain.
    """
    if not whole:
        return NOTHING
    now, before = share(both + gained, whole), share(both + lost, whole)
    neither = whole - both - gained - lost
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    together = float(both * neither - gained * lost)
    if together > 0:  # a correction for continuity
        together = max(together - whole / 2, 0)
    alike = together / math.sqrt(margins) if margins else 0.0

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(one**2 - 2 * alike * one * other + other**2, 0))

    value = (gained - lost) / whole
    low = value - distance(now.value - now.low, before.high - before.value)
    high = value + distance(now.high - now.value, before.value - before.low)
    return Interval(low, value, high)
