"""Periods cut into buckets, in zones whose clocks change."""

import pandas as pd
import pytest

from dashboard.parts.periods import MAX_BUCKETS, PERIODS, buckets, period_of

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",  # half an hour off
    "Australia/Lord_Howe",  # its clocks change by half an hour
    "Africa/Cairo",  # its clocks change at midnight
)
DAYS = ("2026-01-01", "2026-03-29", "2026-04-05", "2026-04-24", "2026-10-25", "2026-11-01")


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("day", DAYS)
def test_buckets_cover_the_period_and_hold_now(zone: str, day: str) -> None:
    for now in pd.date_range(day, periods=12, freq="137min", tz="UTC").tz_convert(zone):
        for period in PERIODS.values():
            for age in (None, "3min", "50D", "900D"):
                first = None if age is None else now - pd.Timedelta(age)
                edges = buckets(period, now, first).edges
                assert edges.is_monotonic_increasing
                assert edges[-2] <= now < edges[-1]
                assert period.length is None or edges[0] <= now - period.length
                assert period.length is not None or first is None or edges[0] <= first
                assert 15 <= len(edges) - 1 <= MAX_BUCKETS + 2


@pytest.mark.parametrize(
    ("period", "name"),
    [("15 min", "minute"), ("1 h", "minute"), ("24 h", "30 minutes"), ("7 d", "3 hours")],
)
def test_the_width_fits_the_period(period: str, name: str) -> None:
    now = pd.Timestamp("2026-06-15 10:07:42", tz="Europe/Berlin")
    assert buckets(PERIODS[period], now, None).name == name


def test_days_are_the_calendars() -> None:
    now = pd.Timestamp("2026-04-10 10:00", tz="Europe/Berlin")
    cut = buckets(PERIODS["All"], now, now - pd.Timedelta("55D"))
    assert cut.name == "day"
    assert {edge.hour for edge in cut.edges} == {0}
    lengths = pd.Series(cut.edges).diff().value_counts()
    assert lengths[pd.Timedelta("23h")] == 1
    assert lengths[pd.Timedelta("24h")] == len(cut.edges) - 2


@pytest.mark.parametrize("zone", [*ZONES, "America/Havana"])  # whose clocks repeat a midnight
@pytest.mark.parametrize(
    ("text", "first", "following"),
    [
        ("2026-03", "2026-03-01", "2026-04-01"),
        ("2026-10", "2026-10-01", "2026-11-01"),
        ("2026-Q3", "2026-07-01", "2026-10-01"),
        ("2025", "2025-01-01", "2026-01-01"),
        ("2026-10-05", "2026-10-05", "2026-10-06"),
        ("2026-11-01", "2026-11-01", "2026-11-02"),
        ("2026-11", "2026-11-01", "2026-11-29 11:00:13"),  # as far as it is over
        ("2026-11-29", "2026-11-29", "2026-11-29 11:00:13"),
    ],
)
def test_days_of_the_calendar_have_no_bucket_outside(
    text: str, first: str, following: str, zone: str
) -> None:
    now = pd.Timestamp("2026-11-29 11:00:13", tz=zone)
    since, until = pd.DatetimeIndex([first, following]).tz_localize(zone, ambiguous=[True, True])
    edges = buckets(*period_of(text).at(now), None).edges
    assert (edges[0], edges[-1]) == (since, until)
    assert edges.is_monotonic_increasing
    assert edges.is_unique
    assert 14 <= len(edges) - 1 <= MAX_BUCKETS + 2


def test_a_day_has_a_bucket_as_soon_as_it_begins() -> None:
    now = pd.Timestamp("2026-11-29 00:00:05", tz="Europe/Berlin")
    assert buckets(*period_of("2026-11-29").at(now), None).edges.tolist() == [now.normalize(), now]
