"""How far the headline moves when people are drawn and the model is fitted anew.

An interval of the same scores tells how sure the measurement is; the model itself would also have
been another one on other loans.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.model.additive import Columns, matrix_of, signs_of
from credit_risk_dagster.domain.model.linear import fit_signed
from credit_risk_dagster.domain.model.measures import LEVEL

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

REPLICATES = 200
FOLDS = 5
# With more, a fit hardly moves, and so many of them take too long.
MOST_LOANS = 100_000


@dataclass(frozen=True)
class Refitted:
    """How far below and above its mean a figure is in 95 % of the replicates. The mean itself is
    lower than the figure of the sample: of drawn loans a third is missing.

    Attributes:
        recall: of the model's recall minus the rules', at the rules' share; None when they flag
            none or all.
        auc: of the model's AUC minus the other score's.
    """

    recall: tuple[float, float] | None
    auc: tuple[float, float]


def refit(
    frame: "pd.DataFrame",
    columns: Columns,
    bad: Flags,
    by_rules: Flags,
    other: Floats,
    inverse_penalty: float,
    seed: int,
    replicates: int = REPLICATES,
) -> Refitted:
    """Draw the loans with replacement, fit to four fifths of the drawn, score the fifth that the
    fit has not seen (all copies of a loan are in one), and compare; over and over.

    Args:
        frame, columns: the features, and how they become the logistic regression's columns.
        by_rules: whom the rules flag.
        other: a score to compare the AUC with.
        inverse_penalty: of the logistic regression.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # as training is: small matrices, and the stream is beside them
        return _refit(
            matrix_of(columns, frame),
            signs_of(columns),
            bad,
            by_rules,
            other,
            inverse_penalty,
            np.random.default_rng([seed, REPLICATES]),  # no other draw of this seed's
            replicates,
        )


def _refit(
    matrix: Floats,
    signs: list[int],
    bad: Flags,
    by_rules: Flags,
    other: Floats,
    inverse_penalty: float,
    random: np.random.Generator,
    replicates: int,
) -> Refitted:
    start = fit_signed(matrix, bad, signs, inverse_penalty)
    score = np.empty(len(bad))
    recalls, aucs = [], []
    for _ in range(replicates):
        drawn = random.multinomial(len(bad), np.full(len(bad), 1 / len(bad))).astype(np.float64)
        part = random.permutation(len(bad)) % FOLDS
        for fold in range(FOLDS):
            fit_on, test_on = (part != fold) & (drawn > 0), part == fold
            beta = fit_signed(
                matrix[fit_on], bad[fit_on], signs, inverse_penalty, drawn[fit_on], start
            )
            score[test_on] = beta[0] + matrix[test_on] @ beta[1:]
        aucs.append(_auc(bad, score, drawn) - _auc(bad, other, drawn))
        flagged = float(drawn[by_rules].sum())
        if 0 < flagged < len(bad):
            found = _captured(bad, score, drawn, flagged) - drawn[bad & by_rules].sum()
            recalls.append(found / drawn[bad].sum())
    return Refitted(_spread(recalls) if recalls else None, _spread(aucs))


def _spread(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - np.mean(values)
    return float(low), float(high)


def _ranked(bad: Flags, score: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Cumulative loans and bad loans from the riskiest on, at each distinct score."""
    order = np.argsort(-score)
    ordered = score[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    loans, bads = drawn[order].cumsum()[last], (drawn * bad)[order].cumsum()[last]
    return np.append(0, loans), np.append(0, bads)


def _captured(bad: Flags, score: Floats, drawn: Floats, flagged: float) -> float:
    loans, bads = _ranked(bad, score, drawn)
    return float(np.interp(flagged, loans, bads))


def _auc(bad: Flags, score: Floats, drawn: Floats) -> float:
    """The area under the ROC curve of weighted loans."""
    loans, bads = _ranked(bad, score, drawn)
    goods = loans - bads
    area = np.trapezoid(bads, goods)
    return float(area / (bads[-1] * goods[-1]))
