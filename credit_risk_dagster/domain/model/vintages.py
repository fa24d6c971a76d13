"""Vintages: how loans of each month of issue went bad as they grew older."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.intervals import Z_95, Interval, share
from credit_risk_dagster.domain.model.observed import Days, Exposure

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Age:
    """A vintage at an age.

    Attributes:
        months: on book.
        watched: loans that were watched so long and had not been bad before.
        bads: of them those that went bad then.
        bad_rate: share of the vintage that was bad by then (Kaplan-Meier).
    """

    months: int
    watched: int
    bads: int
    bad_rate: Interval


@dataclass(frozen=True)
class Vintage:
    """The loans of a month.

    Attributes:
        month: of issue, YYYY-MM.
        loans: of which anything was observed.
        bads: that were bad at any time.
        bad_rate: bads by loans, which compares only vintages of the same age.
        months: on book, of the loan that was watched longest.
        shorter: that another vintage was watched for longer.
        curve: by age.
    """

    month: str
    loans: int
    bads: int
    bad_rate: Interval
    months: int
    shorter: bool
    curve: list[Age]


def vintages(decided: Days, exposure: Exposure) -> list[Vintage]:
    """The vintages, the oldest first; loans without a date or an observation are in none.

    Args:
        decided: the day of the first decision, shape (n,).
    """
    counted = ~np.isnat(decided) & (exposure.months >= 0)
    months = decided[counted].astype("datetime64[M]")
    ages, bad = exposure.months[counted], exposure.bad[counted]
    longest = int(ages.max(initial=0))
    found = []
    for month in np.unique(months):
        inside = months == month
        loans, bads, oldest = int(inside.sum()), int(bad[inside].sum()), int(ages[inside].max())
        curve = list(kaplan_meier(ages[inside], bad[inside]))
        found.append(
            Vintage(str(month), loans, bads, share(bads, loans), oldest, oldest < longest, curve)
        )
    return found


def kaplan_meier(ages: Integers, bad: Flags) -> Iterator[Age]:
    """The share that was bad by each age at which anybody's watch ended, when the others are
    watched for different times.

    Source: E. Kaplan, P. Meier, J. Am. Stat. Assoc. 53 (1958), with Greenwood's variance and the
    limits on the scale of log(-log(survival)) (J. Kalbfleisch, R. Prentice, 1980, 1.4).

    Args:
        ages: at the first bad observation, or else at the last one, shape (n,).
        bad: whether it is the former; else nobody looked later.
    """
    survival, variance = 1.0, 0.0
    for age in np.unique(ages):
        watched, bads = int((ages >= age).sum()), int((bad & (ages == age)).sum())
        survival *= 1 - bads / watched
        variance += bads / (watched * (watched - bads)) if watched > bads else math.inf
        yield Age(int(age), watched, bads, _limits(survival, variance))


def _limits(survival: float, variance: float) -> Interval:
    if survival in (0.0, 1.0):  # where nobody, or everybody, was bad, the scale has no value
        return Interval(math.nan, 1 - survival, math.nan)
    spread = math.exp(Z_95 * math.sqrt(variance) / -math.log(survival))
    return Interval(1 - survival ** (1 / spread), 1 - survival, 1 - survival**spread)
