"""Drift, in Postgres: baselines, reports, and counting a window of applications where it is.

All SQL that writes the drift tables is here. A window of a million rows leaves the database as a
few thousand counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import numpy as np
import psycopg
import pyarrow as pa
from psycopg import sql
from psycopg.rows import class_row

from credit_risk_dagster.domain.drift.baseline import (
    COLUMNS,
    FEATURES,
    MISSING,
    Current,
    Reference,
)
from credit_risk_dagster.domain.drift.comparison import Drift, Window
from credit_risk_dagster.domain.policy import TIERS


@dataclass(frozen=True)
class Period:
    """Which applications of a source make a window: those scored from `start`, and from the record
    (`partition`, `offset`) on among those of that very moment, until `end`, inclusive."""

    source_id: int
    start: datetime
    end: datetime
    partition: int = -1
    offset: int = -1


class DriftLedger:
    """Baselines and reports, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    # --- applications ---------------------------------------------------------------------------

    def newest_source(self, topic: str) -> int | None:
        """The source of that topic of which something was committed last."""
        row = self._connection.execute(
            "SELECT source_id FROM sources JOIN stream_offsets USING (source_id) WHERE topic ="
            " %(topic)s"
            " GROUP BY source_id ORDER BY max(updated_at) DESC, source_id DESC LIMIT 1",
            {"topic": topic},
        ).fetchone()
        return int(row[0]) if row else None

    def first_rows(self, source_id: int, rows: int) -> tuple[pa.Table, int]:
        """The first scored applications of a source that are still there.

        Returns:
            At most so many of them with what `domain.drift.freeze` needs, and the events beside
            them that could not be scored.
        """
        parameters = {"source_id": source_id, "rows": rows}
        found = self._connection.execute(_FIRST_ROWS, parameters).fetchall()
        rejected = self._connection.execute(
            "SELECT count(*) FROM rejected_events WHERE source_id = %(source_id)s"
            " AND rejected_at BETWEEN %(first)s AND %(last)s",
            {
                "source_id": source_id,
                "first": found[0][-1] if found else None,
                "last": found[-1][-1] if found else None,
            },
        ).fetchone()
        return _table([row[:-1] for row in found]), int(rejected[0]) if rejected else 0

    def last_rows(self, source_id: int, rows: int) -> Period | None:
        """The period of a source's newest scored applications, at most so many; None without any.

        Found by the rollup, so that only the minutes around its start are sorted.
        """
        with self._connection.cursor(row_factory=class_row(Period)) as cursor:
            return cursor.execute(_LAST_ROWS, {"source_id": source_id, "rows": rows}).fetchone()

    def last_hours(self, source_id: int, hours: float) -> Period:
        """The period of what was scored in the last hours."""
        row = self._connection.execute("SELECT now()").fetchone()
        assert row is not None  # noqa: S101
        return Period(source_id, row[0] - timedelta(hours=hours), row[0])

    def count(self, period: Period, references: Sequence[Reference]) -> Window:
        """Count a window over the cells of a baseline's features, in the database."""
        counts = {
            r.feature: np.zeros(len(r.grid) + 1 if r.kind == "number" else len(r.counts), np.int64)
            for r in references
        } | {"tier": np.zeros(len(TIERS), np.int64)}
        missing = dict.fromkeys(counts, 0)
        cells = sql.SQL(", ").join(
            sql.SQL("({}, {})").format(sql.Literal(name), cell)
            for name, cell in _cells(references).items()
        )
        for name, cell, rows in self._connection.execute(
            _COUNT.format(cells=cells, window=_WINDOW),
            vars(period) | {"tiers": list(TIERS)} | _bounds(references),
            binary=True,
        ):
            if cell is None:
                missing[name] = rows
            else:
                counts[name][cell] = rows
        numbers = [r.feature for r in references if r.kind == "number"]
        centres = self._centres(period, numbers)
        features = {}
        for r in references:
            found = counts[r.feature]
            if r.kind == "number":
                features[r.feature] = Current(found, missing[r.feature], *centres[r.feature])
            else:
                features[r.feature] = Current(found, int(found[-2]))
        tiers = counts["tier"]
        days = self._connection.execute(_DAYS, vars(period)).fetchall()
        last_day = self._connection.execute(_LAST_DAY, vars(period)).fetchone() or (0, 0)
        return Window(int(tiers.sum()), self._rejected(period), tiers, features, days, last_day)

    def _centres(
        self, period: Period, features: Sequence[str]
    ) -> dict[str, tuple[float | None, float | None]]:
        """Mean of the finite values and lower median of each number."""
        columns = sql.SQL(", ").join(
            sql.SQL(
                "sum({0}) FILTER (WHERE abs({0}) < 'Infinity')"  # avg would square them
                " / nullif(count(*) FILTER (WHERE abs({0}) < 'Infinity'), 0),"
                " percentile_disc(0.5) WITHIN GROUP (ORDER BY {0}) FILTER (WHERE {0} <> 'NaN')"
            ).format(_column(feature))
            for feature in features
        )
        row = self._connection.execute(
            sql.SQL("SELECT {columns} FROM {window}").format(columns=columns, window=_WINDOW),
            vars(period),
        ).fetchone()
        assert row is not None  # noqa: S101
        return {name: (row[2 * i], row[2 * i + 1]) for i, name in enumerate(features)}

    def _rejected(self, period: Period) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM rejected_events WHERE source_id = %(source_id)s"
            " AND rejected_at BETWEEN %(start)s AND %(end)s",
            vars(period),
        ).fetchone()
        return int(row[0]) if row else 0

    def sample(self, period: Period, rows: int, at_most: int) -> pa.Table:
        """About so many rows of a window that has `rows`: every k-th offset of each partition."""
        step = -(-rows // at_most) or 1
        return _table(self._connection.execute(_SAMPLE, vars(period) | {"step": step}).fetchall())

    # --- reports --------------------------------------------------------------------------------

    def save(
        self, baseline_id: int, period: Period, window: Window, drift: Drift, run_id: str
    ) -> int:
        """Store a report; a second one of the same window and baseline replaces the first."""
        with self._connection.transaction():
            row = self._connection.execute(
                _INSERT_REPORT,
                {
                    "baseline_id": baseline_id,
                    "source_id": period.source_id,
                    "window_start": period.start,
                    "window_end": period.end,
                    "rows": window.rows,
                    "rejected": window.rejected,
                    "run_id": run_id,
                    "verdict": drift.verdict,
                    "tier_shares": drift.tier_shares.tolist(),
                    "tier_psi": drift.tier_psi,
                    "tier_psi_floor": drift.tier_psi_floor,
                    "tier_verdict": drift.tier_verdict,
                    "watchlist_share": drift.watchlist_share,
                    **_pair("watchlist_low", "watchlist_high", drift.watchlist_interval),
                    **_pair(
                        "watchlist_lower_limit", "watchlist_upper_limit", drift.watchlist_limits
                    ),
                    "day_rows": drift.day_rows,
                    "day_share": drift.day_share,
                    **_pair("day_lower_limit", "day_upper_limit", drift.day_limits),
                    "reject_share": drift.reject_share,
                    "reject_upper_limit": drift.reject_limits and drift.reject_limits[1],
                },
            ).fetchone()
            assert row is not None  # noqa: S101
            report_id = int(row[0])
            self._connection.execute(
                "DELETE FROM drift_features WHERE report_id = %(report_id)s",
                {"report_id": report_id},
            )
            with self._connection.cursor() as cursor:
                cursor.executemany(
                    _INSERT_FEATURE,
                    [
                        vars(feature) | {"report_id": report_id, "shares": feature.shares.tolist()}
                        for feature in drift.features
                    ],
                )
        return report_id

    def set_html(self, report_id: int, key: str) -> None:
        """Record where the HTML of a report is."""
        self._connection.execute(
            "UPDATE drift_reports SET html_key = %(key)s WHERE report_id = %(report_id)s",
            {"key": key, "report_id": report_id},
        )

    def html_key(self, report_id: int) -> str | None:
        """Where the HTML of a report is; None when there is none, or no such report."""
        row = self._connection.execute(
            "SELECT html_key FROM drift_reports WHERE report_id = %(report_id)s",
            {"report_id": report_id},
        ).fetchone()
        return row[0] if row else None


# --- SQL ------------------------------------------------------------------------------------------


_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))

# The rollup says in which minute so many rows are reached: only those up to it are sorted. Each of
# its rows counts an application at least, so that as many rows of it as applications are enough.
# Minutes of periods that retention dropped have no applications any more.
_FIRST_ROWS = sql.SQL("""
WITH minutes AS (
    SELECT minute, sum(sum(applications)) OVER (ORDER BY minute) AS applications
    FROM (
        SELECT minute, applications FROM risk_by_minute
        WHERE source_id = %(source_id)s AND risk_tier <> 'Rejected' AND minute >= coalesce(
            (SELECT max(coalesce(ends, month + interval '1 month')) FROM dropped_rows), '-infinity')
        ORDER BY minute LIMIT %(rows)s
    ) AS first
    GROUP BY minute
), reached AS (
    SELECT coalesce(min(minute), 'infinity') + interval '1 minute' AS until
    FROM minutes WHERE applications >= %(rows)s
)
SELECT {columns}, risk_tier, scored_at
FROM scored_applications
WHERE source_id = %(source_id)s AND scored_at < (SELECT until FROM reached)
ORDER BY scored_at, partition, "offset" LIMIT %(rows)s
""").format(columns=_COLUMNS)

_LAST_ROWS: LiteralString = """
WITH minutes AS (
    SELECT minute, sum(sum(applications)) OVER (ORDER BY minute DESC) AS applications
    FROM (
        SELECT minute, applications FROM risk_by_minute
        WHERE source_id = %(source_id)s AND risk_tier <> 'Rejected'
        ORDER BY minute DESC LIMIT %(rows)s
    ) AS last
    GROUP BY minute
), reached AS (
    SELECT coalesce(max(minute), '-infinity') AS since FROM minutes WHERE applications >= %(rows)s
), newest AS MATERIALIZED (
    SELECT scored_at, partition, "offset" FROM scored_applications
    WHERE source_id = %(source_id)s AND scored_at >= (SELECT since FROM reached)
    ORDER BY scored_at DESC, partition DESC, "offset" DESC LIMIT %(rows)s
)
SELECT %(source_id)s::int AS source_id, scored_at AS start,
    (SELECT max(scored_at) FROM newest) AS "end", partition, "offset"
FROM newest ORDER BY scored_at, partition, "offset" LIMIT 1
"""

# The first two conditions are what the table's partitions and index know.
_WINDOW = sql.SQL("""scored_applications
WHERE source_id = %(source_id)s AND scored_at BETWEEN %(start)s AND %(end)s
    AND (scored_at, partition, "offset") >= (%(start)s, %(partition)s::int, %(offset)s::bigint)""")

_COUNT = sql.SQL("""
SELECT feature, cell, count(*)
FROM (SELECT * FROM {window}) AS application
    CROSS JOIN LATERAL (VALUES {cells}) AS counted (feature, cell)
GROUP BY feature, cell
""")

# Whole days, by UTC: the first one that is there may be a part of one.
_DAYS: LiteralString = """
WITH days AS (
    SELECT date_trunc('day', minute, 'UTC') AS day,
        sum(applications) FILTER (WHERE risk_tier <> 'Rejected') AS scored,
        sum(applications) FILTER (WHERE risk_tier = 'Watchlist') AS watchlist,
        sum(applications) FILTER (WHERE risk_tier = 'Rejected') AS rejected
    FROM risk_by_minute
    WHERE source_id = %(source_id)s AND minute < date_trunc('day', %(start)s, 'UTC')
        AND minute >= date_trunc('day', %(start)s, 'UTC') - interval '60 days'
    GROUP BY day
)
SELECT coalesce(scored, 0)::bigint, coalesce(watchlist, 0)::bigint, coalesce(rejected, 0)::bigint
FROM days ORDER BY day OFFSET 1
"""

# Of the minutes that began in the 24 hours until the window's end.
_LAST_DAY: LiteralString = """
SELECT coalesce(sum(applications), 0)::bigint,
    coalesce(sum(applications) FILTER (WHERE risk_tier = 'Watchlist'), 0)::bigint
FROM risk_by_minute
WHERE source_id = %(source_id)s AND risk_tier <> 'Rejected'
    AND minute > %(end)s::timestamptz - interval '24 hours' AND minute <= %(end)s
"""

_SAMPLE = sql.SQL('SELECT {columns}, risk_tier FROM {window} AND "offset" %% %(step)s = 0').format(
    columns=_COLUMNS, window=_WINDOW
)

_REPORT_COLUMNS = (
    *("baseline_id", "source_id", "window_start", "window_end", "rows", "rejected", "run_id"),
    *("verdict", "tier_shares", "tier_psi", "tier_psi_floor", "tier_verdict", "watchlist_share"),
    *("watchlist_low", "watchlist_high", "watchlist_lower_limit", "watchlist_upper_limit"),
    *("day_rows", "day_share", "day_lower_limit", "day_upper_limit"),
    *("reject_share", "reject_upper_limit"),
)
_INSERT_REPORT = sql.SQL(
    "INSERT INTO drift_reports ({columns}) VALUES ({values})"
    " ON CONFLICT (source_id, baseline_id, window_end, window_start, rows)"
    " DO UPDATE SET created_at = now(), {updates} RETURNING report_id"
).format(
    columns=sql.SQL(", ").join(map(sql.Identifier, _REPORT_COLUMNS)),
    values=sql.SQL(", ").join(map(sql.Placeholder, _REPORT_COLUMNS)),
    updates=sql.SQL(", ").join(
        sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in _REPORT_COLUMNS
    ),
)

_INSERT_FEATURE: LiteralString = """
INSERT INTO drift_features (report_id, feature, kind, psi, psi_floor, psi_limit, ks, ks_p, chi2,
    chi2_p, mean, reference_mean, median, reference_median, missing_share,
    reference_missing_share, verdict, shares)
VALUES (%(report_id)s, %(feature)s, %(kind)s, %(psi)s, %(psi_floor)s, %(psi_limit)s, %(ks)s,
    %(ks_p)s, %(chi2)s, %(chi2_p)s, %(mean)s, %(reference_mean)s, %(median)s,
    %(reference_median)s, %(missing_share)s, %(reference_missing_share)s, %(verdict)s, %(shares)s)
"""


def _column(feature: str) -> sql.Identifier:
    return sql.Identifier(next(f.column for f in FEATURES if f.name == feature))


def _cells(references: Sequence[Reference]) -> dict[str, sql.Composed | sql.SQL]:
    """For each feature, the SQL expression of a row's cell: `domain.drift.count` in Postgres. The
    bounds are parameters of the feature's name."""
    number = "width_bucket(nullif({column}, 'NaN'), {bounds}::float8[])"
    category = (
        "coalesce(array_position({bounds}::text[], coalesce({column}::text, {missing})) - 1,"
        " cardinality({bounds}::text[]))"
    )
    cells: dict[str, sql.Composed | sql.SQL] = {
        r.feature: sql.SQL(number if r.kind == "number" else category).format(
            column=_column(r.feature),
            bounds=sql.Placeholder(r.feature),
            missing=sql.Literal(MISSING),
        )
        for r in references
    }
    cells["tier"] = sql.SQL("array_position(%(tiers)s::text[], risk_tier) - 1")
    return cells


def _bounds(references: Sequence[Reference]) -> dict[str, Any]:
    return {
        r.feature: r.grid.tolist() if r.kind == "number" else list(r.categories) for r in references
    }


def _pair(low: str, high: str, values: tuple[float, float] | None) -> dict[str, float | None]:
    return {low: values and values[0], high: values and values[1]}


_ARROW = {feature.column: pa.string() for feature in FEATURES if feature.kind == "category"} | {
    "term_months": pa.float64(),
    "risk_tier": pa.string(),
}


def _table(rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Rows of `COLUMNS` and risk_tier, as columns."""
    names = (*COLUMNS, "risk_tier")
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    return pa.table(
        {
            name: pa.array(values, _ARROW.get(name, pa.float64()))
            for name, values in zip(names, columns, strict=True)
        }
    )
