"""The classic logistic regression, by scikit-learn and nothing of ours: penalty, no signs, no caps,
missing values at their median with an indicator. Independent answers to compare with."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.domain.model.samples import builtin_sample


def pipeline(features: Sequence[str], inverse_penalty: float) -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    return make_pipeline(
        ColumnTransformer([("numbers", numbers, list(features))]),
        LogisticRegression(C=inverse_penalty, max_iter=2000, tol=1e-6),
    )


@lru_cache
def built_in(features: tuple[str, ...], *inverse_penalties: float) -> tuple[Any, Any]:
    """PDs of the built-in loans out of fold, and of those of March by January and February.

    Args:
        inverse_penalties: of the five folds, as cross-validation within each of them chose; one for
            all of them.
    """
    sample = builtin_sample()
    frame = sample.rows.select(list(features)).to_pandas()
    out_of_fold = np.empty(len(sample))
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(frame, sample.bad)
    for (fit_on, test_on), inverse_penalty in zip(
        folds,
        inverse_penalties if len(inverse_penalties) > 1 else inverse_penalties * 5,
        strict=True,
    ):
        fitted = pipeline(features, inverse_penalty).fit(frame.iloc[fit_on], sample.bad[fit_on])
        out_of_fold[test_on] = fitted.predict_proba(frame.iloc[test_on])[:, 1]
    march = sample.rows["issue_d"].to_numpy() >= np.datetime64("2018-03-01")
    fitted = pipeline(features, inverse_penalties[-1]).fit(frame[~march], sample.bad[~march])
    return out_of_fold, fitted.predict_proba(frame[march])[:, 1]
