"""What the tests of the models share: real loans, and the kinds of models that are made of them."""

from importlib.util import find_spec

import msgspec

from credit_risk_dagster.pipelines.loans import builtin_loans

# optbinning is an extra, which the tests do without.
CHALLENGERS = ["gradient_boosting", *(["scorecard"] if find_spec("optbinning") else [])]
KINDS = ["logistic", *CHALLENGERS]


def loans(count: int) -> list[bytes | None]:
    """Built-in loans as events."""
    return [msgspec.json.encode(row) for row in builtin_loans()[:count]]
