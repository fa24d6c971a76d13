"""The rollup by segment: every application once, whenever it runs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import product
from typing import Any, cast

import dagster as dg
import pandas as pd
import psycopg
import pytest
import streamlit as st
from psycopg import sql

from credit_risk_dagster.definitions import defs
from credit_risk_dagster.settings import WarehouseSettings
from dashboard.data import loans
from dashboard.data import overview as queries
from dashboard.data.segments import EVERYTHING, SEGMENT_COLUMNS, Segment
from dashboard.parts.periods import PERIODS
from resources.postgres.connection import Warehouse
from resources.postgres.sums import wrong_sums
from tests.dashboard.conftest import ELEVATED, LOW, WATCHLIST, Commit

SMALL = Segment(purpose=("small_business",))
SMALL_OR_CARDS_IN_TEXAS = Segment(
    purpose=("small_business", "credit_card"), addr_state=("TX",), amount_from=(25_000,)
)
COLUMNS = "purpose, grade, addr_state, term_months, amount_from"
ROLLED_UP = f"""
    SELECT {COLUMNS}, sum(applications), sum(elevated), sum(watchlist), sum(loan_amnt),
        sum(watchlist_amnt)
    FROM segments_by_hour JOIN segments USING (segment_id) GROUP BY {COLUMNS} ORDER BY {COLUMNS}
"""
COUNTED = f"""
    SELECT {COLUMNS}, count(*), count(*) FILTER (WHERE risk_tier = 'Elevated'),
        count(*) FILTER (WHERE risk_tier = 'Watchlist'), sum(loan_amnt),
        coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)
    FROM application_segments GROUP BY {COLUMNS} ORDER BY {COLUMNS}
"""


@pytest.fixture(autouse=True)
def _by_the_rollup(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there are too many decisions to count each loan once."""
    monkeypatch.setattr(loans, "MOST_DECISIONS", -1)


def rows(connection: psycopg.Connection[Any], query: Any) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def roll_up(connection: psycopg.Connection[Any], **options: str) -> int:
    row = connection.execute(
        "SELECT roll_up_segments(%s::interval)", (options.get("keep", "15 days"),)
    ).fetchone()
    return int(row[0]) if row else -1


def age(connection: psycopg.Connection[Any], by: str) -> None:
    connection.execute("UPDATE scored_applications SET scored_at = scored_at - %s::interval", (by,))


def test_every_application_is_added_once(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW, LOW, ELEVATED, WATCHLIST, LOW | {"loan_amnt": 25_000, "term": " 60 months"})
    assert roll_up(warehouse) == 0  # they are younger than ten seconds
    age(warehouse, "1 hour")
    warehouse.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")
    assert roll_up(warehouse) == 5
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    assert roll_up(warehouse) == 0
    commit(LOW, WATCHLIST)
    warehouse.execute(
        "UPDATE scored_applications SET scored_at = scored_at - interval '20 seconds'"
        " WHERE scored_at > now() - interval '1 minute'"
    )
    warehouse.execute(
        "UPDATE segments_progress SET rolled_up_to = rolled_up_to - interval '5 minutes'"
    )
    assert roll_up(warehouse) == 2
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)


def test_the_job_rolls_up_and_says_what_it_added(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW, WATCHLIST)
    age(warehouse, "1 hour")
    warehouse.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def("roll_up_segments")
        first, second = (job.execute_in_process(instance=instance) for _ in range(2))
    (event,) = first.get_asset_materialization_events()
    assert event.materialization.metadata["decisions added"].value == 2
    assert event.materialization.metadata["segments"].value == 2
    assert second.get_asset_materialization_events() == []


WRITE = """
    INSERT INTO scored_applications (source_id, partition, "offset", batch_id, policy_id,
        recorded_at, loan_amnt, annual_inc, dti, int_rate, credit_history_years, dti_band,
        rate_band, early_warning, risk_tier, reasons)
    VALUES (1, 0, %s, 1, 1, now(), 1000, 1, 1, 1, 1, 'Low', 'Low', false, 'Low', '{}')
"""
UNTIL_NOW = "SELECT roll_up_segments_until(clock_timestamp(), '15 days')"


def begin(connection: psycopg.Connection[Any]) -> datetime:
    ((began,),) = rows(connection, "SELECT now()")
    return cast("datetime", began)


def test_who_writes_holds_it_back(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings, commit: Commit
) -> None:
    commit(LOW)
    with Warehouse(warehouse_settings).connect(autocommit=False) as drain:
        began = begin(drain)
        drain.execute(WRITE, (1_000,))
        warehouse.execute(UNTIL_NOW)
        ((until,),) = rows(warehouse, "SELECT rolled_up_to FROM segments_progress")
        assert until == began
        drain.execute(WRITE, (1_001,))  # it goes on as it began
        drain.commit()
        warehouse.execute(UNTIL_NOW)
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    assert sum(row[5] for row in rows(warehouse, ROLLED_UP)) == 3


def test_who_reads_does_not(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings, commit: Commit
) -> None:
    """A dump reads for hours; a session that was left open does nothing."""
    with (
        Warehouse(warehouse_settings).connect(autocommit=False) as dump,
        Warehouse(warehouse_settings).connect(autocommit=False) as forgotten,
    ):
        dump.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for table in ("scored_applications", "batches", "segments_progress"):
            dump.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE".encode())
        begin(dump), begin(forgotten)
        commit(LOW, WATCHLIST)
        assert rows(warehouse, UNTIL_NOW) == [(2,)]


def test_who_writes_too_late_is_counted(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings, commit: Commit
) -> None:
    """A transaction that stood still between its beginning and its first row."""
    commit(LOW, WATCHLIST)
    with Warehouse(warehouse_settings).connect(autocommit=False) as late:
        began = begin(late)
        commit(LOW)
        assert rows(warehouse, UNTIL_NOW) == [(3,)]
        ((until,),) = rows(warehouse, "SELECT rolled_up_to FROM segments_progress")
        assert until > began
        late.execute(WRITE, (1_000,))
        late.commit()
    # What a page shows is right meanwhile: it counts itself what is not rolled up.
    ((since,),) = rows(warehouse, "SELECT rolled_up_to FROM segments_progress")
    assert since <= began
    assert rows(warehouse, f"SELECT FROM segments_by_hour WHERE hour >= '{since}'") == []
    warehouse.execute(UNTIL_NOW)
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    assert sum(row[5] for row in rows(warehouse, ROLLED_UP)) == 4


def test_writers_and_rollups_at_once(
    warehouse: psycopg.Connection[Any], warehouse_settings: WarehouseSettings
) -> None:
    """However they meet: counted up to the moment, without any margin."""

    def write(lane: int) -> None:
        with Warehouse(warehouse_settings).connect(autocommit=False) as drain:
            for number in range(150):
                begin(drain)
                drain.execute(WRITE, (lane * 1_000 + number,))
                drain.commit()

    with ThreadPoolExecutor(3) as lanes:
        writing = [lanes.submit(write, lane) for lane in range(3)]
        while not all(lane.done() for lane in writing):
            warehouse.execute(UNTIL_NOW)
    for lane in writing:
        lane.result()
    warehouse.execute(UNTIL_NOW)
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    assert sum(row[5] for row in rows(warehouse, ROLLED_UP)) == 450


def test_what_is_not_known_is_still_counted(
    warehouse: psycopg.Connection[Any], commit: Commit
) -> None:
    commit(LOW | {"purpose": None, "grade": None, "addr_state": None, "term": "48 months"})
    assert rows(warehouse, f"SELECT {COLUMNS} FROM application_segments") == [
        ("", "", "", 0, 10_000)
    ]


def test_old_hours_are_merged_to_days(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    commit(LOW, WATCHLIST)
    for by in ("3 hours", "5 hours", "2 days"):
        age(warehouse, by)
        commit(LOW, WATCHLIST)
    age(warehouse, "1 hour")
    warehouse.execute("UPDATE segments_progress SET rolled_up_to = '-infinity'")
    assert roll_up(warehouse, keep="1 day") == 8
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    (merged,) = rows(warehouse, "SELECT merged_to FROM segments_progress")
    hours = rows(
        warehouse,
        "SELECT DISTINCT hour FROM segments_by_hour WHERE hour < (SELECT"
        " merged_to FROM segments_progress)",
    )
    assert hours
    assert {hour[0].hour for hour in hours} == {0}
    # Once more, later: what is merged stays, what became old is merged.
    assert roll_up(warehouse, keep="0 days") == 0
    assert rows(warehouse, ROLLED_UP) == rows(warehouse, COUNTED)
    (later,) = rows(warehouse, "SELECT merged_to FROM segments_progress")
    assert later[0] > merged[0]


@pytest.mark.parametrize("segment", [EVERYTHING, SMALL, SMALL_OR_CARDS_IN_TEXAS])
def test_rollup_and_applications_add_up(filled: psycopg.Connection[Any], segment: Segment) -> None:
    """However a period cuts through the rollup, its figures are those of its applications."""
    compared = 0  # with the period before
    for rolled_up, period in product(("nothing", "all", "hours and days"), PERIODS):
        roll_up_anew(filled, rolled_up)
        st.cache_data.clear()
        data = queries.overview(period, "Asia/Kolkata", segment)
        since = whole_days(filled, data.buckets.edges[0], segment)
        expected = counted(filled, since, segment)
        assert (
            data.totals.applications,
            data.totals.elevated,
            data.totals.watchlist,
            data.totals.loan_amnt,
            data.totals.watchlist_amnt,
        ) == expected, rolled_up
        if data.before is not None and segment:
            begun = data.buckets.edges[0]
            earlier = whole_days(filled, begun - (data.progress.as_of - begun), segment)
            before = counted(filled, earlier, segment, since)
            compared += 1
            assert abs(data.before.applications - before[0]) <= 1
            assert data.before.loan_amnt == pytest.approx(before[3], abs=50_000)
        breakdown = queries.breakdown(period, "Asia/Kolkata", segment)
        parts, parts_since = breakdown.rows, breakdown.since
        sums = parts.groupby("dimension")[["applications", "watchlist", "watchlist_amnt"]].sum()
        assert set(sums.index) == set(SEGMENT_COLUMNS) or expected[0] == 0
        since = None if PERIODS[period].length is None else whole_days(filled, parts_since, SMALL)
        for column, value in (("applications", 0), ("watchlist", 2), ("watchlist_amnt", 4)):
            assert set(sums[column]) <= {counted(filled, since, segment)[value]}, rolled_up
        assert wrong_sums(filled) == []
    assert compared == (3 * (len(PERIODS) - 1) if segment else 0)


def whole_days(
    connection: psycopg.Connection[Any], since: pd.Timestamp, segment: Segment
) -> datetime:
    """Where hours are merged to days, the figures of a segment begin with a day."""
    ((merged_to,),) = rows(
        connection, "SELECT greatest(merged_to, '1970-01-01+00') FROM segments_progress"
    )
    day = since.tz_convert("UTC").floor("D")
    return (day if segment and since < merged_to else since).to_pydatetime()


def roll_up_anew(connection: psycopg.Connection[Any], how: str) -> None:
    connection.execute("TRUNCATE segments_by_hour")
    connection.execute(
        "UPDATE segments_progress SET (rolled_up_to, merged_to) = ('-infinity', '-infinity')"
    )
    if how != "nothing":
        roll_up(connection, keep="90 days" if how == "all" else "2 days")


def counted(
    connection: psycopg.Connection[Any],
    since: Any,
    segment: Segment,
    until: Any = None,
) -> tuple[Any, ...]:
    where = "".join(
        f" AND {column} = ANY (%({column})s)"
        for column in vars(segment)
        if getattr(segment, column)
    )
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE risk_tier = 'Elevated'),"
        " count(*) FILTER (WHERE risk_tier = 'Watchlist'), coalesce(sum(loan_amnt), 0),"
        " coalesce(sum(loan_amnt) FILTER (WHERE risk_tier = 'Watchlist'), 0)"
        " FROM application_segments"
        " WHERE scored_at >= coalesce(%(since)s::timestamptz, '-infinity')"
        " AND scored_at < coalesce(%(until)s::timestamptz, 'infinity')" + where,  # type: ignore[arg-type]
        {"since": since, "until": until}
        | {column: list(values) for column, values in vars(segment).items()},
    ).fetchone()
    assert row is not None
    return row


@pytest.fixture
def filled(warehouse: psycopg.Connection[Any], commit: Commit) -> psycopg.Connection[Any]:
    """Applications of each age up to forty days, with what the drain rolls up of them."""
    ages = [*range(0, 180, 7), *range(180, 4_000, 41), *range(4_000, 40 * 1_440, 331)]
    kinds = [LOW, ELEVATED, WATCHLIST, WATCHLIST | {"addr_state": "TX", "loan_amnt": 30_000}]
    commit(*(kinds[number % len(kinds)] for number in range(len(ages))))
    early = sql.SQL(
        "CREATE TABLE scored_applications_early PARTITION OF scored_applications"
        " FOR VALUES FROM ('2020-01-01') TO ({})"
    )
    warehouse.execute(early.format(sql.Literal(first_partition(warehouse))))
    warehouse.execute(
        "UPDATE scored_applications SET scored_at = scored_at"
        ' - make_interval(mins => (%s::int[])["offset" + 1])',
        (ages,),
    )
    warehouse.execute("TRUNCATE risk_by_minute")
    warehouse.execute(
        "INSERT INTO risk_by_minute SELECT date_trunc('minute', scored_at), source_id, risk_tier,"
        " count(*), sum(loan_amnt) FROM scored_applications GROUP BY 1, 2, 3"
    )
    return warehouse


def first_partition(connection: psycopg.Connection[Any]) -> datetime:
    query = "SELECT min(starts) FROM time_partitions"
    ((month,),) = connection.execute(query).fetchall()
    return cast("datetime", month)
