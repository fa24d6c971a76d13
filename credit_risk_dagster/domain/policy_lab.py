"""The policy lab: what a candidate policy would have decided, compared with the active one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from credit_risk_dagster.domain.cleaning import Floats
from credit_risk_dagster.domain.decision import WATCHLIST, Codes, Decisions, decide
from credit_risk_dagster.domain.intervals import Interval, paired_difference, share
from credit_risk_dagster.domain.model.outcome import BAD, GOOD, UNKNOWN, Outcome
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.unary import NUMBERS
from credit_risk_dagster.errors import PlatformError

_OUTCOMES: Final = 3


def outcome_codes(outcome: Outcome, statuses: Sequence[str]) -> Codes:
    """`BAD`, `GOOD` or `UNKNOWN` for each value of `loan_status`."""
    codes = dict.fromkeys(outcome.good, GOOD) | dict.fromkeys(outcome.bad, BAD)
    return np.array([codes.get(status, UNKNOWN) for status in statuses], np.int8)


@dataclass(frozen=True)
class Applications:
    """Scored applications, newest first; every array has shape (n,), and NaN is missing.

    Attributes:
        numbers: those that the policies need, by name, and `loan_amnt` (USD); `dti` and
            `annual_inc` are those that decided, whatever a policy reads.
        of_two: where there are two borrowers.
        outcome: `BAD`, `GOOD` or `UNKNOWN`.
    """

    numbers: Mapping[str, Floats]
    of_two: npt.NDArray[np.bool_]
    outcome: Codes

    def __len__(self) -> int:
        return len(self.outcome)

    def __getitem__(self, positions: npt.NDArray[np.intp]) -> "Applications":
        some = {name: values[positions] for name, values in self.numbers.items()}
        return Applications(some, self.of_two[positions], self.outcome[positions])

    def decisions(self, policy: Policy) -> Decisions:
        """What a policy says of them; whoever's figures decided then, by those that it reads."""
        program = policy.program
        columns = dict(self.numbers)
        for name in ("dti", "annual_inc"):
            if name in columns:
                own = np.where(self.of_two, columns[f"{name}_primary"], columns[name])
                joint = columns[f"{name}_joint"]
                combined = program.joint == "combined"
                use_joint = self.of_two & ~np.isnan(joint) if combined else False
                columns[name] = np.where(use_joint, joint, own)
        return decide(program, columns)


@dataclass(frozen=True)
class Verdict:
    """What one policy makes of the applications.

    Attributes:
        tiers: applications by tier, shape (tiers,), in the order of `TIERS`.
        amounts: USD applied for by tier, likewise.
        outcomes: applications by tier and outcome, shape (tiers, outcomes).
    """

    tiers: npt.NDArray[np.int64]
    amounts: Floats
    outcomes: npt.NDArray[np.int64]

    @property
    def flagged(self) -> int:
        """Applications on the Watchlist."""
        return int(self.tiers[WATCHLIST])

    @property
    def flagged_share(self) -> Interval:
        return share(self.flagged, int(self.tiers.sum()))

    @property
    def exposure(self) -> float:
        """USD that the flagged applied for."""
        return float(self.amounts[WATCHLIST])

    @property
    def recall(self) -> Interval:
        """Share of the bad loans that are flagged (capture rate)."""
        bads = self.outcomes[:, BAD]
        return share(int(bads[WATCHLIST]), int(bads.sum()))

    @property
    def precision(self) -> Interval:
        """Share of bad loans among the flagged ones with a known outcome."""
        return self.bad_rate(WATCHLIST)

    def bad_rate(self, tier: int) -> Interval:
        """Share of bad loans among those of a tier with a known outcome."""
        _, good, bad = self.outcomes[tier]
        return share(int(bad), int(good + bad))


@dataclass(frozen=True)
class Comparison:
    """Two policies on the same applications.

    Attributes:
        counts: applications by active tier, candidate tier and outcome.
        amounts: USD applied for by active tier and candidate tier.
        entering, leaving: positions of the applications that only the candidate, or only the active
            policy flags, in the order of the applications; of a sum, there are none.
    """

    counts: npt.NDArray[np.int64]
    amounts: Floats
    entering: npt.NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))
    leaving: npt.NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))

    def __add__(self, other: "Comparison") -> "Comparison":
        """The same policies on the applications of both."""
        return Comparison(self.counts + other.counts, self.amounts + other.amounts)

    @property
    def applications(self) -> int:
        return int(self.counts.sum())

    @property
    def bads(self) -> int:
        """Applications that are known to have gone bad."""
        return int(self.counts[..., BAD].sum())

    @property
    def known(self) -> int:
        """Applications with a known outcome."""
        return self.bads + int(self.counts[..., GOOD].sum())

    @property
    def moves(self) -> npt.NDArray[np.int64]:
        """Applications by active tier (rows) and candidate tier (columns)."""
        return self.counts.sum(axis=2)

    @cached_property
    def active(self) -> Verdict:
        return self._verdict(other=1)

    @cached_property
    def candidate(self) -> Verdict:
        return self._verdict(other=0)

    @property
    def flagged_change(self) -> Interval:
        """Candidate minus active share of flagged applications."""
        return _change(self.moves)

    @property
    def recall_change(self) -> Interval:
        """Candidate minus active share of bad loans that are flagged."""
        return _change(self.counts[..., BAD])

    def figures(self) -> dict[str, Any]:
        """What speaks for the candidate, to be kept: shares with their limits, USD; None where
        there is nothing to tell from."""

        def told(found: Interval) -> dict[str, float | None]:
            return {n: None if math.isnan(v) else float(v) for n, v in vars(found).items()}

        return {
            "applications": self.applications,
            "known": self.known,
            "bads": self.bads,
            "entering": int(self.moves[:WATCHLIST, WATCHLIST].sum()),
            "leaving": int(self.moves[WATCHLIST, :WATCHLIST].sum()),
            "flagged_change": told(self.flagged_change),
            "recall_change": told(self.recall_change),
            **{
                name: {
                    "flagged_share": told(verdict.flagged_share),
                    "recall": told(verdict.recall),
                    "precision": told(verdict.precision),
                    "exposure": verdict.exposure,
                }
                for name, verdict in (("active", self.active), ("candidate", self.candidate))
            },
        }

    def _verdict(self, other: int) -> Verdict:
        outcomes = self.counts.sum(axis=other)
        return Verdict(outcomes.sum(axis=1), self.amounts.sum(axis=other), outcomes)


def _change(moves: npt.NDArray[np.int64]) -> Interval:
    """Of the share on the Watchlist; applications by active (rows) and candidate tier (columns)."""
    gained, lost = moves[:WATCHLIST, WATCHLIST].sum(), moves[WATCHLIST, :WATCHLIST].sum()
    both, whole = int(moves[WATCHLIST, WATCHLIST]), int(moves.sum())
    return paired_difference(both, int(gained), int(lost), whole)


class NotInTheLab(PlatformError):
    """A policy reads what the lab does not have."""


def lab_numbers(*policies: Policy) -> frozenset[str]:
    """The numbers that the policies need of applications.

    Raises:
        NotInTheLab: they need other inputs, too.
    """
    found = frozenset({"loan_amnt", "dti_primary", "dti_joint"})
    for policy in policies:
        needed = policy.program.columns | policy.program.bands.keys()
        if others := sorted(needed - NUMBERS.keys()):
            raise NotInTheLab(
                f"policy {policy.name} reads {', '.join(others)}, and the lab compares by numbers: "
                "try it by `credit-risk rebuild --into trial`"
            )
        found |= needed
    if "annual_inc" in found:
        found |= {"annual_inc_primary", "annual_inc_joint"}
    return found


def compare(applications: Applications, active: Policy, candidate: Policy) -> Comparison:
    """Let both policies decide on the applications."""
    before, after = (applications.decisions(policy).tier for policy in (active, candidate))
    return tally(before, after, applications.numbers["loan_amnt"], applications.outcome)


def tally(before: Codes, after: Codes, loan_amnt: Floats, outcome: Codes) -> Comparison:
    """Compare two decisions of each application.

    Args:
        before, after: positions in `TIERS`, shape (n,).
        loan_amnt: USD, shape (n,).
        outcome: `BAD`, `GOOD` or `UNKNOWN`, shape (n,).
    """
    tiers = len(TIERS)
    move = before * np.int8(tiers) + after
    cell = move * np.int8(_OUTCOMES) + outcome
    shape = (tiers, tiers)
    flagged_before, flagged_after = before == WATCHLIST, after == WATCHLIST
    amounts = np.bincount(move, weights=loan_amnt, minlength=tiers**2)
    return Comparison(
        counts=np.bincount(cell, minlength=tiers**2 * _OUTCOMES).reshape(*shape, _OUTCOMES),
        amounts=amounts.astype(np.float64).reshape(shape),  # of no rows, they are integers
        entering=np.flatnonzero(flagged_after & ~flagged_before),
        leaving=np.flatnonzero(flagged_before & ~flagged_after),
    )
