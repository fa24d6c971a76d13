"""What the dashboard shows of cases: how many wait, the queue, its export, one with its history;
and what reviewers do."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import PolicyError, parse_policy
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.data.application import Application, Key, application, newest_decision
from dashboard.data.connection import snapshot
from resources.postgres.cases import (
    Case,
    CaseEvent,
    CaseMissing,
    CaseProblem,
    Cases,
    Wanted,
    record_export,
)
from resources.postgres.connection import Warehouse
from resources.postgres.management import Management, Unreviewed

SORTS = {
    "Priority": "priority DESC",
    "Due first": "due_at",
    "Newest": "opened_at DESC",
    "Oldest": "opened_at",
    "Largest amount": "loan_amnt DESC",
    "Highest PD": "pd DESC NULLS LAST",
}
QUEUE_ROWS = 500
EXPORT_ROWS = 200_000


@dataclass(frozen=True)
class Queue:
    """The first `QUEUE_ROWS` of the matching cases, in order.

    Attributes:
        matching, loan_amnt, priority: how many there are, what they ask for, and how much of it may
            be lost (USD).
        as_of: when that was.
        rows: the columns of `cases` that a reviewer reads; `overdue`, by the server's clock.
    """

    matching: int
    loan_amnt: float
    priority: float
    as_of: pd.Timestamp
    rows: pd.DataFrame


@dataclass(frozen=True)
class Whole:
    """A case, what was done to it, and the newest decision on its loan; None where retention
    dropped it."""

    case: Case
    history: list[CaseEvent]
    application: Application | None


@st.cache_data(ttl=5, show_spinner=False)
def unreviewed() -> Unreviewed:
    """The cases that nobody began to review."""
    with snapshot() as db:
        return Management(db.connection).unreviewed()


@st.cache_data(ttl=2, max_entries=50, show_spinner=False)
def queue(wanted: Wanted, sort: str, zone: str) -> Queue:
    """The matching cases, by one of `SORTS`, with times in a zone."""
    condition, named = wanted.condition()
    with snapshot() as db:
        total = db.one(
            "SELECT count(*) AS matching, coalesce(sum(loan_amnt), 0) AS loan_amnt,"  # noqa: S608
            f" coalesce(sum(priority), 0) AS priority FROM cases WHERE {condition}",
            **named,
        )
        rows = db.frame(
            f"""
            SELECT case_id, version, loan_id, source_id, partition, "offset", opened_at, due_at,
                   state <> 'closed' AND due_at < now() AS overdue, decided_at, decisions,
                   loan_amnt, pd, priority, reasons, state, assignee, disposition, closed_at
              FROM cases WHERE {condition}
             ORDER BY {SORTS[sort]}, case_id DESC LIMIT %(rows)s
            """,  # noqa: S608 (constants alone: see Wanted; the order is one of SORTS)
            zone,
            **named,
            rows=QUEUE_ROWS,
        )
        return Queue(**total, as_of=db.now(zone), rows=rows)


@st.cache_data(ttl=1, show_spinner=False)
def newer(since: datetime) -> int:
    """How many cases were opened after a moment; not more than a thousand are counted."""
    with snapshot() as db:
        found = db.one(
            """
            SELECT count(*) AS newer FROM (
                SELECT FROM cases WHERE state <> 'closed' AND opened_at > %(since)s LIMIT 1000
            ) AS first
            """,
            since=since,
        )
        return int(found["newer"])


@st.cache_data(ttl=10, show_spinner=False)
def assignees() -> tuple[str, ...]:
    """Whose cases are not closed."""
    with snapshot() as db:
        rows = db.rows(
            "SELECT DISTINCT assignee FROM cases"
            " WHERE state <> 'closed' AND assignee IS NOT NULL ORDER BY 1"
        )
        return tuple(row["assignee"] for row in rows)


@st.cache_data(ttl=60, show_spinner=False)
def reason_codes() -> tuple[str, ...]:
    """The reasons of every policy that was submitted or scored."""
    with snapshot() as db:
        rows = db.rows("SELECT document FROM policies ORDER BY policy_id")
    codes: dict[str, None] = {}
    for row in rows:
        with suppress(PolicyError):  # one that was submitted, and decides nothing
            codes |= dict.fromkeys(parse_policy(row["document"], "of before").reason_codes)
    return tuple(codes)


@st.cache_data(ttl=1, max_entries=50, show_spinner=False)
def whole(case_id: int, zone: str) -> Whole | None:
    """A case with its history, with times of its decisions in a zone; None where there is none."""
    with snapshot() as db:
        try:
            case = Cases(db.connection).one(case_id)
        except CaseMissing:
            return None
        history = Cases(db.connection).history(case_id)
    key: Key | None = (case.source_id, case.partition, case.offset)
    if case.loan_id is not None:
        key = newest_decision(case.loan_id) or key
    return Whole(case, history, application(key, zone) if key else None)


@st.cache_data(ttl=1, max_entries=50, show_spinner=False)
def case_of(key: Key) -> int | None:
    """The newest case that an application opened or joined; None where it has none."""
    with snapshot() as db:
        rows = db.rows(
            """
            SELECT case_id FROM (
                SELECT case_id FROM cases c, (
                    SELECT loan_id FROM scored_applications s
                     WHERE (s.source_id, s.partition, s."offset")
                           = (%(source)s, %(partition)s, %(offset)s) LIMIT 1
                ) AS s WHERE c.loan_id = s.loan_id
                UNION ALL
                SELECT case_id FROM cases
                 WHERE (source_id, partition, "offset") = (%(source)s, %(partition)s, %(offset)s)
            ) AS found ORDER BY case_id DESC LIMIT 1
            """,
            **dict(zip(("source", "partition", "offset"), key, strict=True)),
        )
    return rows[0]["case_id"] if rows else None


def cases_csv(wanted: Wanted, sort: str, who: str) -> bytes:
    """The matching cases in the same order, at most `EXPORT_ROWS`, as CSV with a header; that they
    were taken, and by whom, stays in `exports`.

    A text that a spreadsheet would take for a formula begins with an apostrophe. Numbers have two
    decimals, and their unit in the heading.
    """
    condition, named = wanted.condition()

    def text(name: str, of: str = "") -> str:
        of = of or name
        return f"CASE WHEN {of} ~ '^[-=+@\\t\\r\\n]' THEN '''' || {of} ELSE {of} END AS {name}"

    source = "(SELECT topic || ' of ' || cluster_id FROM sources o"
    source += " WHERE o.source_id = cases.source_id)"
    query = f"""
        COPY (
            SELECT case_id, {text("source", source)}, source_id, partition, "offset",
                   opened_at, due_at, state <> 'closed' AND due_at < now() AS overdue,
                   decided_at, decisions,
                   {text("loan_id")}, {text("assignee")}, {text("closed_by")},
                   round(loan_amnt::numeric, 2) AS loan_amnt_usd,
                   round(100 * pd::numeric, 2) AS pd_percent,
                   round(priority::numeric, 2) AS priority_usd,
                   {text("reasons", "array_to_string(reasons, '; ')")}, state, disposition,
                   {text("reason_code")},
                   closed_at, version, policy_id
              FROM cases WHERE {condition}
             ORDER BY {SORTS[sort]}, case_id DESC LIMIT %(rows)s
        ) TO STDOUT (FORMAT csv, HEADER)
    """  # noqa: S608 (constants alone: see Wanted; the order is one of SORTS)
    with snapshot() as db:
        db.connection.execute("SET LOCAL statement_timeout = '60s'")
        cursor = db.connection.cursor()
        # A COPY has no parameters on the server: the driver quotes them into its text.
        with cursor.copy(query, named | {"rows": EXPORT_ROWS}) as copy:
            found = b"".join(bytes(block) for block in copy)
        rows = cursor.rowcount
    with _acting() as connection:
        record_export(connection, who, f"cases: {_words(wanted)}", rows)
    return found


def _words(wanted: Wanted) -> str:
    if wanted.loan_id:  # which may have to be forgotten, and this row stays
        return "one loan"
    chosen = {name: value for name, value in vars(wanted).items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in chosen.items()) or "all"


def act(case_id: int, version: int, action: str, who: str, **what: str | None) -> None:
    """Do something to a case as it was seen: see `Cases.act`, also for what it raises."""
    try:
        with _acting() as connection:
            Cases(connection).act(case_id, version, action, who, **what)
    finally:
        _forget()


def assign(seen: Sequence[tuple[int, int]], assignee: str, who: str) -> list[str]:
    """Give cases (each with the version that was seen) to somebody, "" to nobody; returns what was
    said of those that somebody changed meanwhile."""
    said = []
    with _acting() as connection:
        for case_id, version in seen:
            try:
                Cases(connection).act(case_id, version, "assign", who, assignee=assignee)
            except CaseProblem as error:
                said.append(str(error))
    _forget()
    return said


def _acting() -> Any:
    # The pool's connections only read.
    return Warehouse(WarehouseSettings().of_dashboard()).session("dashboard cases")


def _forget() -> None:
    for cached in (queue, whole, assignees, unreviewed):
        cached.clear()
