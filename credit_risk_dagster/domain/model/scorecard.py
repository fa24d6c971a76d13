"""A scorecard: optimal bins, monotone where the field expects it, their weight of evidence, and a
logistic regression of that.

optbinning makes the bins; the stream scores with them by `domain.pd`, without importing it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from credit_risk_dagster.domain.features import Feature
from credit_risk_dagster.domain.model.additive import Additive
from credit_risk_dagster.domain.model.design import is_category
from credit_risk_dagster.domain.model.linear import fit_signed
from credit_risk_dagster.domain.pd import BinTerm, CategoryTerm, Coefficients, Term

if TYPE_CHECKING:
    pass

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_INVERSE_PENALTY = 1.0
_TRENDS = {1: "ascending", -1: "descending"}  # of the share of bad loans


@dataclass(frozen=True)
class Bins:
    """A feature in bins.

    Attributes:
        edges: of a number, as of `BinTerm`; empty for a category.
        groups: of a category, the values of each bin; empty for a number.
        risk: of each bin: its log-odds against the sample's, minus the weight of evidence.
        missing: of a missing value, at least that of the worst bin.
    """

    feature: str
    edges: tuple[float, ...]
    groups: tuple[tuple[str, ...], ...]
    risk: tuple[float, ...]
    missing: float

    def column(self, values: "pd.Series[float]") -> Floats:
        """The risk of each value."""
        if self.groups:
            of_value = {v: r for g, r in zip(self.groups, self.risk, strict=True) for v in g}
            known = values.map(of_value).to_numpy(np.float64)
            return np.where(np.isnan(known), self.missing, known)
        numbers = values.to_numpy(np.float64)
        at = np.searchsorted(self.edges, numbers, side="right").clip(max=len(self.risk) - 1)
        return np.where(np.isnan(numbers), self.missing, np.array(self.risk)[at])

    def term(self, weight: float, mean: float) -> Term:
        """What it adds to the log-odds, against the mean of the sample's risk."""
        added = [weight * (risk - mean) for risk in self.risk]
        missing = weight * (self.missing - mean)
        if not self.groups:
            return BinTerm(self.feature, list(self.edges), added, missing)
        of_value = [(v, a) for group, a in zip(self.groups, added, strict=True) for v in group]
        names, weights = [v for v, _ in of_value], [a for _, a in of_value]
        return CategoryTerm(self.feature, names, weights, missing, missing)


def fit_scorecard(frame: pd.DataFrame, bad: Flags, features: Sequence[Feature]) -> Additive:
    """Bin every feature, and weigh the bins' evidence; no weight may turn it round."""
    return weigh([_binned(feature, frame[feature.name], bad) for feature in features], frame, bad)


def weigh(bins: Sequence[Bins], frame: pd.DataFrame, bad: Flags) -> Additive:
    """A scorecard of features that are in bins already."""
    matrix = np.column_stack([b.column(frame[b.feature]) for b in bins])
    beta = fit_signed(matrix, bad, np.ones(len(bins)), _INVERSE_PENALTY)
    means = matrix.mean(axis=0)
    intercept = float(beta[0] + means @ beta[1:])
    terms = [b.term(float(w), float(m)) for b, w, m in zip(bins, beta[1:], means, strict=True)]
    return Additive(Coefficients(intercept, terms), inverse_penalty=_INVERSE_PENALTY)


def _binned(feature: Feature, values: "pd.Series[float]", bad: Flags) -> Bins:
    from optbinning import OptimalBinning

    category = is_category(feature)
    binning: OptimalBinning = OptimalBinning(
        feature.name,
        dtype="categorical" if category else "numerical",
        monotonic_trend="auto" if category else _TRENDS[feature.risk_rises],
    ).fit(values.to_numpy(), bad.astype(int))
    evidence = binning.binning_table.build()["WoE"].iloc[:-1].astype(float).to_numpy()
    *risk, _special, missing = (-np.nan_to_num(evidence)).tolist()
    edges = () if category else tuple(float(edge) for edge in binning.splits)
    groups = tuple(tuple(map(str, group)) for group in binning.splits) if category else ()
    return Bins(feature.name, edges, groups, tuple(risk), max(missing, *risk))
