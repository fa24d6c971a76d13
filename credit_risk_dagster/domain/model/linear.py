"""Logistic regression: with signs and a penalty, for a model; and exact, for calibration."""

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.pd import probability

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_STEPS = 100  # of Newton; separated outcomes have no finite answer, and go on as far
_CLOSE = 1e-10


def fit_signed(
    matrix: Floats,
    bad: Flags,
    signs: npt.ArrayLike,
    inverse_penalty: float,
    weights: Floats | None = None,
    start: Floats | None = None,
) -> Floats:
    """Logistic regression whose coefficients may not contradict their signs.

    By L-BFGS-B with bounds (R. Byrd, P. Lu, J. Nocedal, C. Zhu, 1995). Where no bound binds it is
    scikit-learn's `LogisticRegression(C=inverse_penalty)`: the log loss of all rows and half the
    squares of the coefficients / C; the intercept has no penalty.

    Args:
        matrix: shape (n, k), columns of about the same scale.
        bad: shape (n,).
        signs: shape (k,): 1 for coefficients >= 0, -1 for <= 0, 0 for any.
        weights: of the rows, shape (n,).
        start: shape (k + 1,), as returned; from where to search.

    Returns:
        Intercept and coefficients, shape (k + 1,).
    """
    from scipy.optimize import minimize

    design = np.column_stack([np.ones(len(matrix)), matrix])
    each = np.ones(len(matrix)) if weights is None else weights
    total = each.sum()
    sign = np.where(bad, 1.0, -1.0)
    shrink = np.full(design.shape[1], 1 / (inverse_penalty * total))
    shrink[0] = 0.0

    def loss(beta: Floats) -> tuple[float, Floats]:
        margin = sign * (design @ beta)
        value = each @ np.logaddexp(0, -margin) / total + shrink @ beta**2 / 2
        slope = design.T @ (-sign * each * probability(-margin)) / total + shrink * beta
        return float(value), slope

    bounds = [(None, None)] + [
        (0 if sign > 0 else None, 0 if sign < 0 else None) for sign in np.asarray(signs)
    ]
    if start is None:
        start = np.zeros(design.shape[1])
        share = each[bad].sum() / total
        start[0] = np.log(share / (1 - share))
    options = {"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-9, "maxls": 40}
    found: Floats = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    ).x
    return found


def recalibrate(bad: Flags, log_odds: Floats) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of an outcome on log-odds, by Newton's method.

    The log-odds are centred for it: a PD of a few percent is far from log-odds of zero, and a
    search that starts there stops too early. Log-odds that are all the same have a slope of 0;
    outcomes that they separate have no finite answer, and get a steep one.
    """
    centre = float(log_odds.mean())
    spread = float(log_odds.std())
    if spread < _CLOSE * max(1.0, abs(centre)):
        share = float(bad.mean())
        return float(np.log(share / (1 - share))), 0.0
    design = np.column_stack([np.ones(len(bad)), (log_odds - centre) / spread])
    level, slope = _newton(design, bad, np.zeros(len(bad)))
    slope /= spread
    return float(level - slope * centre), float(slope)


def calibration_in_the_large(bad: Flags, log_odds: Floats) -> float:
    """What log-odds lack on the whole: the intercept with their slope fixed at 1."""
    (level,) = _newton(np.ones((len(bad), 1)), bad, log_odds)
    return float(level)


def _newton(design: Floats, bad: Flags, offset: Floats) -> Floats:
    """Logistic regression without a penalty; a step that makes the loss worse is halved."""
    sign = np.where(bad, 1.0, -1.0)

    def loss(beta: Floats) -> float:
        return float(np.logaddexp(0, -sign * (design @ beta + offset)).sum())

    beta = np.zeros(design.shape[1])
    before = loss(beta)
    for _ in range(_STEPS):
        p = probability(design @ beta + offset)
        information = design.T @ (design * (p * (1 - p))[:, None])
        step = np.linalg.lstsq(information, design.T @ (bad - p), rcond=None)[0]
        while (now := loss(beta + step)) > before + _CLOSE and np.abs(step).max() > _CLOSE:
            step = step / 2
        beta = beta + step
        if np.abs(step).max() < _CLOSE or before - now < -_CLOSE:
            break
        before = now
    return beta
