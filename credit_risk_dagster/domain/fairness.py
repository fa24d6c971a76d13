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
        rows, flagged: people; of classes by probability, about so many.
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
    return by_class(
        {
            name: {
                str(value): (values == value).astype(np.float64)
                for value in sorted({v for v in values if v is not None})
            }
            for name, values in attributes.items()
        },
        flagged,
        score,
        bad,
    )


def by_class(
    attributes: Mapping[str, Mapping[str, Floats]],
    flagged: Flags,
    score: Floats | None = None,
    bad: Floats | None = None,
) -> list[Segment]:
    """As `by_segment`, where people belong to a class by a probability, as of BISG.

    Everybody counts in each class by the probability (J. Chen et al., Fairness under unawareness,
    FAT* 2019). A class has as many people as its probabilities add up to, so that intervals are
    rather too wide than too narrow; how wrong the probabilities are is not in them.

    Args:
        attributes: name to class to probabilities, shape (n,).
    """
    found = []
    for name, classes in attributes.items():
        present = {value: weights for value, weights in classes.items() if weights.sum()}
        large = {
            value: float(np.average(~flagged, weights=weights))
            for value, weights in present.items()
            if weights.sum() >= MIN_ROWS
        }
        if len(large) < 2:
            continue
        best = max(large, key=large.__getitem__)
        found += [
            _segment((name, value, best), weights, present[best], flagged, score, bad)
            for value, weights in present.items()
        ]
    return sorted(found, key=lambda segment: segment.ratio.value)


def _segment(
    named: tuple[str, str, str],
    weights: Floats,
    others: Floats,
    flagged: Flags,
    score: Floats | None,
    bad: Floats | None,
) -> Segment:
    rows, kept = float(weights.sum()), float(weights[~flagged].sum())
    ratio = risk_ratio(kept, rows, float(others[~flagged].sum()), float(others.sum()))

    def of_outcome(outcome: int) -> Interval:
        known = np.zeros(len(weights), np.bool_) if bad is None else bad == outcome
        return share(float(weights[known & flagged].sum()), float(weights[known].sum()))

    return Segment(
        *named[:2],
        round(rows),
        round(rows - kept),
        named[2],
        share(kept, rows),
        ratio,
        math.nan if score is None else _difference(score, weights, others),
        of_outcome(1),
        of_outcome(0),
        _verdict(ratio.value, rows),
    )


def risk_ratio(part: float, whole: float, other_part: float, other_whole: float) -> Interval:
    """One share by another, with Katz's log interval (Biometrics 34, 1978)."""
    value = part / whole / (other_part / other_whole)
    if not part:
        return Interval(0.0, value, math.nan)
    # Sums of weights are not exact: the variance of one share by itself may come out below nothing.
    error = math.sqrt(max(0.0, 1 / part - 1 / whole + 1 / other_part - 1 / other_whole))
    return Interval(value * math.exp(-Z_95 * error), value, value * math.exp(Z_95 * error))


def _difference(score: Floats, ours: Floats, theirs: Floats) -> float:
    """Standardized mean difference (J. Cohen, 1988), by the pooled standard deviation; by the
    weights of either."""
    freedom = float(ours.sum() + theirs.sum()) - 2
    means = [float(np.average(score, weights=weights)) for weights in (ours, theirs)]
    squares = sum(
        float((weights * (score - mean) ** 2).sum())
        for weights, mean in zip((ours, theirs), means, strict=True)
    )
    deviation = math.sqrt(squares / freedom) if freedom > 0 else 0.0
    return (means[0] - means[1]) / deviation if deviation else math.nan


def _verdict(ratio: float, rows: float) -> Verdict:
    if rows < MIN_ROWS:
        return "too_few_rows"
    return "alarm" if ratio < ALARM else "warning" if ratio < WARNING else "fair"
