"""What became of loans, as it was observed, against what counts as bad, at a fixed horizon.

A loan is as old as the months since its first decision. It has an outcome at a horizon of twelve
months when the observations reach that far: then it was bad by then, or was still good. A younger
one is left out although it may be bad already, as the good ones of its age are: otherwise only the
bad ones of the young would count.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk_dagster.domain.model.outcome import BAD, GOOD, UNKNOWN, Codes, Outcome

Days = npt.NDArray[np.datetime64]
Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]

OBSERVED = pa.schema(
    {
        "loan_id": pa.string(),
        "observed_at": pa.timestamp("us", "UTC"),
        "status": pa.string(),
        "days_past_due": pa.float64(),
        "balance": pa.float64(),
        "recovered": pa.float64(),
    }
)
IMMATURE, UNSEEN = "immature", "not observed at the horizon"
NONE, NO_DATE = "no outcome observed", "no date of the decision"
UNDECIDED = "no decision is known"
# What ended so is not observed again, and stays what it is.
_ENDED = ("Fully Paid", "Does not meet the credit policy. Status:Fully Paid")
_MONTHLY = np.timedelta64(31, "D")


@dataclass(frozen=True)
class Resolved:
    """Loans against an outcome.

    Attributes:
        known: which have one, shape (n,).
        bad: shape (n,); of those without an outcome False.
        left_out: how many have none, by why: `IMMATURE`, `UNSEEN`, `NONE`, or the status that is
            neither good nor bad.
    """

    known: Flags
    bad: Flags
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Ordered:
    """Observations by loan and time: the loan's position, when, class, status; and the newest of
    all, those of other loans too."""

    loan: Positions
    when: Days
    codes: Codes
    status: pa.ChunkedArray
    latest: np.datetime64

    @classmethod
    def of(cls, outcome: Outcome, loans: pa.Array, observed: pa.Table) -> "_Ordered":
        latest = pc.max(observed["observed_at"]).as_py()
        at = pc.index_in(observed["loan_id"], value_set=loans)
        observed, at = observed.filter(at.is_valid()), at.drop_null()
        loan = at.to_numpy().astype(np.intp)
        when = observed["observed_at"].to_numpy().astype("datetime64[us]")
        order = np.lexsort((when, loan))  # stable: of equal times the later row is a correction
        same = (np.diff(loan[order]) == 0) & (np.diff(when[order]) == np.timedelta64(0))
        order = order[np.append(~same, True)] if len(order) else order
        return cls(
            loan[order],
            when[order],
            outcome.classes(observed)[order],
            observed["status"].take(pa.array(order)),
            np.datetime64("NaT") if latest is None else np.datetime64(latest.replace(tzinfo=None)),
        )

    def first(self, of: Flags, loans: int) -> Positions:
        """Of each loan its first observation of some; -1 where there is none."""
        return self._end(np.flatnonzero(of)[::-1], loans)

    def last(self, of: Flags, loans: int) -> Positions:
        """As `first`."""
        return self._end(np.flatnonzero(of), loans)

    def _end(self, at: Positions, loans: int) -> Positions:
        found = np.full(loans, -1, np.intp)
        found[self.loan[at]] = at  # the last assignment stays
        return found

    def codes_at(self, at: Positions) -> Codes:
        return np.where(at >= 0, np.append(self.codes, UNKNOWN)[at], UNKNOWN)


def resolve(outcome: Outcome, loans: pa.Array, decided: Days, observed: pa.Table) -> Resolved:
    """What each loan is by an outcome.

    Args:
        loans: their ids, each once, shape (n,).
        decided: the day of the first decision, shape (n,).
        observed: `OBSERVED`, in the order in which it was recorded: of two at the same time the
            later one is a correction.
    """
    ordered = _Ordered.of(outcome, loans, observed)
    if outcome.horizon_months is None:
        deciding = ordered.last(np.ones(len(ordered.loan), np.bool_), len(loans))
        codes = ordered.codes_at(deciding)
        reasons = np.where(deciding < 0, NONE, "").astype(object)
        return _resolved(codes, reasons, deciding, ordered)
    return _at_horizon(ordered, decided, outcome.horizon_months)


def _at_horizon(ordered: _Ordered, decided: Days, months: int) -> Resolved:
    loans = len(decided)
    due = add_months(decided, months)
    after_decision = ordered.when >= decided[ordered.loan]
    until = after_decision & (ordered.when <= due[ordered.loan])
    since = after_decision & (ordered.when >= due[ordered.loan])
    codes = ordered.codes
    went_bad = ordered.first(until & (codes == BAD), loans) >= 0
    before, after = ordered.last(until, loans), ordered.first(since, loans)
    before_codes, after_codes = ordered.codes_at(before), ordered.codes_at(after)
    when = np.append(ordered.when, np.datetime64("NaT"))
    near = due.astype("datetime64[us]") - when[before] <= _MONTHLY
    status = pc.is_in(ordered.status, pa.array(_ENDED)).to_numpy()
    ended = np.append(status, False)[before] & (before_codes == GOOD)
    # What is bad just after it, and was good within the month before, was good at it.
    good = (after_codes == GOOD) | ended | ((after_codes == BAD) & (before_codes == GOOD) & near)
    found = np.where(went_bad, BAD, np.where(good, GOOD, UNKNOWN)).astype(np.int8)
    mature = due <= ordered.latest
    found[~mature] = UNKNOWN
    reasons = np.full(loans, "", object)
    reasons[(after < 0) | (after_codes == BAD)] = UNSEEN
    reasons[ordered.first(after_decision, loans) < 0] = NONE
    reasons[~mature] = IMMATURE
    reasons[np.isnat(decided)] = NO_DATE
    return _resolved(found, reasons, after, ordered)


def _resolved(
    codes: Codes, reasons: npt.NDArray[np.object_], deciding: Positions, ordered: _Ordered
) -> Resolved:
    """Count those without an outcome by the reason, or else by the status that decides."""
    known = codes != UNKNOWN
    counts: dict[str, int] = {}
    named = np.flatnonzero(~known & (reasons == ""))
    statuses = ordered.status.take(pa.array(deciding[named])).to_pylist()
    words = [f"status {status!r}" if status else "no status" for status in statuses]
    for word in (*reasons[~known & (reasons != "")], *words):
        counts[word] = counts.get(word, 0) + 1
    return Resolved(known, codes == BAD, dict(sorted(counts.items(), key=lambda c: -c[1])))


@dataclass(frozen=True)
class Exposure:
    """How long each loan was watched for its first bad observation, shape (n,).

    Attributes:
        months: on book, at the first bad observation, or else at the last one; -1 without any.
        bad: whether it was bad then; else it was good at least so long.
    """

    months: npt.NDArray[np.int64]
    bad: Flags


def exposure(outcome: Outcome, loans: pa.Array, decided: Days, observed: pa.Table) -> Exposure:
    """How long each loan was watched; arguments as of `resolve`."""
    ordered = _Ordered.of(outcome, loans, observed)
    valid = (ordered.when >= decided[ordered.loan]) & (ordered.codes != UNKNOWN)
    bad = ordered.first(valid & (ordered.codes == BAD), len(loans))
    end = np.where(bad >= 0, bad, ordered.last(valid, len(loans)))
    when = np.append(ordered.when, np.datetime64("NaT"))[end]
    age = when.astype("datetime64[M]") - decided.astype("datetime64[M]")
    return Exposure(np.where(end < 0, -1, age.astype(np.int64)), bad >= 0)


def add_months(days: Days, months: int) -> Days:
    """The same day so many months later; of the 31st the last one, where the month is shorter."""
    month = days.astype("datetime64[M]")
    day = days.astype("datetime64[D]") - month.astype("datetime64[D]")
    target = month + months
    last = (target + 1).astype("datetime64[D]") - np.timedelta64(1, "D")
    later: Days = np.minimum(target.astype("datetime64[D]") + day, last)
    return later
