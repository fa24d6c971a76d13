"""The sums that pages read are those of the rows, whatever is done to these."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from credit_risk_dagster.domain.cases import DISPOSITIONS
from credit_risk_dagster.settings import PROJECT_ROOT, WarehouseSettings
from dashboard.data.connection import Snapshot
from dashboard.data.volume import outcomes
from resources.postgres.case_figures import CaseFigures
from resources.postgres.cases import Cases
from resources.postgres.connection import Warehouse
from resources.postgres.forgetting import Forgettings
from resources.postgres.retention import RetentionLedger
from resources.postgres.sums import wrong_sums

Connection = psycopg.Connection[Any]
# Each example leaves the database as it was.
ROLLED_BACK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
RULES = ("DTI>=30", "REVOL_UTIL>=80", "DELINQ_2YRS>0")


def open_case(connection: Connection, loan: str, rules: list[str]) -> None:
    """As the drain: a loan joins the case that is open."""
    connection.execute(
        'INSERT INTO cases AS c (loan_id, source_id, partition, "offset", due_at, loan_amnt,'
        " priority, reasons, policy_id) VALUES (%s, 1, 0, 0, now(), 1, 1, %s, 1)"
        " ON CONFLICT (loan_id) WHERE state <> 'closed' DO UPDATE SET reasons = ARRAY("
        "SELECT DISTINCT unnest(c.reasons || excluded.reasons) ORDER BY 1)",
        (loan, rules),
    )


def act(connection: Connection, loan: str, action: str, who: str, disposition: str) -> None:
    """Of the loan's newest case, if that is possible."""
    row = connection.execute(
        "SELECT case_id, version FROM cases WHERE loan_id = %s AND (state = 'closed') = %s"
        " ORDER BY case_id DESC LIMIT 1",
        (loan, action == "reopen"),
    ).fetchone()
    if row is None and action == "close":
        open_case(connection, loan, [*RULES[:2]])
        act(connection, loan, action, who, disposition)
    if row is None:
        return
    what = {"disposition": disposition, "reason_code": "other"} if action == "close" else {}
    note = {"note": "again"} if action == "reopen" else {}
    other = connection.execute(
        "SELECT FROM cases WHERE loan_id = %s AND state <> 'closed'", (loan,)
    ).fetchone()
    if action == "close" or other is None:
        Cases(connection).act(*row, action, who, **what, **note)


LOANS = st.sampled_from(["1001", "1002"])
DONE: st.SearchStrategy[Callable[[Connection], object]] = st.one_of(
    st.builds(
        lambda loan, rules: lambda c: open_case(c, loan, rules),
        LOANS,
        st.lists(st.sampled_from(RULES), max_size=3, unique=True),
    ),
    st.builds(
        lambda loan, action, who, as_what: lambda c: act(c, loan, action, who, as_what),
        LOANS,
        st.sampled_from(["close", "close", "reopen", "start"]),
        st.sampled_from(["ada", "bo"]),
        st.sampled_from(list(DISPOSITIONS)),
    ),
    # Time passes.
    st.builds(
        lambda days: (
            lambda c: c.execute(
                "UPDATE cases SET closed_at = closed_at - make_interval(days => %s)"
                " WHERE state = 'closed'",
                (days,),
            )
        ),
        st.integers(1, 4),
    ),
    st.builds(lambda loan: lambda c: Forgettings(c).forget(loan, [], "ada", "asked"), LOANS),
    st.builds(lambda days: lambda c: RetentionLedger(c).delete_reviews(days), st.integers(1, 3)),
    # Somebody changes a closed case with SQL, and deletes one; and one comes closed.
    st.just(lambda c: c.execute("UPDATE cases SET closed_by = 'eve' WHERE state = 'closed'")),
    st.just(lambda c: c.execute("DELETE FROM cases WHERE loan_id = '1001'")),
    st.just(
        lambda c: c.execute(
            'INSERT INTO cases (loan_id, source_id, partition, "offset", due_at, loan_amnt,'
            " priority, reasons, policy_id, state, disposition, reason_code, closed_at, closed_by)"
            " SELECT n, 1, 0, 0, now(), 1, 1, '{DTI>=30}', 1, 'closed', 'confirmed', 'other',"
            " now(), 'bo' FROM generate_series(1001, 1003) AS n"
        )
    ),
)


@ROLLED_BACK
@given(done=st.lists(DONE, min_size=10, max_size=25))
def test_what_was_closed_is_counted_whatever_becomes_of_it(
    done: list[Callable[[Connection], object]], warehouse_settings: WarehouseSettings
) -> None:
    with (
        Warehouse(warehouse_settings).session() as connection,
        connection.transaction(force_rollback=True),
    ):
        for one in done:
            one(connection)
            assert wrong_sums(connection) == []
        for since in (None, datetime.now(UTC).date() - timedelta(days=3)):
            assert counted(CaseFigures(connection).closed(since)) == slowly(connection, since)
        named = connection.execute("SELECT DISTINCT reviewer FROM closed_by_day").fetchall()
        known = connection.execute("SELECT DISTINCT closed_by FROM cases").fetchall()
        assert set(named) <= set(known)


def counted(rows: Any) -> dict[tuple[str, str, str], int]:
    return {(row.rule, row.reviewer, row.disposition): row.cases for row in rows}


def slowly(connection: Connection, since: date | None) -> dict[tuple[str, str, str], int]:
    rows = connection.execute(
        "SELECT rule, closed_by, disposition, count(*)"
        " FROM cases, unnest(array_prepend('', reasons)) AS rule WHERE state = 'closed'"
        " AND closed_at >= coalesce(%s::date::timestamp AT TIME ZONE 'UTC', '-infinity')"
        " GROUP BY 1, 2, 3",
        (since,),
    )
    return {(rule, who, disposition): cases for rule, who, disposition, cases in rows}


def test_reviewers_at_once_are_all_counted(warehouse_settings: WarehouseSettings) -> None:
    warehouse = Warehouse(warehouse_settings)
    with warehouse.session() as connection:
        for loan in range(60):
            open_case(connection, f"{loan}", [*RULES[loan % 3 :], *RULES[: loan % 3]])

    def review(first: int) -> None:
        with warehouse.session() as connection:
            for loan in range(first, 60, 4):
                act(connection, f"{loan}", "close", "ada", "confirmed")
                if loan % 3 == 0:
                    act(connection, f"{loan}", "reopen", "ada", "")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(review, range(4)))
    with warehouse.session() as connection:
        assert wrong_sums(connection) == []
        assert {(c.rule, c.cases) for c in CaseFigures(connection).closed(None)} == {
            (rule, 40) for rule in ("", *RULES)
        }


# --- hours ----------------------------------------------------------------------------------------

START = datetime(2026, 3, 28, 20, tzinfo=UTC)
MINUTES = st.integers(0, 8 * 60).map(lambda n: START + timedelta(minutes=n))
TIERS = st.sampled_from(["Low", "Elevated", "Watchlist", "Rejected"])
ROLL_UP = (
    "INSERT INTO risk_by_minute AS t VALUES (%s, 1, %s, %s, %s)"
    " ON CONFLICT (minute, source_id, risk_tier) DO UPDATE"
    " SET applications = t.applications + excluded.applications,"
    " loan_amnt = t.loan_amnt + excluded.loan_amnt"
)
CHANGED: st.SearchStrategy[tuple[str, tuple[Any, ...]]] = st.one_of(
    st.tuples(
        st.just(ROLL_UP),
        st.tuples(MINUTES, TIERS, st.integers(-3, 30), st.integers(0, 100_000).map(float)),
    ),
    st.tuples(st.just("DELETE FROM risk_by_minute WHERE minute < %s"), st.tuples(MINUTES)),
    st.tuples(
        st.just("UPDATE risk_by_minute SET minute = minute - %s::interval"),
        st.tuples(st.sampled_from([timedelta(minutes=1_000), timedelta(days=3)])),
    ),
)


@ROLLED_BACK
@given(
    changed=st.lists(CHANGED, min_size=5, max_size=25),
    edges=st.lists(MINUTES, min_size=2, max_size=6, unique=True).map(sorted),
    seconds=st.sampled_from([0, 17]),
)
def test_hours_and_divided_hours_are_the_minutes(
    changed: list[tuple[str, tuple[Any, ...]]],
    edges: list[datetime],
    seconds: int,
    warehouse_settings: WarehouseSettings,
) -> None:
    edges[-1] += timedelta(seconds=seconds)  # now is in no round minute
    with (
        Warehouse(warehouse_settings).session() as connection,
        connection.transaction(force_rollback=True),
    ):
        for statement, values in changed:
            connection.execute(statement, values)
            assert wrong_sums(connection) == []
        assert_same(connection, edges)


def test_days_of_a_zone_half_an_hour_off(warehouse_settings: WarehouseSettings) -> None:
    zone = ZoneInfo("Asia/Kolkata")
    edges = [datetime(2026, 3, day, tzinfo=zone).astimezone(UTC) for day in (28, 29, 30)]
    with Warehouse(warehouse_settings).session() as connection:
        for minute in range(0, 2 * 24 * 60, 7):
            at = edges[0] + timedelta(minutes=minute)
            connection.execute(ROLL_UP, (at, ("Low", "Watchlist")[minute % 2], 1 + minute % 5, 9.5))
        assert_same(connection, edges)


def assert_same(connection: Connection, edges: list[datetime]) -> None:
    found = {
        (row["bucket"], row["risk_tier"]): (row["applications"], round(row["loan_amnt"], 2))
        for row in outcomes(Snapshot(connection), edges)
    }
    rows = connection.execute(
        "SELECT width_bucket(minute, %(edges)s::timestamptz[]) - 1, risk_tier,"
        " sum(applications)::bigint, round(sum(loan_amnt)::numeric, 2)::float8"
        " FROM risk_by_minute WHERE minute >= %(first)s AND minute < %(last)s GROUP BY 1, 2",
        {"edges": edges, "first": edges[0], "last": edges[-1]},
    )
    slow = {(bucket, tier): (applications, amount) for bucket, tier, applications, amount in rows}
    nothing = (0, 0.0)  # an hour of which nothing is left
    for key in found.keys() | slow.keys():
        assert found.get(key, nothing) == slow.get(key, nothing), key


def test_what_the_runbook_says_mends_them(warehouse_settings: WarehouseSettings) -> None:
    runbook = (PROJECT_ROOT / "docs/runbook.md").read_text()
    mend = runbook.partition("## Wrong sums")[2].partition("```sql\n")[2].partition("```")[0]
    with Warehouse(warehouse_settings).session() as connection:
        open_case(connection, "1", [*RULES])
        act(connection, "1", "close", "ada", "confirmed")
        connection.execute(ROLL_UP, (START, "Low", 3, 30.0))
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE cases SET closed_by = 'bo'")
        connection.execute("UPDATE risk_by_minute SET applications = 4")
        connection.execute("INSERT INTO segments_by_hour VALUES (%s, 7, 3, 1, 1, 30, 10)", (START,))
        connection.execute("SET session_replication_role = origin")
        closed, hours, segments = wrong_sums(connection)
        assert closed.startswith("8 sums of closed_by_day are not those of cases")
        assert hours.startswith("1 sums of risk_by_hour are not those of risk_by_minute")
        assert segments.startswith("1 sums of segments_total are not those of segments_by_hour")
        with connection.transaction():
            connection.execute(mend)
        assert wrong_sums(connection) == []
        connection.execute("TRUNCATE cases, risk_by_minute, segments_by_hour CASCADE")
        assert wrong_sums(connection) == []
