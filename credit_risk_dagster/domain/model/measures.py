"""How well a score separates bad loans from good ones, and whether a probability is one.

Everywhere: `bad` is a boolean array, `score` a float array of the same shape that is higher for
riskier loans. Equal scores count as drawn in random order, so no result depends on the order of
the rows.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.intervals import wilson_interval
from credit_risk_dagster.domain.model.linear import calibration_in_the_large, recalibrate

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

LEVEL = 0.95  # of every interval
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
TENTHS = 10
_CURVE_POINTS = 200


@dataclass(frozen=True)
class Evaluation:
    """A score against the outcomes.

    Attributes:
        auc, auc_low, auc_high: area under the ROC curve, with its interval (see `auc_interval`).
        gini: 2 * AUC - 1.
        ks: Kolmogorov-Smirnov distance between the scores of the bad and the good loans.
        brier: mean squared error of the probability; None when the score is none.
        calibration: see `calibration`; None when the score is no probability.
        gains: see `gains`.
        curves: name to x and y: roc, gains, and for a probability calibration, scores_good and
            scores_bad.
    """

    auc: float
    auc_low: float
    auc_high: float
    gini: float
    ks: float
    brier: float | None
    calibration: dict[str, Any] | None
    gains: list[dict[str, Any]]
    curves: dict[str, tuple[Floats, Floats]]


def evaluate(bad: Flags, score: Floats, *, is_probability: bool = True) -> Evaluation:
    """Everything there is to say of one score. There must be a good and a bad loan."""
    ranking = Ranking.of(bad, score)
    auc, low, high = auc_interval(bad, score)
    share, captured = ranking.loans / ranking.loans[-1], ranking.bads / ranking.bads[-1]
    false_positive = ranking.goods / ranking.goods[-1]
    curves = {"roc": _thin(false_positive, captured), "gains": _thin(share, captured)}
    calibrated = None
    if is_probability:
        calibrated = calibration(bad, score)
        bins = calibrated["bins"]
        curves["calibration"] = (
            np.array([row["mean_pd"] for row in bins]),
            np.array([row["bad_rate"] for row in bins]),
        )
        curves |= _densities(bad, score)
    return Evaluation(
        auc=auc,
        auc_low=low,
        auc_high=high,
        gini=2 * auc - 1,
        ks=float(np.abs(captured - false_positive).max()),
        brier=float(np.mean((score - bad) ** 2)) if is_probability else None,
        calibration=calibrated,
        gains=gains(ranking),
        curves=curves,
    )


@dataclass(frozen=True)
class Ranking:
    """Loans and bad loans with at least each distinct score, from none to all: the cumulative
    counts from the riskiest on."""

    loans: Floats
    bads: Floats

    @property
    def goods(self) -> Floats:
        return self.loans - self.bads

    @classmethod
    def of(cls, bad: Flags, score: Floats) -> "Ranking":
        order = np.argsort(-score, kind="stable")
        ordered = score[order]
        last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of each tie
        bads = bad[order].cumsum()[last]
        return cls(np.append(0.0, last + 1.0), np.append(0.0, bads))

    def captured(self, loans: Floats) -> Floats:
        """Expected bad loans among so many of the riskiest."""
        return np.interp(loans, self.loans, self.bads)


def auc_interval(bad: Flags, score: Floats) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95 % interval.

    The variance is DeLong's (E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44, 1988), by the
    midranks of X. Sun and W. Xu (IEEE Signal Processing Letters 21, 2014); the interval is normal,
    cut at 0 and 1.
    """
    above_goods, below_bads = _components(bad, score)
    auc = float(above_goods.mean())
    half = Z * _error(above_goods, below_bads)
    return auc, max(auc - half, 0.0), min(auc + half, 1.0)


def paired_auc_error(bad: Flags, score: Floats, other: Floats) -> float:
    """Standard error of the difference of two AUCs on the same loans (DeLong, as above)."""
    pairs = zip(_components(bad, score), _components(bad, other), strict=True)
    return _error(*(one - two for one, two in pairs))


def _components(bad: Flags, score: Floats) -> tuple[Floats, Floats]:
    """For each bad loan the share of good ones below it, and the other way round."""
    from scipy.stats import rankdata  # equal values share the mean of their ranks

    of_bads, of_goods = score[bad], score[~bad]
    ranks = rankdata(score)
    above_goods: Floats = (ranks[bad] - rankdata(of_bads)) / len(of_goods)
    below_bads: Floats = 1 - (ranks[~bad] - rankdata(of_goods)) / len(of_bads)
    return above_goods, below_bads


def _error(above_goods: Floats, below_bads: Floats) -> float:
    parts = (_variance(values) / len(values) for values in (above_goods, below_bads))
    return float(np.sqrt(sum(parts)))


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def gains(ranking: Ranking) -> list[dict[str, Any]]:
    """Tenths of the loans, the riskiest first.

    Each with tenth, loans, bads, bad_rate, captured (share of all bad loans in this and the tenths
    before), lift (bad_rate against the whole) and cumulative_lift.
    """
    total, bads = ranking.loans[-1], ranking.bads[-1]
    edges = np.linspace(0, total, TENTHS + 1).round().astype(np.float64)
    cumulative = ranking.captured(edges)
    table = []
    for tenth, (loans, found, until, so_far) in enumerate(
        zip(np.diff(edges), np.diff(cumulative), edges[1:], cumulative[1:], strict=True), 1
    ):
        rate = found / loans if loans else 0.0
        table.append(
            {
                "tenth": tenth,
                "loans": int(loans),
                "bads": round(float(found), 6),
                "bad_rate": float(rate),
                "captured": float(so_far / bads),
                "lift": float(rate * total / bads),
                "cumulative_lift": float(so_far / bads * total / until) if until else 0.0,
            }
        )
    return table


def calibration(bad: Flags, pd: Floats) -> dict[str, Any]:
    """Whether of the loans with a PD of 3 % three in a hundred are bad.

    Returns:
        intercept and slope of the logistic regression of the outcome on the PD's log-odds (D. Cox,
        Biometrika 45, 1958; 0 and 1 are perfect); in_the_large, the intercept when the slope is 1;
        mean_pd, bad_rate; ratio, the expected bad loans for each that was, with its interval
        ratio_low, ratio_high; brier_skill, the share of the error of saying the bad rate of
        everybody that the PD saves; and bins: the tenths by PD with loans, mean_pd, bad_rate and
        its interval low, high.
    """
    bounded = np.clip(pd, 1e-9, 1 - 1e-9)
    log_odds = np.log(bounded / (1 - bounded))
    intercept, slope = recalibrate(bad, log_odds)
    mean, rate = float(pd.mean()), float(bad.mean())
    low, high = rate_interval(int(bad.sum()), len(bad))
    return {
        "intercept": intercept,
        "slope": slope,
        "in_the_large": calibration_in_the_large(bad, log_odds),
        "mean_pd": mean,
        "bad_rate": rate,
        "ratio": mean / rate,
        "ratio_low": mean / high,
        "ratio_high": mean / low,
        "brier_skill": 1 - float(np.mean((pd - bad) ** 2)) / (rate * (1 - rate)),
        "bins": _tenths(bad, pd),
    }


def _tenths(bad: Flags, pd: Floats) -> list[dict[str, Any]]:
    """The loans by PD in ten parts; where an edge cuts through equal PDs, each side has its share
    of their bad loans, whichever of them came first."""
    ranking = Ranking.of(bad, -pd)  # from the lowest on
    sizes = [len(part) for part in np.array_split(pd, TENTHS) if len(part)]
    edges = np.append(0, np.cumsum(sizes)).astype(np.float64)
    bads = np.diff(ranking.captured(edges))
    ordered = np.sort(pd)
    bins = []
    for loans, found, start in zip(sizes, bads.tolist(), edges.astype(int), strict=False):
        low, high = rate_interval(found, loans)
        bins.append(
            {
                "loans": loans,
                "mean_pd": float(ordered[start : start + loans].mean()),
                "bad_rate": found / loans,
                "low": low,
                "high": high,
            }
        )
    return bins


def rate_interval(events: float, trials: int) -> tuple[float, float]:
    """`wilson_interval` of a rate; 0 to 1 when nothing was tried."""
    return wilson_interval(events, trials) or (0.0, 1.0)


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """A curve by few of its points, evenly along x, and both ends."""
    if len(x) <= _CURVE_POINTS:
        return x, y
    at = np.unique(np.searchsorted(x, np.linspace(0, 1, _CURVE_POINTS)).clip(max=len(x) - 1))
    at[-1] = len(x) - 1
    return x[at], y[at]


def _densities(bad: Flags, pd: Floats) -> dict[str, tuple[Floats, Floats]]:
    """Histograms of the PD up to its 99.5th percentile, where the rest is counted, too."""
    highest = float(np.quantile(pd, 0.995)) or 1.0
    edges = np.linspace(0, highest, 41)
    middles = (edges[1:] + edges[:-1]) / 2

    def density(values: Floats) -> Floats:
        counts: Floats = np.histogram(values.clip(max=highest), edges)[0] / len(values)
        return counts / (edges[1] - edges[0])

    return {
        "scores_good": (middles, density(pd[~bad])),
        "scores_bad": (middles, density(pd[bad])),
    }
