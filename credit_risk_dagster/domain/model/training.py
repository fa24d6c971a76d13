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
import pyarrow as pa

from credit_risk_dagster.domain.features import Feature
from credit_risk_dagster.domain.model.measures import Z, auc_interval
from credit_risk_dagster.domain.model.sample import MIN_OF_EACH, Sample
from credit_risk_dagster.domain.pd import CategoryTerm, Coefficients, NumberTerm

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


def design(rows: pa.Table, features: Sequence[Feature]) -> "pd.DataFrame":
    """The features as a model sees them: numbers with NaN where missing, categories as strings
    with None where missing."""
    import pandas as pd

    return pd.DataFrame(
        {
            f.name: _labels(rows[f.name]) if is_category(f) else _numbers(rows[f.name])
            for f in features
        }
    )


def is_category(feature: Feature) -> bool:
    return feature.risk_rises == 0


def _numbers(column: pa.ChunkedArray) -> Floats:
    values: Floats = column.to_numpy()
    return values


def _labels(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    if pa.types.is_floating(column.type):
        column = column.cast(pa.int64(), safe=False).cast(pa.string())
    labels: npt.NDArray[np.object_] = column.to_pandas().to_numpy(dtype=object)
    return labels


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


def _fit_logistic(frame: "pd.DataFrame", bad: Flags, features: Sequence[Feature], seed: int) -> Any:
    """Logistic regression with an L2 penalty that cross-validation chooses by log loss."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = Pipeline(
        [
            (
                "impute",
                SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
            ),
            ("scale", StandardScaler()),
        ]
    )
    pipeline = Pipeline(
        [
            (
                "columns",
                ColumnTransformer(
                    [
                        ("numbers", numbers, [f.name for f in features if not is_category(f)]),
                        (
                            "categories",
                            # A value that training has not seen counts as no value of its column.
                            OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                            [f.name for f in features if is_category(f)],
                        ),
                    ]
                ),
            ),
            ("model", LogisticRegression(max_iter=2000, tol=1e-6)),
        ]
    )
    search = GridSearchCV(
        pipeline,
        {"model__C": _INVERSE_PENALTIES},
        scoring="neg_log_loss",
        cv=folds(bad, _INNER_FOLDS, seed),
    )
    return search.fit(frame, bad).best_estimator_


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
) -> Any:
    """A scorecard: optimal bins, their weight of evidence, and a logistic regression of that."""
    from optbinning import BinningProcess, Scorecard
    from sklearn.linear_model import LogisticRegression

    binning = BinningProcess(
        [f.name for f in features],
        categorical_variables=[f.name for f in features if is_category(f)],
        binning_fit_params={f.name: {"monotonic_trend": "auto_asc_desc"} for f in features},
    )
    estimator = LogisticRegression(max_iter=1000)
    return Scorecard(binning, estimator).fit(frame, bad.astype(int))


# --- what is kept of a model --------------------------------------------------------------------


def coefficients(pipeline: Any, frame: "pd.DataFrame") -> Coefficients:
    """A fitted logistic pipeline as a sum of contributions against its population.

    Scaling and one-hot encoding make a weight of each coefficient, and a constant, which moves into
    the intercept. Equal to the pipeline's own answers up to rounding.

    Args:
        pipeline: of kind logistic.
        frame: the features that it was fitted to.
    """
    columns, model = pipeline.named_steps["columns"], pipeline.named_steps["model"]
    names = columns.get_feature_names_out()
    weights = dict(zip(names, model.coef_[0].tolist(), strict=True))
    intercept = float(model.intercept_[0])
    terms: dict[str, NumberTerm | CategoryTerm] = {}
    for name, _, used in columns.transformers_:
        if name == "numbers" and used:
            steps = columns.named_transformers_["numbers"].named_steps
            scaled = dict(
                zip(
                    (n for n in names if n.startswith("numbers__")),
                    zip(steps["scale"].mean_.tolist(), steps["scale"].scale_.tolist(), strict=True),
                    strict=True,
                )
            )
            for feature, fill in zip(used, steps["impute"].statistics_.tolist(), strict=True):
                mean, scale = scaled[f"numbers__{feature}"]
                weight = weights[f"numbers__{feature}"] / scale
                indicator = f"numbers__missingindicator_{feature}"
                share, deviation = scaled.get(indicator, (0.0, 1.0))
                jump = weights.get(indicator, 0.0) / deviation
                terms[feature] = NumberTerm(
                    feature,
                    weight,
                    mean,
                    -jump * share,
                    weight * (fill - mean) + jump * (1 - share),
                )
        elif name == "categories" and used:
            encoder = columns.named_transformers_["categories"]
            for feature, values in zip(used, encoder.categories_, strict=True):
                of_value = {v: weights[f"categories__{feature}_{v}"] for v in values}
                shares = frame[feature].value_counts(normalize=True, dropna=False)
                mean = sum(share * of_value.get(v, 0.0) for v, share in shares.items())
                missing = of_value.pop(None, 0.0)
                added = [weight - mean for weight in of_value.values()]
                terms[feature] = CategoryTerm(feature, list(of_value), added, -mean, missing - mean)
                intercept += mean
    return Coefficients(intercept, [terms[feature] for feature in frame.columns])


@dataclass(frozen=True)
class Effect:
    """An odds ratio with its 95 % interval: of a number for one standard deviation more, of a
    category against the others."""

    name: str
    odds_ratio: float
    low: float
    high: float


def effects(pipeline: Any, frame: "pd.DataFrame") -> list[Effect]:
    """The coefficients of a fitted logistic pipeline as odds ratios.

    The covariance is H^-1 I H^-1, where I is the information of the data and H = I plus the
    penalty: that of a penalized estimate, which the penalty also draws towards one.
    """
    columns, model = pipeline.named_steps["columns"], pipeline.named_steps["model"]
    matrix = np.column_stack([np.ones(len(frame)), columns.transform(frame)])
    probability = pd_of(pipeline, frame)
    information = matrix.T @ (matrix * (probability * (1 - probability))[:, None])
    penalty = np.eye(len(information)) / model.C
    penalty[0, 0] = 0.0  # the intercept has none
    bread = np.linalg.pinv(information + penalty)
    half = Z * np.sqrt(np.diag(bread @ information @ bread))[1:]
    names = (name.split("__", 1)[1] for name in columns.get_feature_names_out())
    return [
        Effect(
            name.replace("missingindicator_", "missing: "),
            *(float(np.exp(value)) for value in (weight, weight - reach, weight + reach)),
        )
        for name, weight, reach in zip(names, model.coef_[0], half, strict=True)
    ]


def dump(trained: Trained) -> bytes:
    """The fitted model as bytes: skops, which runs no code when it is loaded; a scorecard as the
    JSON of its bins and points."""
    if trained.kind == "scorecard":
        table: bytes = trained.estimator.table(style="detailed").to_json(orient="records").encode()
        return table
    from zipfile import ZIP_DEFLATED

    from skops.io import dumps

    written: bytes = dumps(trained.estimator, compression=ZIP_DEFLATED, compresslevel=6)
    return written


# What skops does not trust by itself, and the pipelines above have in them.
_TRUSTED = (
    *("numpy.dtype", "functools.partial", "sklearn.utils.validation.check_array"),
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
)


def load(artifact: bytes) -> Any:
    """The estimator of `dump`, for reproducing a result.

    Raises:
        UntrustedTypesFoundException: there is something in it that `dump` never writes.
    """
    from skops.io import loads

    return loads(artifact, trusted=list(_TRUSTED))
