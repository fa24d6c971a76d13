"""A case on a page: as what it stands, what can be done to it, and what was done."""

from datetime import datetime

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.cases import DISPOSITIONS
from dashboard.data import cases as queries
from dashboard.data.connection import PROBLEMS
from dashboard.parts import formats, reviewer, sign_in
from dashboard.parts.live import explain, viewer_zone
from resources.postgres.cases import Case, CaseEvent, CaseProblem

_SAID = "case_said"
_DONE = {
    "assign": "gave it to",
    "start": "began to review it",
    "note": "noted",
    "close": "closed it as",
    "reopen": "opened it again",
}
STATES = {"open": "Open", "in_review": "In review", "closed": "Closed"}
_COLOURS = {"open": "orange", "in_review": "blue", "closed": "gray"}


def show(case: Case, history: list[CaseEvent]) -> None:
    """Draw a case; who may not review sees as what it stands."""
    _stands(case)
    if not sign_in.may("review"):
        st.caption("What was noted, and what can be done, is for who may review.")
        return
    _actions(case)
    _history(history)


def say(what: str) -> None:
    """Have something told, once."""
    st.session_state[_SAID] = what


def tell() -> None:
    """Draw what was to be told."""
    if said := st.session_state.pop(_SAID, None):
        st.error(said, icon=":material/error:")


def _stands(case: Case) -> None:
    zone = viewer_zone()
    badges = f":{_COLOURS[case.state]}-badge[{STATES[case.state]}]"
    if case.overdue:
        badges += " :red-badge[Overdue]"
    whose = formats.plain(case.assignee) if case.assignee else "nobody"
    st.markdown(
        f"{badges} Case {case.case_id}, of **{whose}**. "
        + f"{formats.usd(case.loan_amnt)}, of which {formats.usd(case.priority)} may be lost"
        f"{'' if case.pd is not None else ', 20 %, as no model scored it'}. ".replace("$", "\\$")
        + f"Opened {_time(case.opened_at, zone)}, due {_time(case.due_at, zone)}; "
        + f"{formats.counted(case.decisions, 'Watchlist decision')} joined it."
    )
    reasons = ", ".join(formats.reason(code) for code in case.reasons)
    st.markdown(formats.plain(reasons) or formats.UNKNOWN)


def _actions(case: Case) -> None:
    seen = (case.case_id, case.version)
    if case.state == "closed":
        note = f"note {case.case_id}"
        st.text_area("Why it is opened again", key=note, max_chars=2000, height=80)
        st.button(
            "Open again", icon=":material/lock_open:", on_click=_do, args=(*seen, "reopen", note)
        )
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.button(
            "Start review" if case.assignee != reviewer.name() else "Review it",
            shortcut="S",
            icon=":material/play_arrow:",
            on_click=_do,
            args=(*seen, "start"),
            disabled=case.state == "in_review" and case.assignee == reviewer.name(),
        )
        to = f"assignee {case.case_id}"
        st.text_input(
            "Assign to",
            case.assignee or reviewer.name(),
            key=to,
            max_chars=200,
            placeholder="Nobody",
        )
        st.button("Assign", on_click=_assign, args=(*seen, to))
    disposition = st.selectbox(
        "Found",
        list(DISPOSITIONS),
        format_func=formats.words,
        index=None,
        placeholder="What it is closed as",
        key=f"disposition {case.case_id}",
    )
    if disposition:
        st.selectbox(
            "Because",
            DISPOSITIONS[disposition],
            format_func=formats.words,
            index=None,
            placeholder="A reason",
            key=f"reason {case.case_id} {disposition}",
        )
    note = f"note {case.case_id}"
    st.text_area("Note", key=note, max_chars=2000, height=80)
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Close case",
            shortcut="X",
            type="primary",
            icon=":material/check:",
            on_click=_close,
            args=seen,
        )
        st.button("Add note", icon=":material/notes:", on_click=_do, args=(*seen, "note", note))


def _history(history: list[CaseEvent]) -> None:
    st.subheader("History", anchor=False)
    if not history:
        st.caption("Nobody did anything yet.")
    zone = viewer_zone()
    for event in reversed(history):
        with st.container(border=True, gap="small"):
            st.markdown(
                f"**{formats.plain(event.who)}** {_DONE[event.action]}{_what(event)}, "
                f"{_time(event.at, zone)}"
            )
            if event.note:
                st.text(event.note)


def _what(event: CaseEvent) -> str:
    if event.action == "assign":
        return " " + (formats.plain(event.assignee) if event.assignee else "nobody")
    if event.action == "close":
        found, why = formats.words(event.disposition), formats.words(event.reason_code)
        return f" {found.lower()} ({why.lower()})"
    return ""


def _time(moment: datetime, zone: str) -> str:
    return f"{pd.Timestamp(moment).tz_convert(zone):%-d %b %H:%M}"


# --- what buttons do: with the version that was seen when they were drawn -------------------------


def _close(case_id: int, version: int) -> None:
    found = st.session_state.get(f"disposition {case_id}")
    why = st.session_state.get(f"reason {case_id} {found}")
    _do(case_id, version, "close", f"note {case_id}", disposition=found, reason_code=why)


def _assign(case_id: int, version: int, to: str) -> None:
    _do(case_id, version, "assign", assignee=st.session_state.get(to, ""))


def _do(case_id: int, version: int, action: str, note: str = "", **what: str | None) -> None:
    if not sign_in.may("review"):  # asked again: a browser can press what is not there
        return
    who = reviewer.name()
    if not who:
        say("Say who you are, in the field Reviewer: the history keeps it.")
        return
    text = str(st.session_state.get(note, "")).strip() if note else ""
    if text:
        what["note"] = text
    try:
        queries.act(case_id, version, action, who, **what)
    except CaseProblem as error:
        say(f"Not done: {formats.plain(str(error))}. It is shown as it is now.")
    except PROBLEMS as error:
        problem = explain(error)
        say(f"Not done. {problem.title}. {problem.remedy}")
    else:
        if note:
            st.session_state[note] = ""
