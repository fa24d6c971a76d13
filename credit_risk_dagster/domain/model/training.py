"""Training: a logistic regression, the baseline, and its challengers, each measured on loans that
it has not seen.

Imports scikit-learn and pandas when it works, not before: the stream scores without them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.features import Feature
from credit_risk_dagster.domain.model.additive import Additive, fit_logistic
from credit_risk_dagster.domain.model.design import design, is_category
from credit_risk_dagster.domain.model.measures import auc_interval
from credit_risk_dagster.domain.model.sample import MIN_OF_EACH, Sample

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]

FOLDS = 5
_INNER_FOLDS = 3
_INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0, 10.0)
LEAKAGE_AUC = 0.95
_OUT_OF_TIME_SHARE = 0.2


@dataclass(frozen=True)
class Kind:
    """A kind of model: its name, and how to fit one.

    Attributes:
        fit: (frame, bad, features, seed) to something with `predict_proba`.
    """

    name: str
    fit: Callable[["pd.DataFrame", Flags, Sequence[Feature], int], Any]


@dataclass(frozen=True)
class Trained:
    """A model fitted to the whole sample, and the PDs of loans that the same recipe had not seen.

    Attributes:
        out_of_fold: shape (n,): the PD of each loan, by a fit to the other folds.
        out_of_time: the PD of each loan from `month` on, by a fit to those before; None without.
    """

    kind: str
    estimator: Any
    out_of_fold: Floats
    out_of_time: Floats | None


@dataclass(frozen=True)
class TimeSplit:
    """Loans issued before a month, to train on, and from that month on, to measure on."""

    month: np.datetime64
    before: Positions
    after: Positions


def kinds() -> tuple[Kind, ...]:
    """The kinds that can be trained here, the baseline first; the scorecard needs optbinning."""
    found = [Kind("logistic", _fit_logistic), Kind("gradient_boosting", _fit_boosting)]
    if find_spec("optbinning"):
        found.append(Kind("scorecard", _fit_scorecard))
    return tuple(found)


def train(kind: Kind, sample: Sample, features: Sequence[Feature], seed: int) -> Trained:
    """Fit a kind of model, and predict each loan by a fit that has not seen it.

    In one thread: training has time, and the stream beside it has not.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _train(kind, sample, features, seed)


def _train(kind: Kind, sample: Sample, features: Sequence[Feature], seed: int) -> Trained:
    frame = design(sample.rows, features)

    def fit_and_predict(fit_on: Positions, predict: Positions) -> Floats:
        fitted = kind.fit(frame.iloc[fit_on], sample.bad[fit_on], features, seed)
        return pd_of(fitted, frame.iloc[predict])

    out_of_fold = np.empty(len(sample))
    for fit_on, test_on in folds(sample.bad, FOLDS, seed):
        out_of_fold[test_on] = fit_and_predict(fit_on, test_on)
    split = time_split(sample)
    return Trained(
        kind.name,
        kind.fit(frame, sample.bad, features, seed),
        out_of_fold,
        fit_and_predict(split.before, split.after) if split else None,
    )


def pd_of(estimator: Any, frame: "pd.DataFrame") -> Floats:
    """The probability of the outcome."""
    predicted: Floats = np.asarray(estimator.predict_proba(frame), dtype=np.float64)[:, 1]
    return predicted


# --- splits -------------------------------------------------------------------------------------


def folds(bad: Flags, count: int, seed: int) -> list[tuple[Positions, Positions]]:
    """Stratified, shuffled folds: positions to fit on and to test on."""
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(bad)), bad))


def time_split(sample: Sample) -> TimeSplit | None:
    """The latest months, a fifth of the loans at least, against the months before them; None when
    either part would have too few good or bad loans. Loans without a month are in neither."""
    months = sample.rows["issue_d"].to_numpy().astype("datetime64[M]")
    known = ~np.isnat(months)
    for month in np.unique(months[known])[:0:-1]:  # from the last one back; the first needs a past
        after, before = known & (months >= month), known & (months < month)
        if after.sum() < _OUT_OF_TIME_SHARE * known.sum() or not _enough(sample.bad[after]):
            continue
        if not _enough(sample.bad[before]):
            return None
        return TimeSplit(month, np.flatnonzero(before), np.flatnonzero(after))
    return None


def _enough(bad: Flags) -> bool:
    return bool(min(bad.sum(), (~bad).sum()) >= MIN_OF_EACH)


# --- leakage ------------------------------------------------------------------------------------


def feature_aucs(sample: Sample, features: Sequence[Feature]) -> dict[str, float]:
    """How well each feature alone separates good from bad: its AUC, in the better direction.

    Missing values count as a value below all others; a category by its bad rate, which is a little
    optimistic for one of very many values.
    """
    found = {}
    frame = design(sample.rows, features)
    for feature in features:
        column = frame[feature.name]
        if is_category(feature):
            codes, _ = column.factorize(use_na_sentinel=False)
            loans = np.bincount(codes)
            score = (np.bincount(codes, sample.bad) / loans)[codes]
        else:
            score = column.fillna(-np.inf).to_numpy()
        auc = auc_interval(sample.bad, score)[0]
        found[feature.name] = max(auc, 1 - auc)
    return found


# --- the kinds ----------------------------------------------------------------------------------


def _fit_logistic(
    frame: "pd.DataFrame", bad: Flags, features: Sequence[Feature], seed: int
) -> Additive:
    """A logistic regression that no number contradicts; see `additive.fit_logistic`."""
    from threadpoolctl import threadpool_limits

    inner = folds(bad, _INNER_FOLDS, seed)
    with threadpool_limits(1):
        return fit_logistic(frame, bad, features, inner, _INVERSE_PENALTIES)


def _fit_boosting(frame: "pd.DataFrame", bad: Flags, features: Sequence[Feature], seed: int) -> Any:
    """Gradient boosting of small trees; a number may move the PD only the way that the field
    expects."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    numbers = [f for f in features if not is_category(f)]
    categories = [f for f in features if is_category(f)]
    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan
    )
    boosting = HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=100,
        max_leaf_nodes=8,
        min_samples_leaf=50,
        l2_regularization=1.0,
        early_stopping=False,
        monotonic_cst=[f.risk_rises for f in (*numbers, *categories)],
        categorical_features=[False] * len(numbers) + [True] * len(categories),
        random_state=seed,
    )
    columns = ColumnTransformer(
        [
            ("numbers", "passthrough", [f.name for f in numbers]),
            ("categories", codes, [f.name for f in categories]),
        ]
    )
    return Pipeline([("columns", columns), ("model", boosting)]).fit(frame, bad)


def _fit_scorecard(
    frame: "pd.DataFrame", bad: Flags, features: Sequence[Feature], seed: int
) -> Additive:
    """A scorecard of optimal bins; see `scorecard.fit_scorecard`."""
    from credit_risk_dagster.domain.model.scorecard import fit_scorecard

    return fit_scorecard(frame, bad, features)


# --- what is kept of a model --------------------------------------------------------------------


def dump(estimator: Any) -> bytes:
    """The fitted model as bytes: a sum as its coefficients in JSON, as the stream scores it; others
    by skops, which runs no code when they are loaded."""
    if isinstance(estimator, Additive):
        return estimator.coefficients.to_json()
    from zipfile import ZIP_DEFLATED

    from skops.io import dumps

    written: bytes = dumps(estimator, compression=ZIP_DEFLATED, compresslevel=6)
    return written


# What skops does not trust by itself, and the pipelines above have in them.
_TRUSTED = (
    *("numpy.dtype", "functools.partial", "sklearn.utils.validation.check_array"),
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


def load(artifact: bytes) -> Any:
    """The estimator that `dump` wrote by skops, for reproducing a result.

    Raises:
        UntrustedTypesFoundException: there is something in it that `dump` never writes.
    """
    from skops.io import loads

    return loads(artifact, trusted=list(_TRUSTED))
