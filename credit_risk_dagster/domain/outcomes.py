"""What became of a loan, as one row tells it: from an API, a file, or a LendingClub row.

Everything that is known only after the decision is an outcome, and never part of an application.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from credit_risk_dagster.domain.features import POST_ORIGINATION
from credit_risk_dagster.domain.loans import normal_id
from credit_risk_dagster.errors import PlatformError

LATE_COLUMNS = POST_ORIGINATION - {"issue_d"}  # the month of the application itself
OBSERVED_WHEN = "last_credit_pull_d"  # LendingClub's word for when it last looked
# Each value by its own name, or by LendingClub's.
NAMES = {
    "loan_id": "id",
    "observed_at": OBSERVED_WHEN,
    "status": "loan_status",
    "days_past_due": "days_past_due",
    "balance": "out_prncp",
    "recovered": "recoveries",
    "source": "source",
}
_VALUES = ("status", "days_past_due", "balance", "recovered")
_NOTHING = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat"})
_MOST_DAYS = 20_000
_MOST_CHARACTERS = 200
_MONTH = re.compile(r"([A-Z][a-z]{2})-(\d{4})")
_SOON = timedelta(days=1)


class OutcomeRefused(PlatformError):
    """A row that is no outcome; the message names the field and why, and never the loan."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a loan at a time; what is not known is None. Amounts in USD."""

    loan_id: str
    observed_at: datetime
    status: str | None
    days_past_due: int | None
    balance: float | None
    recovered: float | None
    source: str


def observation(
    row: Mapping[str, Any], *, source: str, observed_at: datetime | None = None
) -> Observation:
    """What a row says.

    Args:
        row: by the names of `NAMES`, either of them; others are ignored.
        source: of a row that does not say it.
        observed_at: the same.

    Raises:
        OutcomeRefused: it has no loan, time or value, or one that cannot be.
    """
    found = {name: _given(row, name) for name in NAMES}
    given = found["loan_id"]
    is_id = isinstance(given, str | int | float) and not isinstance(given, bool)
    loan_id = normal_id(str(given)) if is_id else None
    if loan_id is None:
        raise OutcomeRefused("loan_id is missing or no id")
    when = observed_when(found["observed_at"]) or observed_at
    if when is None:
        raise OutcomeRefused(
            f"observed_at is {'missing' if found['observed_at'] is None else 'no time'}: give a "
            "day, such as 2019-03-31"
        )
    if when > datetime.now(UTC) + _SOON:
        raise OutcomeRefused("observed_at is in the future")
    status = _text(found["status"], "status")
    days = _number(found["days_past_due"], "days_past_due", 0, _MOST_DAYS)
    balance = _number(found["balance"], "balance", -1e12, 1e12)
    recovered = _number(found["recovered"], "recovered", 0, 1e12)
    if status is None and days is None and balance is None and recovered is None:
        raise OutcomeRefused(f"it says nothing: give one of {', '.join(_VALUES)}")
    return Observation(
        loan_id,
        when,
        status,
        None if days is None else math.floor(days),
        balance,
        recovered,
        _text(found["source"], "source") or source,
    )


def application_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was known of a loan when it was decided."""
    return {name: value for name, value in row.items() if name not in LATE_COLUMNS}


def observed_when(value: Any) -> datetime | None:
    """The time of a value: ISO 8601, a day, or a month (its first day); in UTC where it does not
    say. None of none."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    text = str(value).strip() if isinstance(value, str | date) else ""
    try:
        found = (
            datetime.strptime(text, "%b-%Y")  # noqa: DTZ007 (in UTC, below)
            if _MONTH.fullmatch(text)
            else datetime.fromisoformat(text)
        )
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _given(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is None:
        value = row.get(NAMES[name])
    return None if str(value).strip().lower() in _NOTHING else value


def _text(value: Any, name: str) -> str | None:
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else ""
    if not text or not text.isprintable() or len(text) > _MOST_CHARACTERS:
        raise OutcomeRefused(f"{name} is no text of at most {_MOST_CHARACTERS} characters")
    return text


def _number(value: Any, name: str, low: float, high: float) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise OutcomeRefused(f"{name} is no number") from None
    if not low <= number <= high:
        raise OutcomeRefused(f"{name} is not between {low:,.0f} and {high:,.0f}")
    return number
