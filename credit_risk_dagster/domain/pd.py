"""The probability (PD) of a model's outcome for scored applications, and what raises it.

A model is a sum: log-odds = intercept + one contribution for each feature. The intercept is the
log-odds of the population that the model was trained on, at its mean; a contribution is what the
feature adds for this application against that. So the largest contributions explain the PD; they
are no reasons of the decision as long as the policy decides.

Nothing here knows how the coefficients came about: scoring needs no scikit-learn.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.features import FEATURES, Feature
from credit_risk_dagster.errors import PlatformError

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]

MAX_REASONS = 4
PRINCIPAL = 0.05  # log-odds: what changes the odds by less than a twentieth is no principal reason
HIGH, LOW, UNKNOWN = range(3)
_MAX_LOG_ODDS = 700.0  # exp of more overflows, and no probability differs


class ModelUnreadable(PlatformError):
    """Stored coefficients that cannot score; the message says why."""


class NumberTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="number"):
    """weight * (value - reference) + offset, or if_missing.

    Attributes:
        reference: the population's mean.
        offset: of models of an older version; what not being missing adds.
        low, high: values beyond them count as they do, so that no PD is extrapolated; None for no
            end.
    """

    feature: str
    weight: float
    reference: float
    offset: float
    if_missing: float
    low: float | None = None
    high: float | None = None

    @property
    def numbers(self) -> list[float]:
        ends = [end for end in (self.low, self.high) if end is not None]
        return [self.weight, self.reference, self.offset, self.if_missing, *ends]

    @property
    def flat(self) -> bool:
        """Whether more or less of it changes nothing."""
        return not self.weight

    def contradicts(self, risk_rises: int) -> bool:
        """Whether more of it lowers the PD although it should raise it, or the other way round."""
        return self.weight * risk_rises < 0

    def contributions(self, column: pa.Array) -> tuple[Floats, Codes]:
        """Of each value: what it adds to the log-odds, and whether it is high, low or unknown."""
        values = column.to_numpy(zero_copy_only=False)
        missing = np.isnan(values)
        low, high = (np.nan if end is None else end for end in (self.low, self.high))
        values = np.fmin(np.fmax(values, low), high)  # NaN is no end
        above = np.where(missing, 0.0, values - self.reference)
        added = np.where(missing, self.if_missing, self.weight * above + self.offset)
        return added, np.where(missing, UNKNOWN, np.where(above > 0, HIGH, LOW)).astype(np.int8)


class BinTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="bins"):
    """What a number adds by its bin: bin i holds edges[i-1] <= value < edges[i]."""

    feature: str
    edges: list[float]
    added: list[float]
    if_missing: float

    @property
    def numbers(self) -> list[float]:
        return [*self.edges, *self.added, self.if_missing]

    @property
    def flat(self) -> bool:
        """As `NumberTerm.flat`."""
        return len(set(self.added)) == 1

    def contradicts(self, risk_rises: int) -> bool:
        """As `NumberTerm.contradicts`, from any bin to the next."""
        return bool((np.diff(self.added) * risk_rises < 0).any())

    def contributions(self, column: pa.Array) -> tuple[Floats, Codes]:
        """As `NumberTerm.contributions`."""
        values = column.to_numpy(zero_copy_only=False)
        missing = np.isnan(values)
        bins = np.searchsorted(self.edges, values, side="right").clip(max=len(self.added) - 1)
        added = np.where(missing, self.if_missing, np.array(self.added)[bins])
        sides = np.where(2 * bins >= len(self.added), HIGH, LOW)
        return added, np.where(missing, UNKNOWN, sides).astype(np.int8)


class CategoryTerm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="category"):
    """The contribution of each known value; of any other; and of none."""

    feature: str
    values: list[str]
    added: list[float]
    otherwise: float
    if_missing: float

    @property
    def numbers(self) -> list[float]:
        return [*self.added, self.otherwise, self.if_missing]

    def contradicts(self, risk_rises: int) -> bool:
        """A category has no direction."""
        return False

    def contributions(self, column: pa.Array) -> tuple[Floats, Codes]:
        """As `NumberTerm.contributions`; a category is neither high nor low."""
        known = pa.array(self.values, pa.string()).cast(column.type)
        codes = pc.fill_null(pc.index_in(column, value_set=known), len(self.values))
        missing = column.is_null().to_numpy(zero_copy_only=False)
        table = np.array([*self.added, self.otherwise])
        added = np.where(missing, self.if_missing, table[codes.to_numpy()])
        return added, np.where(missing, UNKNOWN, HIGH).astype(np.int8)


Term = NumberTerm | BinTerm | CategoryTerm


class Coefficients(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that scoring needs of a model; stored as JSON."""

    intercept: float
    terms: list[Term]

    def against_the_field(self) -> list[str]:
        """The features that move the PD in another direction than the field expects."""
        return [
            term.feature
            for term in self.terms
            if term.contradicts(FEATURES[term.feature].risk_rises)
        ]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)


def read_coefficients(document: bytes | str) -> Coefficients:
    """Read and validate coefficients.

    Raises:
        ModelUnreadable: they are not complete, or name an unknown feature, or are not finite.
    """
    try:
        found = msgspec.json.decode(document, type=Coefficients)
    except msgspec.MsgspecError as error:
        raise ModelUnreadable(f"the coefficients cannot be read: {error}") from error
    for term in found.terms:
        if term.feature not in FEATURES:
            raise ModelUnreadable(
                f"the coefficients name a feature that is unknown: {term.feature}"
            )
        if isinstance(term, CategoryTerm) and len(term.values) != len(term.added):
            raise ModelUnreadable(
                f"{term.feature} has {len(term.values)} values and {len(term.added)} coefficients"
            )
        if isinstance(term, BinTerm) and (
            len(term.edges) + 1 != len(term.added) or sorted(term.edges) != term.edges
        ):
            raise ModelUnreadable(
                f"{term.feature} has {len(term.added)} bins and {len(term.edges)} edges between "
                "them; they must be one less, and ascend"
            )
    numbers = [found.intercept, *(number for term in found.terms for number in term.numbers)]
    if not found.terms or not all(map(math.isfinite, numbers)):
        raise ModelUnreadable("the coefficients are empty or not finite")
    return found


@dataclass(frozen=True)
class PdModel:
    """A model that can score.

    Attributes:
        model_id, version: in the table `models`.
    """

    model_id: int
    version: str
    coefficients: Coefficients

    def log_odds(self, rows: pa.RecordBatch | pa.Table) -> tuple[Floats, Floats, Codes]:
        """Log-odds, shape (n,); contributions, shape (n, terms); and of each, whether its value is
        high, low or unknown.

        Args:
            rows: with the model's features as columns.
        """
        terms = self.coefficients.terms
        added = np.empty((len(rows), len(terms)))
        sides = np.empty((len(rows), len(terms)), dtype=np.int8)
        for at, term in enumerate(terms):
            added[:, at], sides[:, at] = term.contributions(_column(rows, term.feature))
        return self.coefficients.intercept + added.sum(axis=1), added, sides

    def score(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Columns `pd`, `model_id` and `pd_reasons` for rows with the model's features.

        The reasons of a row are the up to `MAX_REASONS` largest contributions that raise its PD,
        by `PRINCIPAL` at least, the largest first.
        """
        log_odds, added, sides = self.log_odds(rows)
        return pa.RecordBatch.from_pydict(
            {
                "pd": pa.array(probability(log_odds)),
                "model_id": pa.repeat(pa.scalar(self.model_id, pa.int32()), len(rows)),
                "pd_reasons": self._reasons(added, sides),
            }
        )

    def _reasons(self, added: Floats, sides: Codes) -> pa.ListArray:
        order = np.argsort(-added, axis=1, kind="stable")[:, :MAX_REASONS]
        raises = np.take_along_axis(added, order, axis=1) >= PRINCIPAL
        words = order * len((HIGH, LOW, UNKNOWN)) + np.take_along_axis(sides, order, axis=1)
        ends = np.concatenate(([0], raises.sum(axis=1).cumsum())).astype(np.int32)
        features = [FEATURES[term.feature] for term in self.coefficients.terms]
        phrases = pa.array([phrase for f in features for phrase in _phrases(f)], pa.string())
        return pa.ListArray.from_arrays(pa.array(ends), phrases.take(pa.array(words[raises])))


class _ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model_id: int
    version: str
    coefficients: msgspec.Raw


def model_file(model: PdModel) -> bytes:
    """A model as a JSON file."""
    raw = msgspec.Raw(model.coefficients.to_json())
    return msgspec.json.encode(_ModelFile(model.model_id, model.version, raw))


def load_model_file(path: Path) -> PdModel:
    """Read what `model_file` wrote.

    Raises:
        ModelUnreadable: the file is missing or is no model.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_ModelFile)
        return PdModel(found.model_id, found.version, read_coefficients(bytes(found.coefficients)))
    except (OSError, msgspec.MsgspecError, ModelUnreadable) as error:
        raise ModelUnreadable(f"model {path} cannot be read: {error}") from error


def probability(log_odds: Floats) -> Floats:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -_MAX_LOG_ODDS, _MAX_LOG_ODDS)))


def _phrases(feature: Feature) -> tuple[str, str, str]:
    return feature.high, feature.low, feature.unknown


def _column(rows: pa.RecordBatch | pa.Table, name: str) -> Any:
    column = rows[name]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
