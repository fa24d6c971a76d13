"""What a viewer narrows a page down to; all of it is in the page's address."""

from itertools import pairwise

import pandas as pd
import streamlit as st

from dashboard.data import segments
from dashboard.data.connection import PROBLEMS
from dashboard.data.segments import AMOUNTS_FROM, Segment
from dashboard.parts import formats, periods
from dashboard.parts.layout import collapsed_on_phone
from dashboard.parts.states import STATES

GRADES = (*"ABCDEFG", "")
TERMS = (36, 60, 0)
_FIELDS = ("purpose", "grade", "state", "term", "amount")


def period(default: str, options: list[str]) -> str:
    """The period that is chosen."""
    return (
        st.segmented_control(
            "Period",
            options,
            default=default,
            required=True,
            key="period",
            bind="query-params",
        )
        or default
    )


def dates() -> str | None:
    """Days of the calendar instead, if any are chosen; what is none is told."""
    chosen = st.selectbox(
        "Or a month, quarter, days",
        periods.calendar(pd.Timestamp.now(tz="UTC")),
        index=None,
        placeholder="2026-10-05..2026-10-19",
        accept_new_options=True,
        key="dates",
        bind="query-params",
        width=240,
    )
    if chosen:
        try:
            periods.period_of(chosen).at(pd.Timestamp.now(tz="UTC"))
        except ValueError as error:
            st.warning(formats.plain(str(error)), icon=":material/date_range:")
            return None
    return chosen


def against() -> str:
    """What a period is compared with: one of `periods.AGAINST`."""
    return (
        st.segmented_control(
            "Against",
            list(periods.AGAINST),
            default=periods.AGAINST[0],
            required=True,
            key="against",
            bind="query-params",
        )
        or periods.AGAINST[0]
    )


def segment(purposes: tuple[str, ...]) -> Segment:
    """The segment that is chosen, by one field for each of its columns."""
    chosen = sum(bool(st.session_state.get(field)) for field in _FIELDS)
    label = f"Filters ({chosen})" if chosen else "Filters"
    with collapsed_on_phone(label), st.grid(5, min_column_width=150, gap="small"):
        return Segment(
            purpose=tuple(_choice("Purpose", purposes, formats.words)),
            grade=tuple(_choice("Grade", GRADES, lambda grade: grade or formats.UNKNOWN)),
            addr_state=tuple(_choice("State", STATES, lambda state: state or formats.UNKNOWN)),
            term_months=tuple(_choice("Term", TERMS, formats.term)),
            amount_from=tuple(_choice("Amount", AMOUNTS_FROM, amount)),
        )


def amount(start: int) -> str:
    """`$5–10 K`: the band of amounts that begins there."""
    following = dict(pairwise(AMOUNTS_FROM)).get(start)
    if following is None:
        return f"${start // 1000} K or more"
    return f"${start // 1000}–{following // 1000} K" if start else f"Below ${following // 1000} K"


def describe(chosen: Segment) -> str:
    """The segment in words, as Markdown that shows them as they are."""
    parts = [
        *(map(formats.words, chosen.purpose)),
        *(f"grade {grade or formats.UNKNOWN}" for grade in chosen.grade),
        *(state or formats.UNKNOWN for state in chosen.addr_state),
        *(map(formats.term, chosen.term_months)),
        *(map(amount, chosen.amount_from)),
    ]
    return formats.plain(", ".join(parts)) if parts else "All applications"


def purposes() -> tuple[str, ...]:
    """The purposes to choose from; none while the warehouse does not answer, which the rest of the
    page says."""
    try:
        return segments.purposes()
    except PROBLEMS:
        return ()


def _choice(label: str, options, format_func):  # type: ignore[no-untyped-def]
    return st.multiselect(
        label,
        options,
        format_func=format_func,
        placeholder="All",
        key=label.lower(),
        bind="query-params",
    )
