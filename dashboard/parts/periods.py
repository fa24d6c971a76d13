"""The periods that a page can show, and the buckets that a chart of one has."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas import offsets

MAX_BUCKETS = 60


@dataclass(frozen=True)
class Period:
    """A stretch of time up to now; without a length, all there is."""

    words: str
    length: pd.Timedelta | None


PERIODS = {
    "15 min": Period("in the last 15 minutes", pd.Timedelta("15min")),
    "1 h": Period("in the last hour", pd.Timedelta("1h")),
    "24 h": Period("in the last 24 hours", pd.Timedelta("24h")),
    "7 d": Period("in the last 7 days", pd.Timedelta("7D")),
    "30 d": Period("in the last 30 days", pd.Timedelta("30D")),
    "All": Period("since the start", None),
}
DEFAULT_PERIOD = "24 h"

_SHORTEST = pd.Timedelta("15min")
_DAY = pd.Timedelta("1D")

# Name, approximate width and offset, from fine to coarse. The rollup has minutes, none is finer.
_WIDTHS: tuple[tuple[str, pd.Timedelta, offsets.BaseOffset], ...] = (
    ("minute", pd.Timedelta("1min"), offsets.Minute(1)),
    ("5 minutes", pd.Timedelta("5min"), offsets.Minute(5)),
    ("15 minutes", pd.Timedelta("15min"), offsets.Minute(15)),
    ("30 minutes", pd.Timedelta("30min"), offsets.Minute(30)),
    ("hour", pd.Timedelta("1h"), offsets.Hour(1)),
    ("3 hours", pd.Timedelta("3h"), offsets.Hour(3)),
    ("6 hours", pd.Timedelta("6h"), offsets.Hour(6)),
    ("12 hours", pd.Timedelta("12h"), offsets.Hour(12)),
    ("day", _DAY, pd.DateOffset(days=1)),
    ("week", pd.Timedelta("7D"), offsets.Week(weekday=0)),
    ("month", pd.Timedelta("30D"), offsets.MonthBegin()),
)


@dataclass(frozen=True)
class Buckets:
    """Adjoining buckets; bucket i is edges[i] <= time < edges[i + 1], the last one holds now."""

    edges: pd.DatetimeIndex
    name: str


def buckets(
    period: Period,
    now: pd.Timestamp,
    first: pd.Timestamp | None,
    *,
    finest: pd.Timedelta | None = None,
) -> Buckets:
    """Cut a period into at most about `MAX_BUCKETS`, with edges at round times in the zone of
    `now`.

    `first` is the oldest time with data. Days, weeks and months are the calendar's, also where
    the clock changes. No bucket is shorter than `finest`, unless the whole period is.
    """
    length = period.length or max(_SHORTEST, now - (first or now))
    shortest = min(finest or length, length) if finest else pd.Timedelta(0)
    name, width, offset = next(
        (known for known in _WIDTHS if length / known[1] <= MAX_BUCKETS and known[1] >= shortest),
        _WIDTHS[-1],
    )
    start = now - length
    wall = start.tz_localize(None)
    if width < _DAY:
        edges = pd.date_range(
            start - (wall - wall.floor(offset.freqstr)), now + offset, freq=offset
        )
    else:
        days = pd.date_range(
            offset.rollback(wall.normalize()), now.tz_localize(None) + offset, freq=offset
        )
        # A midnight that the clocks repeat or skip is the first moment of its day.
        edges = days.tz_localize(
            now.tz, ambiguous=np.ones(len(days), dtype=bool), nonexistent="shift_forward"
        )
    return Buckets(edges, name)
