"""What a model may know of an application, in which direction it speaks of risk, and in which words
its part in a PD is told."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from credit_risk_dagster.errors import PlatformError


class FeatureRefused(PlatformError):
    """A column that no model may use, or that does not exist; the message says which and why."""


@dataclass(frozen=True)
class Feature:
    """A column of `scored_applications`.

    Attributes:
        risk_rises: 1 when more of it means more risk, -1 when less does, by what the field knows; 0
            for a category.
        high, low: what to say to staff when a high or a low value raised the PD. (A category has
            one.) A factor that worked against what the field expects is named without saying how.
            They are reasons for adverse action only where the PD decides (12 CFR 1002, comment
            9(b)(2); wording after form C-1); where the policy decides, its own reasons are.
        unknown: the same for a missing value.
    """

    name: str
    risk_rises: int
    high: str
    low: str
    unknown: str


def _number(name: str, risk_rises: int, factor: str, adverse: str) -> Feature:
    high, low = (adverse, factor) if risk_rises > 0 else (factor, adverse)
    return Feature(name, risk_rises, high, low, f"{factor} is not known")


def _category(name: str, factor: str) -> Feature:
    return Feature(name, 0, factor, factor, f"{factor} is not known")


FEATURES = {
    feature.name: feature
    for feature in (
        _number("loan_amnt", 1, "Amount of the loan", "Amount of credit requested is high"),
        _number("int_rate", 1, "Interest rate", "Interest rate of the loan is high"),
        _number("dti", 1, "Debt to income", "Obligations are high in relation to income"),
        _number("revol_util", 1, "Credit utilization", "Balances are high against credit limits"),
        _number("credit_history_years", -1, "Length of credit history", "Credit history is short"),
        _number("delinq_2yrs", 1, "Delinquencies", "Delinquent past credit obligations"),
        _number("inq_last_6mths", 1, "Credit inquiries", "Many recent credit inquiries"),
        _number("annual_inc", -1, "Annual income", "Income is low"),
        _number("emp_length_yrs", -1, "Length of employment", "Length of employment is short"),
        _category("term_months", "Term of the loan"),
        _category("purpose", "Purpose of the loan"),
        _category("home_ownership", "Housing situation"),
        _category("grade", "Credit grade"),
    )
}
CLASSIC_FEATURES = (
    *("loan_amnt", "int_rate", "dti", "revol_util"),
    *("credit_history_years", "delinq_2yrs", "inq_last_6mths"),
)

Purpose = Literal["benchmark", "decision"]
PURPOSES: Final[tuple[Purpose, ...]] = ("benchmark", "decision")
# The lender's own judgement of the risk: a model with it repeats a decision that was made already.
LENDERS_DECISION: Final = ("int_rate", "grade", "sub_grade", "installment")

# LendingClub's columns that are filled in after the decision. A model that knows them knows how the
# loan went.
POST_ORIGINATION = frozenset(
    (
        *("loan_status", "issue_d", "funded_amnt", "funded_amnt_inv", "pymnt_plan"),
        *("out_prncp", "out_prncp_inv", "total_pymnt", "total_pymnt_inv", "total_rec_prncp"),
        *("total_rec_int", "total_rec_late_fee", "recoveries", "collection_recovery_fee"),
        *("last_pymnt_d", "last_pymnt_amnt", "next_pymnt_d", "last_credit_pull_d"),
        *("last_fico_range_high", "last_fico_range_low", "disbursement_method"),
        *("hardship_flag", "hardship_type", "hardship_reason", "hardship_status", "deferral_term"),
        *("hardship_amount", "hardship_start_date", "hardship_end_date", "hardship_length"),
        *("hardship_dpd", "hardship_loan_status", "hardship_payoff_balance_amount"),
        *("hardship_last_payment_amount", "payment_plan_start_date"),
        *("orig_projected_additional_accrued_interest", "debt_settlement_flag"),
        *("debt_settlement_flag_date", "settlement_status", "settlement_date"),
        *("settlement_amount", "settlement_percentage", "settlement_term"),
    )
)


def select_features(names: Iterable[str], purpose: Purpose = "benchmark") -> tuple[Feature, ...]:
    """The features of these names, in that order.

    Args:
        purpose: a model that is to decide may not know what the lender decided.

    Raises:
        FeatureRefused: one is known only after the decision, is the lender's own decision and the
            model is for one, says where a person lives, does not exist or is named twice; or there
            is none.
    """
    chosen = tuple(names)
    offered = f"there are: {', '.join(FEATURES)}"
    late = [name for name in chosen if name in POST_ORIGINATION]
    if late:
        raise FeatureRefused(
            f"{', '.join(late)} cannot be a feature: it is known only after the decision, so a "
            "model with it would know how the loan went; remove it"
        )
    if purpose == "decision" and (own := [name for name in chosen if name in LENDERS_DECISION]):
        raise FeatureRefused(
            f"{', '.join(own)} cannot be a feature of a model for decisions: the lender's own "
            "decision is in it; remove it, or train with the purpose benchmark"
        )
    for name in chosen:
        if name in ("addr_state", "zip_code"):
            raise FeatureRefused(
                f"{name} cannot be a feature: where a person lives stands for protected "
                "characteristics; remove it"
            )
        if name not in FEATURES:
            raise FeatureRefused(f"there is no feature {name!r}; {offered}")
        if chosen.count(name) > 1:
            raise FeatureRefused(f"{name} is named twice; remove one")
    if not chosen:
        raise FeatureRefused(f"a model needs a feature; {offered}")
    return tuple(FEATURES[name] for name in chosen)


def without_price(features: Iterable[Feature]) -> tuple[Feature, ...]:
    """Those of the features that are not the lender's own decision."""
    return tuple(feature for feature in features if feature.name not in LENDERS_DECISION)
