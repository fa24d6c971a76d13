"""What the tests of the models share: a topic for real loans, and models of them."""

import msgspec

from credit_risk_dagster.pipelines.loans import builtin_loans


def loans(count: int) -> list[bytes | None]:
    """Built-in loans as events."""
    return [msgspec.json.encode(row) for row in builtin_loans()[:count]]
