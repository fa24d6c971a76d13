"""What came of a split: its arms by what they flagged, and by what became of the loans."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from credit_risk_dagster.domain.arms import ARMS
from credit_risk_dagster.domain.intervals import Interval, difference, share
from credit_risk_dagster.domain.model.observed import resolve
from credit_risk_dagster.domain.model.outcome import Outcome
from credit_risk_dagster.pipelines.experiments import ExperimentLife
from resources.postgres.outcomes import Outcomes

MOST_LOANS = 100_000


@dataclass(frozen=True)
class Arm:
    """The loans that one arm decided.

    Attributes:
        arm: champion or challenger.
        policies: ids of those that decided in it; of the champion several, where another policy
            was activated meanwhile.
        known: of how many the outcome is known.
        flagged, bad: share of all on the Watchlist; of the known that went bad.
        caught: share of the bad that were on the Watchlist.
        let_through: share of the known that were not on it and went bad.
    """

    arm: str
    policies: tuple[int, ...]
    loans: int
    known: int
    bads: int
    flagged: Interval
    bad: Interval
    caught: Interval
    let_through: Interval


MEASURES = {
    "flagged": "On the Watchlist",
    "bad": "Bad rate",
    "caught": "Bad loans caught",
    "let_through": "Bad rate of those not flagged",
}


def arms_of(
    connection: psycopg.Connection[Any], life: ExperimentLife, outcome: Outcome
) -> list[Arm]:
    """Champion and challenger of a split, since it was last started; empty before that. Of
    its first 100,000 decisions, whose outcomes are known first. Within a transaction."""
    if not life.activations or life.experiment.salt is None:
        return []
    last = life.activations[-1]
    names = [f"{life.experiment.salt}/{arm}" for arm in ARMS]
    rows, observed = Outcomes(connection).of_arms(
        names, last.effective_from, last.effective_to, MOST_LOANS
    )
    loans = rows["loan_id"].combine_chunks()
    found = resolve(outcome, loans, rows["issue_d"].to_numpy().astype("datetime64[D]"), observed)
    arms = np.array(rows["arm"].to_pylist(), object)
    policies = rows["policy_id"].to_numpy().astype(np.int64)
    flagged = np.array(rows["risk_tier"].to_pylist(), object) == "Watchlist"
    return [
        _arm(arm, policies[mine], flagged[mine], found.known[mine], found.bad[mine])
        for arm, name in zip(ARMS, names, strict=True)
        for mine in (arms == name,)
    ]


def _arm(arm: str, policies: Any, flagged: Any, known: Any, bad: Any) -> Arm:
    bads, through = int(bad.sum()), known & ~flagged
    return Arm(
        arm=arm,
        policies=tuple(np.unique(policies).tolist()),
        loans=len(flagged),
        known=int(known.sum()),
        bads=bads,
        flagged=share(int(flagged.sum()), len(flagged)),
        bad=share(bads, int(known.sum())),
        caught=share(int((bad & flagged).sum()), bads),
        let_through=share(int((bad & through).sum()), int(through.sum())),
    )


def change(arms: list[Arm], measure: str) -> Interval:
    """What the challenger has more of a measure of `MEASURES` than the champion."""
    champion, challenger = (getattr(arm, measure) for arm in arms)
    return difference(champion, challenger)
