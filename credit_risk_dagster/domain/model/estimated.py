"""What a model's figures are before the outcomes are known, from its PDs.

Confidence-based performance estimation: if the PDs are right, so many of the loans with a PD of 3 %
will be bad as 3 %, and each figure has the distribution that drawing such outcomes gives it (the
idea is NannyML's CBPE). It sees that other people come. It cannot see that the same people have
become riskier than their PD says (concept drift): only outcomes do.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.intervals import Interval
from credit_risk_dagster.domain.model.measures import LEVEL

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_DRAWS = 500
_MOST = 20_000  # loans, of a larger window every k-th


@dataclass(frozen=True)
class Estimate:
    """Expected figures of a window, each with the interval in which the realised one is expected.

    Attributes:
        loans: with a PD.
        auc: of the PD.
        bad_rate: of the loans.
        recall: share of the bad loans that are flagged.
    """

    loans: int
    auc: Interval
    bad_rate: Interval
    recall: Interval


def estimate(pd: Floats, flagged: Flags, seed: int = 0) -> Estimate | None:
    """Estimate a window's figures; None without two different PDs.

    Args:
        pd: of a model that the gate found calibrated, shape (n,).
        flagged: shape (n,).
    """
    loans, step = len(pd), max(1, -(-len(pd) // _MOST))
    pd, flagged = pd[::step], flagged[::step]
    if not len(pd) or pd.min() == pd.max():
        return None
    from scipy.stats import rankdata

    random = np.random.default_rng(seed)
    ranks = rankdata(pd)
    bads = np.empty(_DRAWS)
    rank_sums, caught = np.empty(_DRAWS), np.empty(_DRAWS)
    for draw in range(_DRAWS):
        bad = random.random(len(pd)) < pd
        bads[draw], rank_sums[draw], caught[draw] = bad.sum(), ranks[bad].sum(), bad[flagged].sum()
    some = (bads > 0) & (bads < len(pd))
    bads, rank_sums, caught = bads[some], rank_sums[some], caught[some]
    if not len(bads):
        return None
    aucs = (rank_sums - bads * (bads + 1) / 2) / (bads * (len(pd) - bads))
    return Estimate(loans, _of(aucs), _of(bads / len(pd)), _of(caught / bads))


def _of(draws: Floats) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(draws.mean()), float(high))
