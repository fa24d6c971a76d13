"""Cases: opened by the transaction that decides, and worked on by people, each change of which is a
row of their history (migration 0026)."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.rows import class_row

from credit_risk_dagster.domain.cases import State, check_disposition
from credit_risk_dagster.errors import PlatformError


class CaseProblem(PlatformError):
    """Nothing was done to a case."""


class CaseMissing(CaseProblem):
    """There is no such case."""


class CaseChanged(CaseProblem):
    """Somebody changed the case meanwhile; the message says who and when."""


class CaseRefused(CaseProblem):
    """That cannot be done to a case; the message says why."""


@dataclass(frozen=True)
class Case:
    """A row of `cases`; see its comments. `overdue` is by the server's clock."""

    case_id: int
    loan_id: str | None
    source_id: int
    partition: int
    offset: int
    opened_at: datetime
    due_at: datetime
    overdue: bool
    decided_at: datetime
    decisions: int
    loan_amnt: float
    pd: float | None
    priority: float
    reasons: list[str]
    state: str
    assignee: str | None
    disposition: str | None
    reason_code: str | None
    version: int
    changed_at: datetime
    closed_at: datetime | None
    closed_by: str | None


@dataclass(frozen=True)
class CaseEvent:
    """What somebody did to a case, and as what they left it."""

    at: datetime
    who: str
    action: str
    version: int
    state: str
    assignee: str | None
    disposition: str | None
    reason_code: str | None
    note: str | None


@dataclass(frozen=True)
class Wanted:
    """Which cases; None is any.

    Attributes:
        state: one of a case's, or `to_do`: not closed.
        assignee: whose; "" has those of nobody.
        overdue: whether it should be closed, and is not.
        due_within: not closed, and due within so long.
        reasons: any of them.
        priority_from, amount_from, amount_below: USD; the last one not included.
    """

    state: State | Literal["to_do"] | None = None
    assignee: str | None = None
    overdue: bool | None = None
    due_within: timedelta | None = None
    loan_id: str | None = None
    reasons: tuple[str, ...] | None = None
    priority_from: float | None = None
    amount_from: float | None = None
    amount_below: float | None = None

    def condition(self) -> tuple[LiteralString, dict[str, Any]]:
        """The condition on `cases`, of constants alone, and its parameters."""
        named = asdict(self) | {"reasons": self.reasons and list(self.reasons)}
        chosen = [_WANTED[name] for name, value in named.items() if value is not None]
        # A literal, because only then the index of those that are not closed fits.
        if self.state == "to_do":
            chosen[0] = "state <> 'closed'"
        return " AND ".join(chosen) or "true", named


def open_cases(
    connection: psycopg.Connection[Any], within: timedelta, batch_id: int | None = None
) -> None:
    """Open a case for each loan that this transaction put on the Watchlist, or let it join the one
    that is open. To be called after its rows are there, in the transaction.

    Args:
        within: for how long a case may be open.
        batch_id: of the rows; None where they are of several.
    """
    connection.execute(_OPEN, {"within": within, "batch_id": batch_id})


class Cases:
    """The cases, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def page(self, wanted: Wanted, *, limit: int, after: int | None = None) -> list[Case]:
        """Cases by priority, the highest first.

        Args:
            after: the last case that was seen.
        """
        condition, named = wanted.condition()
        query: LiteralString = f"{_CASE} WHERE {condition} {_PAGE}"
        with self._connection.cursor(row_factory=class_row(Case)) as cursor:
            return cursor.execute(query, named | {"limit": limit, "after": after}).fetchall()

    def one(self, case_id: int) -> Case:
        """A case.

        Raises:
            CaseMissing: there is none of that number.
        """
        with self._connection.cursor(row_factory=class_row(Case)) as cursor:
            found = cursor.execute(_ONE, {"case_id": case_id}).fetchone()
        if found is None:
            raise CaseMissing(f"there is no case {case_id}")
        return found

    def history(self, case_id: int) -> list[CaseEvent]:
        """What was done to a case, the oldest first."""
        with self._connection.cursor(row_factory=class_row(CaseEvent)) as cursor:
            return cursor.execute(_HISTORY, {"case_id": case_id}).fetchall()

    def act(
        self,
        case_id: int,
        version: int,
        action: str,
        who: str,
        *,
        assignee: str | None = None,
        disposition: str | None = None,
        reason_code: str | None = None,
        note: str | None = None,
    ) -> int:
        """Do something to a case as it was seen; returns its new version.

        Args:
            version: that was seen.
            action: assign (to `assignee`; None takes it from everybody), start (`who` reviews it
                from now on), note, close (with `disposition`, `reason_code` and maybe a note), or
                reopen (with a note).

        Raises:
            CaseMissing, CaseChanged, CaseRefused: as their names say. Nothing is changed.
        """
        if action == "close":
            try:
                check_disposition(disposition or "", reason_code or "")
            except ValueError as error:
                raise CaseRefused(str(error)) from error
        named = {
            "case_id": case_id,
            "version": version,
            "action": action,
            "who": who,
            "assignee": assignee,
            "disposition": disposition,
            "reason_code": reason_code,
            "note": note,
        }
        try:
            with self._connection.transaction():
                # The roles of the API and the dashboard only read by default.
                self._connection.execute("SET TRANSACTION READ WRITE")
                row = self._connection.execute(_ACT, named).fetchone()
        except psycopg.errors.NoDataFound as error:
            raise CaseMissing(str(error.diag.message_primary)) from error
        except psycopg.errors.ObjectInUse as error:
            raise CaseChanged(str(error.diag.message_primary)) from error
        except psycopg.errors.CheckViolation as error:
            said = str(error.diag.message_primary)
            if error.diag.constraint_name:
                said = "a note has 1 to 2,000 characters, a name 1 to 200"
            raise CaseRefused(said) from error
        assert row is not None  # noqa: S101 (a function of one row)
        return int(row[0])

    def open_earlier(self, since: datetime, until: datetime, within: timedelta) -> int:
        """Open cases of Watchlist decisions of a time that have none; returns how many."""
        row = self._connection.execute(
            "SELECT open_earlier_cases(%(since)s, %(until)s, %(within)s)",
            {"since": since, "until": until, "within": within},
        ).fetchone()
        assert row is not None  # noqa: S101 (a function of one row)
        return int(row[0])


def record_export(connection: psycopg.Connection[Any], who: str, what: str, rows: int) -> None:
    """Keep who took how many rows of what."""
    with connection.transaction():
        connection.execute("SET TRANSACTION READ WRITE")
        connection.execute(
            "SELECT record_export(%(who)s, %(what)s, %(rows)s)",
            {"who": who, "what": what[:2000], "rows": rows},
        )


# The rows of a transaction have its time. By loan, so that two lanes cannot wait in a circle.
_OPEN: LiteralString = """
INSERT INTO cases AS c (loan_id, source_id, partition, "offset", due_at, decisions, loan_amnt, pd,
    priority, reasons, policy_id)
SELECT DISTINCT ON (loan) loan_id, source_id, partition, "offset", now() + %(within)s, times,
    loan_amnt, pd, loan_amnt * coalesce(pd, 0.2), reasons, policy_id
FROM (
    SELECT s.*, count(*) OVER (PARTITION BY loan) AS times
    FROM (
        SELECT loan_id, source_id, partition, "offset", loan_amnt, pd, reasons, policy_id,
            coalesce(loan_id, source_id || '/' || partition || '/' || "offset") AS loan
        FROM scored_applications
        WHERE risk_tier = 'Watchlist' AND scored_at = now()
            AND (%(batch_id)s::bigint IS NULL OR batch_id = %(batch_id)s)
    ) AS s
) AS flagged
ORDER BY loan, source_id, partition, "offset" DESC
ON CONFLICT (loan_id) WHERE state <> 'closed' DO UPDATE
SET decided_at = now(), decisions = c.decisions + excluded.decisions,
    loan_amnt = excluded.loan_amnt, pd = excluded.pd, priority = excluded.priority,
    policy_id = excluded.policy_id,
    reasons = ARRAY(SELECT DISTINCT unnest(c.reasons || excluded.reasons) ORDER BY 1)
"""

_CASE: LiteralString = """
SELECT case_id, loan_id, source_id, partition, "offset", opened_at, due_at,
    state <> 'closed' AND due_at < clock_timestamp() AS overdue, decided_at, decisions, loan_amnt,
    pd, priority, reasons, state, assignee, disposition, reason_code, version, changed_at,
    closed_at, closed_by
FROM cases
"""

_ONE: LiteralString = _CASE + "WHERE case_id = %(case_id)s"

_WANTED: dict[str, LiteralString] = {
    "state": "state = %(state)s",
    "assignee": "coalesce(assignee, '') = %(assignee)s",
    "overdue": "(state <> 'closed' AND due_at < clock_timestamp()) = %(overdue)s",
    "due_within": "state <> 'closed' AND due_at < clock_timestamp() + %(due_within)s",
    "loan_id": "loan_id = %(loan_id)s",
    "reasons": "reasons && %(reasons)s::text[]",
    "priority_from": "priority >= %(priority_from)s",
    "amount_from": "loan_amnt >= %(amount_from)s",
    "amount_below": "loan_amnt < %(amount_below)s",
}

_PAGE: LiteralString = """
AND (%(after)s::bigint IS NULL OR (priority, case_id)
    < (SELECT a.priority, a.case_id FROM cases a WHERE a.case_id = %(after)s))
ORDER BY priority DESC, case_id DESC LIMIT %(limit)s
"""

_HISTORY: LiteralString = """
SELECT at, who, action, version, state, assignee, disposition, reason_code, note
FROM case_events WHERE case_id = %(case_id)s ORDER BY event_id
"""

_ACT: LiteralString = """
SELECT version FROM act_on_case(%(case_id)s, %(version)s, %(action)s, %(who)s, %(assignee)s,
    %(disposition)s, %(reason_code)s, %(note)s)
"""
