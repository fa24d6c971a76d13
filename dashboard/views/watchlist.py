"""Watchlist: the queue of its cases, and what is known and done of one."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TypeVar

import pandas as pd
import streamlit as st

from dashboard.charts.theme import swatch
from dashboard.data import application
from dashboard.data import cases as queries
from dashboard.data.application import Key
from dashboard.data.cases import Queue
from dashboard.data.connection import PROBLEMS
from dashboard.data.segments import AMOUNTS_FROM
from dashboard.parts import application as decision
from dashboard.parts import case, filters, formats, reviewer, reviews, sign_in, tables
from dashboard.parts.layout import collapsed_on_phone, head, on_phone, panel
from dashboard.parts.live import explain, guarded, live, viewer_zone
from resources.postgres.cases import Wanted

Choice = TypeVar("Choice")
STATES = {"To do": "to_do", "Open": "open", "In review": "in_review", "Closed": "closed", "All": ""}
DUE = {"Any time": None, "Overdue": timedelta(0), "Within 24 h": timedelta(days=1)}
PRIORITIES = (0, 500, 1_000, 2_000, 5_000)
_ANYONE, _NOBODY, _ME = "Anyone", "Nobody", "Me"
_PAGES = ("Queue", "Figures")


def page() -> None:
    """Draw the page."""
    with head("Watchlist"):
        shown = st.segmented_control(
            "Show", _PAGES, default=_PAGES[0], required=True, key="show", bind="query-params"
        )
    if shown == "Figures":
        reviews.figures()
    elif sign_in.may_see():
        _queue()


# Not live: rows that move away below the pointer are of no use. What is new is announced.
@guarded
def _queue() -> None:
    wanted, sort = _filters()
    found = queries.queue(wanted, sort, viewer_zone())
    _heading(wanted, sort, found)
    case_id, key = _chosen(found, wanted.loan_id)
    case.tell()
    if case_id is None:
        if not found.rows.empty:
            st.caption("Select a row to open its case, or press N for the next one to review.")
        _list(wanted, found)
    elif on_phone():  # a case that was opened is not below a table
        _details(case_id)
        _list(wanted, found)
    else:
        left, right = st.columns([3, 2], gap="medium")
        with left:
            _list(wanted, found)
        with right:
            _details(case_id)
    _decision(case_id, key)


def _list(wanted: Wanted, found: Queue) -> None:
    if found.rows.empty:
        _nothing(wanted)
    else:
        _table(found)


def _filters() -> tuple[Wanted, str]:
    with collapsed_on_phone("Filters"), st.grid(5, min_column_width=150, gap="small"):
        state = _one("State", list(STATES))
        me = reviewer.name()
        names = [_ANYONE, _NOBODY, *([_ME] if me else []), *queries.assignees()]
        assignee = _one("Assignee", names)
        due = _one("Due", list(DUE))
        priority = _one("Priority", PRIORITIES, _at_least)
        amount = _one("Amount", (-1, *AMOUNTS_FROM), _amount)
        reasons = st.multiselect(
            "Rule",
            queries.reason_codes(),
            format_func=formats.reason,
            placeholder="Any",
            key="reason",
            bind="query-params",
        )
        sort = _one("Sort by", list(queries.SORTS), key="sort")
        loan_id = st.text_input(
            "Find a loan",
            placeholder="Loan id, of any tier",
            key="loan",
            bind="query-params",
            max_chars=40,
        ).strip()
        reviewer.ask()
    if loan_id:
        return Wanted(loan_id=loan_id), sort
    following = dict(pairwise(AMOUNTS_FROM))
    return (
        Wanted(
            state=STATES[state] or None,  # type: ignore[arg-type]
            assignee={_ANYONE: None, _NOBODY: "", _ME: me}.get(assignee, assignee),
            due_within=DUE[due],
            reasons=tuple(reasons) or None,
            priority_from=priority or None,
            amount_from=None if amount < 0 else amount,
            amount_below=following.get(amount),
        ),
        sort,
    )


def _one(
    label: str,
    options: Sequence[Choice],
    format_func: Callable[[Choice], str] = str,
    key: str | None = None,
) -> Choice:
    found = st.selectbox(
        label, options, format_func=format_func, key=key or label.lower(), bind="query-params"
    )
    return options[0] if found is None else found


def _at_least(priority: int) -> str:
    return f"${priority:,} or more may be lost" if priority else "Any"


def _amount(start: int) -> str:
    return filters.amount(start) if start >= 0 else "Any"


def _heading(wanted: Wanted, sort: str, found: Queue) -> None:
    what = f" of loan {formats.plain(wanted.loan_id)}, in any state" if wanted.loan_id else ""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"{swatch('Watchlist')} **{formats.counted(found.matching, 'case')}**{what}, "
            + f"{formats.dollars(found.loan_amnt)} asked for, of which "
            f"{formats.dollars(found.priority)} may be lost.".replace("$", "\\$")
            + f" As of {found.as_of:%-d %b %H:%M:%S} ({found.as_of.tz})."
        )
        _next(found)
        _export(wanted, sort, found)
        _newer(found.as_of.to_pydatetime())
    if found.matching > len(found.rows):
        st.caption(
            f"The table has the first {formats.count(len(found.rows))}; the export has all"
            + (
                "."
                if found.matching <= queries.EXPORT_ROWS
                else f" up to {formats.count(queries.EXPORT_ROWS)}: narrow the filter for the rest."
            )
        )


def _next(found: Queue) -> None:
    """The first case after the shown one that nobody began to review."""
    rows = found.rows
    at = rows.index[rows["case_id"] == _number("case")]
    waiting = rows.index[rows["state"] == "open"]
    later = waiting[waiting > at[0]] if len(at) else waiting
    ahead = later if len(later) else waiting[waiting != at[0]] if len(at) else waiting
    st.button(
        "Next unreviewed",
        shortcut="N",
        icon=":material/skip_next:",
        disabled=not len(ahead),
        on_click=_open,
        args=(int(rows.loc[ahead[0], "case_id"]),) if len(ahead) else (0,),
    )


def _export(wanted: Wanted, sort: str, found: Queue) -> None:
    allowed = sign_in.may("export")
    who = reviewer.name()
    st.download_button(
        "Export CSV",
        partial(queries.cases_csv, wanted, sort, who) if allowed else b"",
        file_name=f"cases-{found.as_of:%Y%m%dT%H%M%S}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
        disabled=not (found.matching and allowed),
        help="Who took what is kept.",
    )


@live
def _newer(since: datetime) -> None:
    newer = queries.newer(since)
    label = f"Show {formats.count(newer)} newer" if newer else "Up to date"
    if st.button(label, icon=":material/refresh:", key="refresh", disabled=not newer):
        queries.queue.clear()
        st.rerun()


def _nothing(wanted: Wanted) -> None:
    if wanted.loan_id:
        st.info(
            f"No case is of loan {formats.plain(wanted.loan_id)}.", icon=":material/search_off:"
        )
        return
    narrowed = wanted != Wanted(state="to_do")
    st.info(
        "No case fits the filters: remove some."
        if narrowed
        else "**Nothing to do.** Each loan on the Watchlist opens a case, and new ones are "
        "announced here; `make demo` streams applications, of which about one in 28 is flagged "
        "(356 of 10,000). Decisions of before there were cases get one by `credit-risk cases "
        "open`.",
        icon=":material/flag:",
    )


def _table(found: Queue) -> None:
    rows = found.rows
    tables.table(
        rows.assign(
            reasons=rows["reasons"].map(lambda codes: [formats.reason(code) for code in codes]),
            pd=100 * rows["pd"].astype(float),
            state=[
                case.STATES[state] + (", overdue" if late else "")
                for state, late in zip(rows["state"], rows["overdue"], strict=True)
            ],
            disposition=rows["disposition"].map(formats.words, na_action="ignore"),
        ),
        {
            "loan_id": tables.name("Loan"),
            "state": tables.text("State"),
            "assignee": tables.text("Assignee"),
            "priority": tables.dollars(
                "Priority",
                help="What may be lost, USD: the amount times the PD, or times 20 % where no model "
                "scored the loan",
            ),
            "loan_amnt": tables.dollars("Amount"),
            "due_at": tables.minute("Due"),
            "reasons": st.column_config.ListColumn("Why it was flagged", width=240),  # two reasons
            "pd": tables.percent(
                "PD",
                help="Probability of the active model's outcome, which its "
                "benchmark names; open a case to see it with its horizon",
            ),
            "decisions": tables.count("Decisions", help="Watchlist decisions that joined it"),
            "opened_at": tables.minute("Opened"),
            "disposition": tables.text("Found"),
        },
        "The cases that match, with why their loans were flagged",
        key="cases",
        on_select=partial(_select, rows),
        selection_mode="multi-row",
        height=520,
    )
    if sign_in.may("review"):
        _bulk(rows)


def _bulk(rows: pd.DataFrame) -> None:
    chosen = rows.iloc[[at for at in st.session_state["cases"].selection.rows if at < len(rows)]]
    chosen = chosen[chosen["state"] != "closed"]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.text_input("Assign what is selected to", key="bulk", placeholder="Nobody", max_chars=200)
        seen = list(zip(chosen["case_id"].tolist(), chosen["version"].tolist(), strict=True))
        st.button(
            f"Assign {len(seen)} selected",
            icon=":material/group_add:",
            disabled=not seen,
            on_click=_assign_all,
            args=(seen,),
        )


def _assign_all(seen: list[tuple[int, int]]) -> None:
    who = reviewer.name()
    if not sign_in.may("review"):
        return
    if not who:
        case.say("Say who you are, in the field Reviewer: the history keeps it.")
        return
    try:
        said = queries.assign(seen, st.session_state["bulk"], who)
    except PROBLEMS as error:
        problem = explain(error)
        case.say(f"Not done. {problem.title}. {problem.remedy}")
        return
    if said:
        why = formats.plain("; ".join(said))
        case.say(f"{len(seen) - len(said)} of {len(seen)} assigned. Not done: {why}.")


def _select(rows: pd.DataFrame) -> None:
    """Open the case that was selected; of several, the one that is shown stays."""
    selected = st.session_state["cases"].selection.rows
    if len(selected) == 1:
        _open(int(rows.iloc[selected[0]].case_id))


def _open(case_id: int) -> None:
    st.query_params["case"] = str(case_id)
    st.query_params.pop("application", None)


def _number(parameter: str) -> int:
    text = st.query_params.get(parameter, "")
    return int(text) if text.isdecimal() and len(text) < 19 else 0


def _chosen(found: Queue, loan_id: str | None) -> tuple[int | None, Key | None]:
    """The case in the address, or of the application there; a search with one result needs no
    click, and shows no case of another loan, where a review would go to the wrong one."""
    known = set(found.rows["case_id"].tolist())
    case_id = _number("case")
    if case_id and loan_id and case_id not in known:
        st.query_params.pop("case")
        case_id = 0
    if case_id:
        return case_id, None
    parts = st.query_params.get("application", "").split("-")
    if len(parts) == 3 and all(part.isdecimal() and len(part) < 19 for part in parts):
        key: Key = (int(parts[0]), int(parts[1]), int(parts[2]))
        if key[0] < 2**31 and key[1] < 2**31:
            of_key = queries.case_of(key)
            if not loan_id or of_key in known:
                return of_key, key
        st.query_params.pop("application")
    if loan_id and len(found.rows):
        return int(found.rows.iloc[0]["case_id"]), None
    return None, application.newest_decision(loan_id) if loan_id else None


def _details(case_id: int) -> None:
    found = queries.whole(case_id, viewer_zone())
    if found is None:
        st.warning(
            f"There is no case {case_id}: the link is wrong, or retention removed it.",
            icon=":material/search_off:",
        )
        return
    with panel(f"Loan {formats.plain(found.case.loan_id or formats.UNKNOWN)}"):
        case.show(found.case, found.history)


def _decision(case_id: int | None, key: Key | None) -> None:
    """The newest decision on the loan of a case, or the one of a link."""
    whole = queries.whole(case_id, viewer_zone()) if case_id is not None else None
    if key is None:
        if whole is not None and whole.application is None:
            st.caption("Retention removed the decisions on this loan; the case has what it needs.")
        found = whole.application if whole else None
    else:
        found = application.application(key, viewer_zone())
        if found is None:
            st.warning(
                f"There is no application {'-'.join(map(str, key))}: the link is wrong, or "
                "retention removed it.",
                icon=":material/search_off:",
            )
        elif whole is None:
            loan = formats.plain(found.row["loan_id"] or formats.UNKNOWN)
            st.header(f"Loan {loan}", anchor=False)
            st.caption("It has no case: it was not on the Watchlist, or before there were any.")
    if found is not None:
        decision.show(found)
