"""Whether people of one kind are flagged, or missed, more often than people of another.

The figures are those of US fair lending practice; they find where to look, and prove nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.intervals import Z_95, Interval, share

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Verdict = Literal["too_few_rows", "fair", "warning", "alarm"]

MIN_ROWS: Final = 100
WARNING: Final = 0.90
ALARM: Final = 0.80  # the four-fifths rule (29 CFR 1607.4 D)


@dataclass(frozen=True)
class Segment:
    """People of one value of an attribute, against the value with the largest share not flagged.

    Attributes:
        not_flagged: share, with its interval.
        ratio: adverse impact ratio: that share by the reference's, with Katz's interval (Biometrics
            34, 1978).
        difference: of the mean score from the reference's, in standard deviations of both together;
            NaN without a score.
        recall, false_positive: share of the bad loans, and of the good ones, that are flagged;
            NaN without outcomes.
    """

    attribute: str
    value: str
    rows: int
    flagged: int
    reference: str
    not_flagged: Interval
    ratio: Interval
    difference: float
    recall: Interval
    false_positive: Interval
    verdict: Verdict


def by_segment(
    attributes: Mapping[str, npt.NDArray[Any]],
    flagged: Flags,
    score: Floats | None = None,
    bad: Floats | None = None,
) -> list[Segment]:
    """Compare the values of each attribute, the worst ratio first.

    The reference is the value with the largest share not flagged, of those with `MIN_ROWS`; an
    attribute without two such values is left out. Smaller values have figures, and no verdict.

    Args:
        attributes: name to values, shape (n,); None is no value.
        score: higher for riskier loans.
        bad: shape (n,): 1, 0, or NaN where it is not known.
    """
    found = []
    for name, values in attributes.items():
        groups = {
            str(value): values == value for value in sorted({v for v in values if v is not None})
        }
        large = {v: float(np.mean(~flagged[g])) for v, g in groups.items() if g.sum() >= MIN_ROWS}
        if len(large) < 2:
            continue
        best = max(large, key=large.__getitem__)
        found += [
            _segment(name, value, inside, best, groups[best], flagged, score, bad)
            for value, inside in groups.items()
        ]
    return sorted(found, key=lambda segment: segment.ratio.value)


def _segment(
    attribute: str,
    value: str,
    inside: Flags,
    reference: str,
    others: Flags,
    flagged: Flags,
    score: Floats | None,
    bad: Floats | None,
) -> Segment:
    rows, kept = int(inside.sum()), int((inside & ~flagged).sum())
    ratio = risk_ratio(kept, rows, int((others & ~flagged).sum()), int(others.sum()))
    went_bad, went_good = (
        inside & (np.zeros(len(inside), dtype=np.bool_) if bad is None else bad == outcome)
        for outcome in (1, 0)
    )
    return Segment(
        attribute,
        value,
        rows,
        rows - kept,
        reference,
        share(kept, rows),
        ratio,
        math.nan if score is None else _difference(score[inside], score[others]),
        share(int((went_bad & flagged).sum()), int(went_bad.sum())),
        share(int((went_good & flagged).sum()), int(went_good.sum())),
        _verdict(ratio.value, rows),
    )


def risk_ratio(part: int, whole: int, other_part: int, other_whole: int) -> Interval:
    """One share by another, with Katz's log interval (Biometrics 34, 1978)."""
    value = part / whole / (other_part / other_whole)
    if not part:
        return Interval(0.0, value, math.nan)
    error = math.sqrt(1 / part - 1 / whole + 1 / other_part - 1 / other_whole)
    return Interval(value * math.exp(-Z_95 * error), value, value * math.exp(Z_95 * error))


def _difference(ours: Floats, theirs: Floats) -> float:
    """Standardized mean difference (J. Cohen, 1988), by the pooled standard deviation."""
    freedom = len(ours) + len(theirs) - 2
    squares = (values.var() * len(values) for values in (ours, theirs))
    deviation = math.sqrt(sum(squares) / freedom) if freedom > 0 else 0.0
    return float((ours.mean() - theirs.mean()) / deviation) if deviation else math.nan


def _verdict(ratio: float, rows: int) -> Verdict:
    if rows < MIN_ROWS:
        return "too_few_rows"
    return "alarm" if ratio < ALARM else "warning" if ratio < WARNING else "fair"
