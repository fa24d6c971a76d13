"""Which records came before: the marks of the first of each, for as long as they are remembered.

A run has them in memory, and the table only tells it what other runs add, a row a batch. A mark is
claimed for an offset, and before the batch is committed: of two runs that get one application at
once, the second sees the first's claim; and a run that dies between claim and commit leaves a claim
that is the same offset's own when that is read again.
"""

import time
from datetime import timedelta
from typing import Any, LiteralString

import numpy as np
import numpy.typing as npt
import psycopg

from credit_risk_dagster.domain.record_time import NO_TIME
from credit_risk_dagster.domain.repeats import are_keyed
from credit_risk_dagster.domain.scoring import Assessment
from credit_risk_dagster.settings import DrainSettings
from resources.kafka.reader import Fetch
from resources.postgres.idempotency import forget_keys

Rows = npt.NDArray[np.void]

# As the table has them.
_CLAIM = np.dtype(
    [
        *(("low", "<u8"), ("high", "<u8"), ("offset", "<i8")),
        *((name, "<i4") for name in ("at", "source_id", "partition")),
    ]
)
_PLACE = ["source_id", "partition", "offset"]
_RUNS = 8  # so many of about one size become one
_SMALL_EVENTS, _SMALL_ROWS = 1_000, 500  # so many rows of so few events become one


class Repeats:
    """The records that came before, over one connection."""

    def __init__(self, connection: psycopg.Connection[Any], settings: DrainSettings) -> None:
        self._connection = connection
        self._window = timedelta(days=settings.deduplicate_days)
        self._most = settings.deduplicate_events
        self._runs: list[tuple[npt.NDArray[np.uint64], Rows]] = []  # sorted by `low`, oldest first
        self._seen_id = 0
        self.forget()
        if settings.deduplicate != "off":
            self._read_on()

    def forget(self, *, by_record_time: bool = False) -> None:
        """Delete what is not to be remembered any more; by when it was seen, or else by the newest
        time that the records themselves have."""
        with self._connection.transaction():
            self._connection.execute(_LOCK)
            self._connection.execute(
                _FORGET,
                {
                    "window": self._window,
                    "by_record_time": by_record_time,
                    "most": self._most,
                },
            )
            forget_keys(self._connection, self._window)
            self._connection.execute(
                _MERGE, {"events": _SMALL_EVENTS, "rows": _SMALL_ROWS, "none": b""}
            )

    def reject(self, source_id: int, fetch: Fetch, assessment: Assessment) -> Assessment:
        """The batch with those of its records rejected that came before, in it or earlier; the
        others are remembered from now on."""
        marks = fetch.marks
        if marks is None or not len(at := np.flatnonzero(marks.any(axis=1))):
            return assessment
        rows = np.empty(len(at), _CLAIM)
        rows["low"], rows["high"] = marks[at, 0], marks[at, 1]
        times = fetch.timestamps[at]
        rows["at"] = np.where(
            times == NO_TIME, int(time.time()), np.clip(times // 1000, 0, 2**31 - 1)
        )
        rows["source_id"] = source_id
        rows["partition"], rows["offset"] = fetch.partitions[at], fetch.offsets[at]
        with self._connection.transaction():
            # The commit of the batch, which comes after it, makes it durable, too.
            self._connection.execute("SET LOCAL synchronous_commit = off")
            self._connection.execute(_LOCK)
            self._read_on()
            known, firsts = self._firsts(rows)
            repeated = (firsts[_PLACE] != rows[_PLACE]) & known
            new = rows[~known]
            self._claim(new)
        self._remember(new)
        places = np.stack([firsts[name][repeated].astype(np.int64) for name in _PLACE], axis=1)
        return assessment.repeating(at[repeated], places)

    def _read_on(self) -> None:
        """What other runs claimed since."""
        found = self._connection.execute(
            "SELECT seen_id, claims FROM seen_events WHERE seen_id > %(seen_id)s ORDER BY seen_id",
            {"seen_id": self._seen_id},
        ).fetchall()
        if found:
            self._seen_id = found[-1][0]
            self._remember(np.frombuffer(b"".join(claims for _, claims in found), _CLAIM))

    def _claim(self, new: Rows) -> None:
        keyed = are_keyed(np.stack([new["low"], new["high"]], axis=1))
        for of_key in (True, False):
            some = new[keyed == of_key]
            if len(some):
                row = self._connection.execute(
                    _INSERT,
                    {
                        "keyed": of_key,
                        "events": len(some),
                        "newest": int(some["at"].max()),
                        "claims": some.tobytes(),
                    },
                ).fetchone()
                assert row is not None  # noqa: S101 (inserted)
                self._seen_id = row[0]

    def _remember(self, rows: Rows) -> None:
        """Keep claims for looking them up."""
        if not len(rows):
            return
        runs = self._runs
        runs.append(_sorted(rows))
        while len(runs) >= _RUNS and len(runs[-_RUNS][0]) < _RUNS * len(runs[-1][0]):
            every = np.concatenate([run for _, run in runs[-_RUNS:]])
            # A record may have a time that is still to come.
            since = min(every["at"].max(), time.time()) - self._window.total_seconds()
            runs[-_RUNS:] = [_sorted(every[every["at"] >= since])]

    def _firsts(self, rows: Rows) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Of each record, whether it came before within the window, in the batch or earlier or as
        itself; and the first one, which is itself where it did not."""
        if self._are_all_new(np.sort(rows["low"])):
            return np.zeros(len(rows), np.bool_), rows
        order = np.lexsort((rows["high"], rows["low"]))
        sought = rows[order]
        first = sought.copy()
        known = np.zeros(len(sought), np.bool_)
        for low, run in reversed(self._runs):
            at = np.searchsorted(low, sought["low"], side="right") - 1
            candidates = run[at]  # of -1, the last one, whose mark is another
            found = ~known & self._is_repeat(sought, candidates)
            first[found] = candidates[found]
            known |= found
        begins = np.ones(len(sought), np.bool_)
        begins[1:] = (sought["low"][1:] != sought["low"][:-1]) | (
            sought["high"][1:] != sought["high"][:-1]
        )
        # The first record of a mark in the batch is the first of all, where none came earlier.
        leads = np.maximum.accumulate(np.where(begins, np.arange(len(sought)), 0))
        within = ~known & ~begins & self._is_repeat(sought, sought[leads])
        first[within] = sought[leads][within]
        back = np.empty(len(order), np.intp)
        back[order] = np.arange(len(order))
        return (known | within)[back], first[back]

    def _are_all_new(self, sought: npt.NDArray[np.uint64]) -> bool:
        """Whether none of these, which are sorted, is there twice or was before: the usual case."""
        if (sought[1:] == sought[:-1]).any():
            return False
        for low, _ in self._runs:
            at = np.minimum(np.searchsorted(low, sought), len(low) - 1)
            if (low[at] == sought).any():
                return False
        return True

    def _is_repeat(self, rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
        same: npt.NDArray[np.bool_] = (rows["low"] == others["low"]) & (
            rows["high"] == others["high"]
        )
        apart = np.abs(rows["at"].astype(np.int64) - others["at"])
        return same & (apart <= self._window.total_seconds())


def forget_all(connection: psycopg.Connection[Any]) -> None:
    """Delete every mark, within a transaction: what comes again is decided again."""
    connection.execute(_LOCK)
    connection.execute("DELETE FROM seen_events")


def _sorted(rows: Rows) -> tuple[npt.NDArray[np.uint64], Rows]:
    rows = rows[np.argsort(rows["low"], kind="stable")]
    return np.ascontiguousarray(rows["low"]), rows


_LOCK: LiteralString = (
    "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '.seen_events', 0))"
)

_INSERT: LiteralString = """
INSERT INTO seen_events (keyed, events, newest, claims)
VALUES (%(keyed)s, %(events)s, to_timestamp(%(newest)s), %(claims)b) RETURNING seen_id
"""

_FORGET: LiteralString = """
DELETE FROM seen_events
WHERE CASE WHEN %(by_record_time)s THEN least(seen_at, newest) ELSE seen_at END
        < clock_timestamp() - %(window)s
    OR seen_id IN (
        SELECT seen_id FROM (
            SELECT seen_id, sum(events) OVER (ORDER BY seen_id DESC) - events AS newer
            FROM seen_events
        ) AS counted WHERE newer >= %(most)s
    )
"""

# Many rows of few events become one; whoever reads on reads them again, which changes nothing.
_MERGE: LiteralString = """
WITH few AS (
    SELECT keyed FROM seen_events WHERE events < %(events)s GROUP BY keyed
    HAVING count(*) > %(rows)s
), old AS (
    DELETE FROM seen_events s USING few WHERE s.keyed = few.keyed AND s.events < %(events)s
    RETURNING s.*
)
INSERT INTO seen_events (keyed, seen_at, events, newest, claims)
SELECT keyed, max(seen_at), sum(events), max(newest),
    string_agg(claims, %(none)s::bytea ORDER BY seen_id)
FROM old GROUP BY keyed
"""
