"""The periods that a page can show, and the buckets that a chart of one has."""

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas import offsets

MAX_BUCKETS = 60


@dataclass(frozen=True)
class Period:
    """A stretch of time up to now; without a length, all there is.

    Attributes:
        since: where exactly it begins; None is with the bucket that holds its first moment.
    """

    words: str
    length: pd.Timedelta | None
    since: pd.Timestamp | None = field(default=None, kw_only=True)

    def at(self, now: pd.Timestamp) -> tuple["Period", pd.Timestamp]:
        """The stretch, and where it ends (which is no more of it), as of now."""
        return self, now


@dataclass(frozen=True)
class Dates(Period):
    """Days of the calendar, from midnight to midnight in the viewer's zone.

    Attributes:
        first, last: the days, YYYY-MM-DD.
    """

    first: str
    last: str

    def at(self, now: pd.Timestamp) -> tuple[Period, pd.Timestamp]:
        """The stretch as far as it is over.

        Raises:
            ValueError: it is still to come.
        """
        following = pd.Timestamp(self.last) + pd.DateOffset(days=1)
        days = pd.DatetimeIndex([self.first, following])
        since, until = _midnights(days, now)
        until = min(until, now)
        if since >= until:
            raise ValueError(f"{self.words} is still to come")
        return Period(self.words, until - since, since=since), until


def _midnights(days: pd.DatetimeIndex, now: pd.Timestamp) -> pd.DatetimeIndex:
    """Where days begin in the zone of `now`: of a midnight that the clocks repeat or skip, the
    first moment of its day."""
    return days.tz_localize(
        now.tz, ambiguous=np.ones(len(days), dtype=bool), nonexistent="shift_forward"
    )


PERIODS = {
    "15 min": Period("in the last 15 minutes", pd.Timedelta("15min")),
    "1 h": Period("in the last hour", pd.Timedelta("1h")),
    "24 h": Period("in the last 24 hours", pd.Timedelta("24h")),
    "7 d": Period("in the last 7 days", pd.Timedelta("7D")),
    "30 d": Period("in the last 30 days", pd.Timedelta("30D")),
    "All": Period("since the start", None),
}
DEFAULT_PERIOD = "24 h"
LONG = pd.Timedelta("366D")
AGAINST = ("the period before", "a year ago")
_CALENDAR = re.compile(
    r"(?P<year>\d{4})(-(?P<month>\d\d)|-?Q(?P<quarter>[1-4]))?|"
    r"(?P<first>\d{4}-\d\d-\d\d)(\.\.(?P<last>\d{4}-\d\d-\d\d))?"
)


def period_of(text: str) -> Period:
    """One of `PERIODS`, or days of the calendar: `2026`, `2026-10`, `2026-Q4`, `2026-10-05`,
    `2026-10-05..2026-10-19`.

    Raises:
        ValueError: it is none; the message says what to write.
    """
    if text in PERIODS:
        return PERIODS[text]
    match = _CALENDAR.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        first, last = _days(match)
    except ValueError:
        raise ValueError(
            f"{text[:40]!r} is no period: write 2026, 2026-10, 2026-Q4 or 2026-10-05..2026-10-19"
        ) from None
    words = f"in {text.strip()}" if match["first"] is None else f"on {match['first']}"
    if match["last"]:
        words = f"from {match['first']} to {match['last']}"
    return Dates(words, last - first, f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}")


def _days(match: re.Match[str]) -> tuple[pd.Timestamp, pd.Timestamp]:
    if match["first"]:
        first = pd.Timestamp(match["first"])
        last = pd.Timestamp(match["last"] or match["first"])
    else:
        quarter = match["quarter"]
        month = int(match["month"] or (3 * int(quarter) - 2 if quarter else 1))
        months = 1 if match["month"] else 3 if quarter else 12
        first = pd.Timestamp(int(match["year"]), month, 1)
        last = first + pd.DateOffset(months=months) - pd.Timedelta("1D")
    if last < first or first.year < 1970:
        raise ValueError
    return first, last


def calendar(today: pd.Timestamp) -> list[str]:
    """The last twelve months and four quarters, the newest first, as `period_of` takes them."""
    months = pd.period_range(end=today.tz_localize(None), periods=12, freq="M")[::-1]
    quarters = pd.period_range(end=today.tz_localize(None), periods=4, freq="Q")[::-1]
    return [
        *(month.strftime("%Y-%m") for month in months),
        *(f"{quarter.year}-Q{quarter.quarter}" for quarter in quarters),
    ]


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
    """Adjoining buckets; bucket i is edges[i] <= time < edges[i + 1]. The last one holds now, or
    ends with days of the calendar."""

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
    the clock changes. No bucket is shorter than `finest`, unless the whole period is. Days of the
    calendar (`Period.since`) begin and end with the first and the last bucket, which may be shorter
    for it.
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
        edges = _midnights(days, now)
    if period.since is not None:
        inside = edges[(edges > period.since) & (edges < now)]
        edges = pd.DatetimeIndex([period.since, *inside, now])
    return Buckets(edges, name)
