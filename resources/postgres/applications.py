"""Reading decisions: one loan's history, and the watchlist. Pages by key, so that no page is slower
than the first, and by index scans only.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, LiteralString

import msgspec
from psycopg.rows import dict_row

from resources.postgres.connection import WarehouseReader

Page = tuple[list[dict[str, Any]], "Place | None"]


_Int32 = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class Place(msgspec.Struct, frozen=True):
    """Where a decision stands: by time, and among those of its batch by its coordinates."""

    decided_at: Annotated[datetime, msgspec.Meta(tz=True)]
    source_id: _Int32
    partition: _Int32
    offset: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


NEWEST = Place(datetime.max.replace(tzinfo=UTC), 2**31 - 1, 2**31 - 1, 2**63 - 1)


class Applications:
    """Decisions as the warehouse has them, newest first."""

    def __init__(self, warehouse: WarehouseReader) -> None:
        self._warehouse = warehouse

    def history(self, loan_id: str, *, limit: int, after: Place = NEWEST) -> Page:
        """What was decided of a loan: a row for each of its events, scored or rejected.

        Args:
            loan_id: as the platform stores it.
            limit: most rows.
            after: the place of the last row that was seen.

        Returns:
            The rows, and the place of the last one if there are more.

        Raises:
            WarehouseUnavailable, NotMigrated.
        """
        return self._page(_HISTORY, limit, after, {"loan_id": loan_id, "key": loan_id.encode()})

    def watchlist(self, *, limit: int, after: Place = NEWEST) -> Page:
        """The applications on the watchlist; otherwise as `history`."""
        return self._page(_WATCHLIST, limit, after, {})

    def _page(
        self, query: LiteralString, limit: int, after: Place, parameters: dict[str, Any]
    ) -> Page:
        parameters |= {**msgspec.structs.asdict(after), "limit": limit + 1}
        with (
            self._warehouse.session() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = cursor.execute(query, parameters).fetchall()
        if len(rows) <= limit:
            return rows, None
        rows.pop()
        last = rows[-1]
        return rows, Place(last["decided_at"], *(last[name] for name in _COORDINATES))


_COORDINATES = ("source_id", "partition", "offset")

# Earlier versions stored what a producer had written, and Python has no year 10,000.
_SCORED: LiteralString = """
SELECT scored_at AS decided_at, source_id, partition, "offset", batch_id, policy_id,
    least(recorded_at, '9999-12-31Z') AS recorded_at, loan_id, 'scored' AS outcome,
    NULL AS reject_reason, event_time, risk_tier, recommendation, early_warning, reasons, figures,
    dti_band, util_band, rate_band, loan_amnt, annual_inc, dti, int_rate, revol_util, delinq_2yrs,
    inq_last_6mths, credit_history_years, emp_length_yrs, term_months, purpose, grade, addr_state,
    home_ownership, application_type, annual_inc_primary, dti_primary, annual_inc_joint, dti_joint,
    pd, pd_reasons, model_id, arm
FROM scored_applications
-- The first condition is one that an index on the time alone serves.
WHERE scored_at <= %(decided_at)s AND (scored_at, source_id, partition, "offset")
        < (%(decided_at)s::timestamptz, %(source_id)s, %(partition)s, %(offset)s)
"""

_REJECTED: LiteralString = """
SELECT rejected_at, source_id, partition, "offset", batch_id, NULL,
    least(recorded_at, '9999-12-31Z'),
    %(loan_id)s, 'rejected', reason, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    NULL, NULL, NULL, NULL, NULL, NULL
FROM rejected_events
WHERE key = %(key)s AND (rejected_at, source_id, partition, "offset")
        < (%(decided_at)s::timestamptz, %(source_id)s, %(partition)s, %(offset)s)
"""

_NEWEST_FIRST: LiteralString = (
    ' ORDER BY decided_at DESC, source_id DESC, partition DESC, "offset" DESC '
)

# Rejected events have the policy of their batch; a re-driven one was scored by a later run.
_ORIGINS: LiteralString = """
SELECT page.*, p.name AS policy, p.content_hash AS policy_hash, s.cluster_id, s.topic, s.epoch,
    coalesce(r.run_id, b.run_id) AS run_id, r.redriven_at, m.version AS model
FROM page
JOIN sources s USING (source_id)
LEFT JOIN redriven_events r USING (source_id, partition, "offset")
LEFT JOIN batches b USING (batch_id)
LEFT JOIN models m USING (model_id)
LEFT JOIN policies p ON p.policy_id = coalesce(page.policy_id, b.policy_id)
"""

_HISTORY: LiteralString = (
    f"WITH page AS ({_SCORED} AND loan_id = %(loan_id)s UNION ALL {_REJECTED}"
    f" {_NEWEST_FIRST} LIMIT %(limit)s) {_ORIGINS} {_NEWEST_FIRST}"
)

_WATCHLIST: LiteralString = (
    f"WITH page AS ({_SCORED} AND risk_tier = 'Watchlist'"
    f" {_NEWEST_FIRST} LIMIT %(limit)s) {_ORIGINS} {_NEWEST_FIRST}"
)
