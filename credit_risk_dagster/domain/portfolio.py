"""What the applications are expected to lose, by whom, and what a worse economy does to it.

Expected loss = PD x LGD x EAD. EAD is the amount requested: nothing is known of how much of it will
be repaid before a default.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.decision import decide, policy_columns
from credit_risk_dagster.domain.intervals import Interval, share, wilson_interval
from credit_risk_dagster.domain.pd import CategoryTerm, PdModel, probability
from credit_risk_dagster.domain.policy import TIERS, Policy

Floats = npt.NDArray[np.float64]

ASSUMED_LGD: Final = 0.75  # of unsecured consumer loans, until own recoveries say otherwise
MIN_DEFAULTS: Final = 30
_CHARGED_OFF = ("Charged Off", "Does not meet the credit policy. Status:Charged Off")
_WATCHLIST = TIERS.index("Watchlist")
_DTI = ("dti", "dti_primary", "dti_joint")


@dataclass(frozen=True)
class Lgd:
    """Loss given default: the share of the exposure that is not recovered.

    Attributes:
        defaults: loans that it was measured on; 0 when it is assumed.
    """

    value: float
    defaults: int

    @property
    def words(self) -> str:
        """Where it comes from."""
        if self.defaults:
            return f"LGD {100 * self.value:.1f} %, by recoveries of {self.defaults:,} bad loans"
        return (
            f"LGD {100 * self.value:.0f} % is assumed: fewer than {MIN_DEFAULTS} charged-off loans "
            "have known recoveries"
        )


def loss_given_default(observed: pa.Table, exposures: Mapping[str, float]) -> Lgd:
    """The LGD of charged-off loans whose recoveries are known, weighted by exposure; `ASSUMED_LGD`
    with less than `MIN_DEFAULTS` of them.

    Args:
        observed: of `OBSERVED`.
        exposures: amount by loan, for a loan of which no balance was observed.
    """
    ended = observed.filter(pc.is_in(observed["status"], pa.array(_CHARGED_OFF)))
    ended = ended.filter(ended["recovered"].is_valid())
    latest = {row["loan_id"]: row["recovered"] for row in ended.sort_by("observed_at").to_pylist()}
    balances: dict[str, float] = {}
    owed = observed.filter(pc.is_in(observed["loan_id"], pa.array(list(latest), pa.string())))
    for row in owed.filter(pc.greater(owed["balance"], 0)).sort_by("observed_at").to_pylist():
        balances[row["loan_id"]] = row["balance"]
    pairs = [
        (exposure, min(recovered, exposure))
        for loan, recovered in latest.items()
        if (exposure := balances.get(loan, exposures.get(loan, 0.0))) > 0
    ]
    if len(pairs) < MIN_DEFAULTS:
        return Lgd(ASSUMED_LGD, 0)
    owed_sum, back = (sum(values) for values in zip(*pairs, strict=True))
    return Lgd(1 - back / owed_sum, len(pairs))


@dataclass(frozen=True)
class Expected:
    """Expected loss of applications that have something in common; amounts in USD.

    Attributes:
        pd: mean, weighted by nothing.
        loss_rate: of the amount.
    """

    of: str
    value: str
    applications: int
    amount: float
    pd: float
    loss: float
    loss_rate: float


def expected_losses(
    groups: Mapping[str, Sequence[str | None]], pd: Floats, amount: Floats, lgd: Lgd
) -> list[Expected]:
    """By each value of each group, and of all together first.

    Args:
        groups: name to values, shape (n,); None is in no value.
        pd: shape (n,), without NaN.
    """
    found = [_expected("all", "all", np.ones(len(pd), np.bool_), pd, amount, lgd)]
    for name, values in groups.items():
        array = np.asarray(values, dtype=object)
        for value in sorted({each for each in values if each is not None}):
            found.append(_expected(name, str(value), array == value, pd, amount, lgd))
    return found


def _expected(
    of: str, value: str, inside: npt.NDArray[np.bool_], pd: Floats, amount: Floats, lgd: Lgd
) -> Expected:
    total, loss = float(amount[inside].sum()), float((pd * amount)[inside].sum() * lgd.value)
    mean = float(pd[inside].mean()) if inside.any() else 0.0
    return Expected(of, value, int(inside.sum()), total, mean, loss, loss / total if total else 0.0)


# --- what the portfolio is of, and what became of it ---------------------------------------------


@dataclass(frozen=True)
class Came:
    """What came of the loans of a tier whose outcome is known."""

    tier: str
    loans: int
    bads: int
    bad_rate: Interval


def came_of_tiers(tiers: Sequence[str], bad: Floats) -> list[Came]:
    """The tiers' bad rates, the least risky tier first.

    Args:
        tiers: shape (n,).
        bad: 1, 0, or NaN where the outcome is not known, shape (n,).
    """
    array, known = np.asarray(tiers, dtype=object), ~np.isnan(bad)
    found = []
    for tier in TIERS:
        inside = known & (array == tier)
        loans, bads = int(inside.sum()), int(bad[inside].sum())
        found.append(Came(tier, loans, bads, share(bads, loans)))
    return found


def largest(values: Sequence[str | None], amount: Floats) -> tuple[str | None, float]:
    """The value that most of the amount has, and its share of the whole; what has no value is in
    the whole alone."""
    sums: dict[str, float] = {}
    for value, each in zip(values, amount.tolist(), strict=True):
        if value is not None:
            sums[value] = sums.get(value, 0.0) + each
    whole = float(amount.sum())
    if not sums or not whole:
        return None, 0.0
    name = max(sums, key=lambda value: (sums[value], value))
    return name, sums[name] / whole


# --- stress -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stress:
    """What a change of every application does.

    Attributes:
        flagged: on the Watchlist; `flagged_low` and `flagged_high` its share's interval.
        pd: mean, and loss in USD; None without a model.
    """

    scenario: str
    applications: int
    flagged: int
    flagged_low: float
    flagged_high: float
    pd: float | None
    loss: float | None


SCENARIOS: Final = ("as it is", "DTI +5", "DTI +10", "income -10 %", "rate +200 bp")


def stressed(rows: pa.Table, scenario: str) -> pa.Table:
    """The rows in a scenario. With a tenth less income the same debts weigh more: DTI rises by a
    ninth."""
    changes: dict[str, Any] = {}
    if scenario.startswith("DTI"):
        changes = dict.fromkeys(_DTI, ("add", float(scenario.split()[1])))
    elif scenario.startswith("income"):
        changes = dict.fromkeys(_DTI, ("multiply", 1 / 0.9))
        incomes = ("annual_inc", "annual_inc_primary", "annual_inc_joint")
        changes |= dict.fromkeys(incomes, ("multiply", 0.9))
    elif scenario.startswith("rate"):
        changes = {"int_rate": ("add", 2.0)}
    for name, (how, amount) in changes.items():
        if name in rows.column_names:
            changed = getattr(pc, how)(rows[name], amount)
            rows = rows.set_column(rows.column_names.index(name), name, changed)
    return rows


def unmoved(model: PdModel) -> list[str]:
    """In words, which of the figures that the scenarios change do not move the model's PD."""
    terms = {term.feature: term for term in model.coefficients.terms}
    said = []
    for name, word in (("dti", "DTI"), ("annual_inc", "income"), ("int_rate", "the rate")):
        term = terms.get(name)
        if term is None:
            said.append(f"The model does not use {word}: it is none of its features.")
        elif not isinstance(term, CategoryTerm) and term.flat:
            said.append(
                f"The model does not use {word}: its coefficient is at its bound of 0, because in "
                "the sample more of it did not go with more bad loans."
            )
    return said


def stress(rows: pa.Table, policy: Policy, model: PdModel | None, lgd: Lgd) -> list[Stress]:
    """Let the policy and a model decide anew in each of `SCENARIOS`.

    Args:
        rows: what the policy and the model need, and loan_amnt.
    """
    amount = rows["loan_amnt"].to_numpy()
    found = []
    for scenario in SCENARIOS:
        changed = stressed(rows, scenario)
        tier = decide(policy.program, policy_columns(policy.program, changed)).tier
        flagged = int((tier == _WATCHLIST).sum())
        low, high = wilson_interval(flagged, len(rows)) or (0.0, 1.0)
        pd = None if model is None else probability(model.log_odds(changed)[0])
        mean = None if pd is None else float(pd.mean())
        loss = None if pd is None else float((pd * amount).sum() * lgd.value)
        found.append(Stress(scenario, len(rows), flagged, low, high, mean, loss))
    return found
