"""Cases: what a reviewer may find of a loan on the Watchlist, in codes that can be counted."""

from typing import Literal

State = Literal["open", "in_review", "closed"]

DISPOSITIONS: dict[str, tuple[str, ...]] = {
    "confirmed": ("debt_burden", "delinquency", "income_unverified", "fraud_suspected", "other"),
    "false_positive": ("data_error", "income_verified", "debt_settled", "other"),
    "override_up": ("new_information", "policy_gap", "fraud_suspected", "other"),
    "override_down": ("compensating_factors", "new_information", "policy_exception", "other"),
    "escalated": ("fraud_suspected", "legal", "senior_approval", "other"),
}
"""What a case is closed as, and the reasons that each may have. An override decides other than the
policy did: up, the loan is riskier than its decision says; down, it is less risky."""


def check_disposition(disposition: str, reason_code: str) -> None:
    """Raises ValueError, with what there is to choose from: a case cannot be closed so."""
    reasons = DISPOSITIONS.get(disposition)
    if reasons is None:
        raise ValueError(f"a case is closed as one of {', '.join(DISPOSITIONS)}")
    if reason_code not in reasons:
        raise ValueError(f"{disposition} has one of the reasons {', '.join(reasons)}")
