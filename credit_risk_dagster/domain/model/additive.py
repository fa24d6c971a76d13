"""Models that are a sum, fitted so that the stream can score them: `domain.pd`.

Numbers are capped where the sample ends, may move the PD only the way that the field expects, and a
missing value counts as the worst one: who withholds a value gains nothing by it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from credit_risk_dagster.domain.features import Feature
from credit_risk_dagster.domain.intervals import Z_95
from credit_risk_dagster.domain.model.design import is_category
from credit_risk_dagster.domain.model.linear import fit_signed
from credit_risk_dagster.domain.pd import (
    CategoryTerm,
    Coefficients,
    NumberTerm,
    Term,
    probability,
)

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]

CAPPED = (0.005, 0.995)  # quantiles of the sample, beyond which nothing is extrapolated


@dataclass(frozen=True)
class Effect:
    """An odds ratio with its 95 % interval: of a number for one standard deviation more, of a
    category against the sample's mean, its values weighted by their loans. A number that its
    direction holds at no effect is 1, without a width."""

    name: str
    odds_ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Additive:
    """A fitted sum. `effects` and `inverse_penalty` are a logistic regression's."""

    coefficients: Coefficients
    effects: tuple[Effect, ...] = ()
    inverse_penalty: float | None = None

    def predict_proba(self, frame: "pd.DataFrame") -> Floats:
        """As scikit-learn's: shape (n, 2)."""
        log_odds = np.full(len(frame), self.coefficients.intercept)
        for term in self.coefficients.terms:
            log_odds += term.contributions(_arrow(frame[term.feature]))[0]
        pd = probability(log_odds)
        return np.column_stack([1 - pd, pd])


def _arrow(column: Any) -> pa.Array:
    if column.dtype == object:
        return pa.array(column, pa.string(), from_pandas=True)
    return pa.array(column.to_numpy(np.float64))


@dataclass(frozen=True)
class _Number:
    """A number, capped, filled and scaled."""

    feature: Feature
    low: float
    high: float
    mean: float
    scale: float

    @property
    def worst(self) -> float:
        return self.high if self.feature.risk_rises > 0 else self.low

    @property
    def signs(self) -> list[int]:
        return [self.feature.risk_rises]

    @classmethod
    def of(cls, feature: Feature, values: Floats) -> "_Number":
        known = values[~np.isnan(values)]
        low, high = np.quantile(known, CAPPED).tolist() if len(known) else (0.0, 0.0)
        capped = cls(feature, low, high, 0.0, 1.0).columns(values)
        return cls(feature, low, high, float(capped.mean()), float(capped.std()) or 1.0)

    def columns(self, values: Any) -> Floats:
        """Shape (n, 1)."""
        values = np.asarray(values, dtype=np.float64)
        filled = np.where(np.isnan(values), self.worst, values.clip(self.low, self.high))
        return ((filled - self.mean) / self.scale)[:, None]

    def term(self, weights: Floats) -> tuple[Term, float]:
        """And what it adds to the intercept."""
        weight = float(weights[0]) / self.scale
        missing = weight * (self.worst - self.mean)
        return (
            NumberTerm(self.feature.name, weight, self.mean, 0.0, missing, self.low, self.high),
            0.0,
        )

    def contrasts(self) -> list[tuple[str, Floats]]:
        return [(self.feature.name, np.ones(1))]


@dataclass(frozen=True)
class _Category:
    """A category, a column for each value; a value that training has not seen has none."""

    feature: Feature
    values: list[str | None]
    shares: Floats

    @property
    def signs(self) -> list[int]:
        return [0] * len(self.values)

    @classmethod
    def of(cls, feature: Feature, labels: Any) -> "_Category":
        shares = labels.value_counts(normalize=True, dropna=False)
        found = {None if label != label else label: share for label, share in shares.items()}
        names = sorted(found, key=lambda name: (name is None, name))
        return cls(feature, names, np.array([found[name] for name in names]))

    def columns(self, labels: Any) -> Floats:
        """Shape (n, values)."""
        return np.column_stack(
            [labels.isna() if value is None else labels == value for value in self.values]
        ).astype(np.float64)

    def term(self, weights: Floats) -> tuple[Term, float]:
        """And what it adds to the intercept."""
        mean = float(self.shares @ weights)
        added = (weights - mean).tolist()
        worst = max(added)
        known = [(v, a) for v, a in zip(self.values, added, strict=True) if v is not None]
        term = CategoryTerm(
            self.feature.name, [v for v, _ in known], [a for _, a in known], worst, worst
        )
        return term, mean

    def contrasts(self) -> list[tuple[str, Floats]]:
        """Of each value, its weight against the sample's mean."""
        each = np.eye(len(self.values)) - self.shares
        return [
            (f"{self.feature.name}_{value}", row)
            for value, row in zip(self.values, each, strict=True)
        ]


Columns = Sequence[_Number | _Category]


def columns_of(frame: "pd.DataFrame", features: Sequence[Feature]) -> Columns:
    """How the features become columns that a logistic regression can be fitted to."""
    return [
        _Category.of(feature, frame[feature.name])
        if is_category(feature)
        else _Number.of(feature, frame[feature.name].to_numpy())
        for feature in features
    ]


def matrix_of(columns: Columns, frame: "pd.DataFrame") -> Floats:
    """The columns of loans, side by side."""
    return np.hstack([column.columns(frame[column.feature.name]) for column in columns])


def signs_of(columns: Columns) -> list[int]:
    """Of each column of `matrix_of`, the sign that its coefficient may have."""
    return [sign for column in columns for sign in column.signs]


def fit_logistic(
    frame: "pd.DataFrame",
    bad: Flags,
    features: Sequence[Feature],
    inner: Sequence[tuple[Positions, Positions]],
    inverse_penalties: Sequence[float],
) -> Additive:
    """A logistic regression with an L2 penalty and signs.

    Args:
        inner: folds by which the penalty with the least log loss is chosen.
    """
    columns = columns_of(frame, features)
    matrix, signs = matrix_of(columns, frame), signs_of(columns)

    def loss(inverse_penalty: float) -> float:
        total = 0.0
        for fit_on, test_on in inner:
            beta = fit_signed(matrix[fit_on], bad[fit_on], signs, inverse_penalty)
            margin = np.where(bad[test_on], 1, -1) * (beta[0] + matrix[test_on] @ beta[1:])
            total += float(np.logaddexp(0, -margin).sum())
        return total

    penalty = min(inverse_penalties, key=loss)
    beta = fit_signed(matrix, bad, signs, penalty)
    effects = _effects(columns, matrix, beta, penalty)
    return Additive(_coefficients(columns, beta), tuple(effects), penalty)


def _coefficients(columns: Columns, beta: Floats) -> Coefficients:
    intercept, at = float(beta[0]), 1
    terms = []
    for column in columns:
        width = len(column.signs)
        term, mean = column.term(beta[at : at + width])
        terms.append(term)
        intercept += mean
        at += width
    return Coefficients(intercept, terms)


def _effects(columns: Columns, matrix: Floats, beta: Floats, penalty: float) -> list[Effect]:
    """The coefficients as odds ratios.

    The covariance is H^-1 I H^-1, where I is the information of the data and H = I plus the
    penalty: that of a penalized estimate, which the penalty also draws towards one. Coefficients
    that their sign holds at zero have none.
    """
    design = np.column_stack([np.ones(len(matrix)), matrix])
    p = probability(design @ beta)
    free = np.append(True, (beta[1:] != 0) | (np.array(signs_of(columns)) == 0))
    used = design[:, free]
    information = used.T @ (used * (p * (1 - p))[:, None])
    shrink = np.eye(len(information)) / penalty
    shrink[0, 0] = 0.0  # the intercept has none
    bread = np.linalg.pinv(information + shrink)
    covariance = np.zeros((len(beta), len(beta)))
    covariance[np.ix_(free, free)] = bread @ information @ bread
    found, at = [], 1
    for column in columns:
        part = slice(at, at + len(column.signs))
        for name, contrast in column.contrasts():
            value = float(contrast @ beta[part])
            reach = Z_95 * float(np.sqrt(contrast @ covariance[part, part] @ contrast))
            odds = (float(np.exp(v)) for v in (value, value - reach, value + reach))
            found.append(Effect(name, *odds))
        at = part.stop
    return found
