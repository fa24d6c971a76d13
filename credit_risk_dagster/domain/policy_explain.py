"""Why a policy decides as it does: every rule, what it read, and what came of it."""

from typing import Any

import numpy as np

from credit_risk_dagster.domain.cleaning import clean
from credit_risk_dagster.domain.decision import OUTCOMES, POSSIBLY, SURELY, TIERS, Applications
from credit_risk_dagster.domain.decision_table import Policy
from credit_risk_dagster.domain.decoding import decode
from credit_risk_dagster.domain.pd import PdModel
from credit_risk_dagster.domain.scoring import answers
from credit_risk_dagster.domain.unary import BANDS


def explain(value: bytes, policy: Policy, model: PdModel | None = None) -> dict[str, Any]:
    """The stream's answer to an event (see `answers`), with `rules`: for each its id, words, what
    it gives, the `inputs` that it read (None is missing), and `fired`: True, False, or None where a
    missing input leaves it open; and what it is then taken for (`counts_as_fired`). Of a rejected
    event there are none.
    """
    (answer,) = answers([value], policy, model)
    if answer["outcome"] == "rejected":
        return answer | {"rules": []}
    program = policy.program
    columns = clean(decode([value]), program.joint).columns()
    columns["pd"] = np.array([np.nan if answer.get("pd") is None else answer["pd"]])
    applications = Applications(program, columns)
    told = []
    for rule, row in zip(program.rules, policy.table.rules, strict=True):
        surely, possibly = (applications.holds(rule.when, mode)[0] for mode in (SURELY, POSSIBLY))
        told.append(
            {
                "id": rule.id,
                "words": row.words,
                "tier": None if rule.tier is None else TIERS[rule.tier],
                "outcome": None if rule.outcome is None else OUTCOMES[rule.outcome],
                "reason": rule.reason,
                "missing": rule.missing,
                "inputs": {
                    name: _plain(columns[name][0]) for name in sorted(program.inputs(rule.when))
                },
                "bands": {
                    name: None if code < 0 else BANDS[code]
                    for name in sorted(program.bands.keys() & program.inputs(rule.when))
                    for code in (int(applications.bands[name][0]),)
                },
                "fired": bool(surely) if surely == possibly else None,
                "counts_as_fired": bool(applications.fires(rule)[0][0]),
            }
        )
    return answer | {"rules": told}


def _plain(value: Any) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    return None if np.isnan(value) else float(value)
