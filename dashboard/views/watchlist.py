"""Watchlist: who was flagged, why, what is known of them, and who looked at it."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.outcome import probability_of
from dashboard.charts.theme import TIER_COLOURS, swatch
from dashboard.data import application
from dashboard.data import watchlist as queries
from dashboard.data.application import Application, Key, Population
from dashboard.data.segments import purposes
from dashboard.data.watchlist import Flagged
from dashboard.parts import filters, formats, orchestration, sign_in, tables
from dashboard.parts.layout import head, panel
from dashboard.parts.live import guarded, live, viewer_zone
from dashboard.parts.periods import DEFAULT_PERIOD, PERIODS

_UNTIL = "watchlist_until"
FEATURES = {
    "loan_amnt": ("Loan amount", formats.usd),
    "annual_inc": ("Annual income", formats.usd),
    "dti": ("Debt to income", formats.number_percent),
    "int_rate": ("Interest rate", formats.number_percent),
    "revol_util": ("Revolving utilization", formats.number_percent),
    "delinq_2yrs": ("Delinquencies, 2 years", formats.number),
    "inq_last_6mths": ("Inquiries, 6 months", formats.number),
    "credit_history_years": ("Credit history", formats.years),
    "emp_length_yrs": ("Employment", formats.years),
    "term_months": ("Term", formats.term),
}
_OF_TWO = {
    "combined": "Both borrowers' income and DTI decided",
    "mixed": "Both borrowers' figures decided as far as they were known, else the first borrower's",
    "primary": "The first borrower's income and DTI decided, as the policy says",
    "fallback": "The first borrower's income and DTI decided: both borrowers' were not known",
}
BANDS = {"dti": "dti_band", "revol_util": "util_band", "int_rate": "rate_band"}


def page() -> None:
    """Draw the page."""
    with head("Watchlist"):
        period = filters.period(DEFAULT_PERIOD, list(PERIODS))
    _content(period)


# Not live: rows that move away below the pointer are of no use. What is new is announced.
@guarded
def _content(period: str) -> None:
    segment = filters.segment(purposes())
    with st.grid(4, min_column_width=170, gap="small"):
        reasons = st.multiselect(
            "Reason",
            queries.reason_codes(),
            format_func=formats.reason,
            placeholder="Any",
            key="reason",
            bind="query-params",
        )
        review = st.selectbox("Review", queries.REVIEW_STATES, key="review", bind="query-params")
        sort = st.selectbox("Sort by", list(queries.SORTS), key="sort", bind="query-params")
        loan_id = st.text_input(
            "Find a loan",
            placeholder="Loan id, of any tier",
            key="loan",
            bind="query-params",
            max_chars=40,
        )
    until = st.session_state.setdefault(_UNTIL, pd.Timestamp.now(tz="UTC"))
    length = PERIODS[period].length
    flagged = Flagged(
        until=until.to_pydatetime(),
        since=None if length is None else (until - length).to_pydatetime(),
        segment=segment,
        reasons=tuple(reasons),
        review=review,
        sort=sort,
        loan_id=loan_id.strip(),
    )
    zone = viewer_zone()
    found = queries.watchlist(flagged, zone)
    _heading(flagged, found, period, until.tz_convert(zone))
    if found.rows.empty:
        _nothing(flagged, period)
    else:
        _table(found.rows, any_tier=bool(flagged.loan_id))
    key = _chosen(found.rows, searched=bool(flagged.loan_id))
    if key is not None:
        _detail(key)


def _heading(flagged: Flagged, found: queries.Watchlist, period: str, until: pd.Timestamp) -> None:
    when = PERIODS[period].words
    what = (
        f"Decisions on loan {flagged.loan_id}, of any tier and time"
        if flagged.loan_id
        else f"{filters.describe(flagged.segment)}, flagged {when}"
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(
            f"{swatch('Watchlist')} **{formats.counted(found.matching, 'application')}**, "
            f"{formats.dollars(found.loan_amnt)} in all.".replace("$", "\\$")
            + f" {what}. As of {until:%-d %b %H:%M:%S} ({until.tz})."
        )
        allowed = sign_in.may("export")
        st.download_button(
            "Export CSV",
            partial(queries.watchlist_csv, flagged) if allowed else b"",
            file_name=f"watchlist-{until:%Y%m%dT%H%M%S}.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
            disabled=not (found.matching and allowed),
        )
        _newer(until)
    if found.matching > len(found.rows):
        st.caption(
            f"The table has the first {formats.count(len(found.rows))}; the export has all"
            + (
                "."
                if found.matching <= queries.EXPORT_ROWS
                else f" up to {formats.count(queries.EXPORT_ROWS)}: narrow the filter for the rest."
            )
        )


@live
def _newer(until: pd.Timestamp) -> None:
    newer = queries.newer_on_watchlist(until.to_pydatetime())
    label = f"Show {formats.count(newer)} newer" if newer else "Up to date"
    if st.button(label, icon=":material/refresh:", key="refresh", disabled=not newer):
        st.session_state[_UNTIL] = pd.Timestamp.now(tz="UTC")
        st.rerun()


def _nothing(flagged: Flagged, period: str) -> None:
    if flagged.loan_id:
        st.info(f"No application has the loan id {flagged.loan_id}.", icon=":material/search_off:")
        return
    narrowed = flagged.segment or flagged.reasons or flagged.review != "All"
    st.info(
        f"No application was flagged {PERIODS[period].words}"
        + (" that fits the filters: remove some, or choose a longer period." if narrowed else ". ")
        + (
            ""
            if narrowed
            else "Flagged ones are announced here; `make demo` streams applications, of which "
            "about one in 28 is flagged (356 of 10,000)."
        ),
        icon=":material/flag:",
    )


def _table(rows: pd.DataFrame, *, any_tier: bool) -> None:
    tables.table(
        rows.assign(
            reasons=rows["reasons"].map(lambda codes: [formats.reason(code) for code in codes]),
            purpose=rows["purpose"].map(formats.words),
            pd=100 * rows["pd"].astype(float),
            reviewed=rows["reviewer"].fillna(""),
        ),
        {
            "loan_id": tables.name("Loan"),
            "scored_at": tables.second("Scored"),
            **({"risk_tier": "Tier"} if any_tier else {}),
            "loan_amnt": tables.dollars("Amount"),
            "dti": tables.percent("DTI", help="Debt payments over income"),
            "int_rate": tables.percent("Rate", help="Interest rate of the loan"),
            "revol_util": tables.percent("Utilization", help="Used share of revolving credit"),
            "pd": tables.percent(
                "PD",
                help="Probability of the active model's outcome, which its "
                "benchmark names; open an application to see it with its horizon",
            ),
            "reasons": st.column_config.ListColumn("Why it was flagged", width=240),  # two reasons
            "grade": "Grade",
            "purpose": "Purpose",
            "addr_state": "State",
            "reviewed": tables.text("Reviewed by"),
        },
        "The applications that match, with why they were flagged",
        key="watchlist",
        on_select=partial(_select, rows),
        selection_mode="single-row",
        height=380,
    )


def _select(rows: pd.DataFrame) -> None:
    """Put the selected application into the address, or none."""
    selected = st.session_state["watchlist"].selection.rows
    if selected:
        row = rows.iloc[selected[0]]
        st.query_params["application"] = f"{row.source_id}-{row.partition}-{row.offset}"
    else:
        st.query_params.pop("application", None)


def _chosen(rows: pd.DataFrame, *, searched: bool) -> Key | None:
    """The application in the address; a search with one result needs no click, and shows no panel
    of another loan, where a review would go to the wrong one."""
    parts = st.query_params.get("application", "").split("-")
    if len(parts) == 3 and all(part.isdecimal() and len(part) < 19 for part in parts):
        source, partition, offset = map(int, parts)
        names = ["source_id", "partition", "offset"]
        if not searched or (rows[names] == (source, partition, offset)).all(axis=1).any():
            return source, partition, offset
        st.query_params.pop("application", None)
    if len(rows) == 1:
        row = rows.iloc[0]
        return int(row["source_id"]), int(row["partition"]), int(row["offset"])
    return None


@guarded
def _detail(key: Key) -> None:
    found = application.application(key, viewer_zone())
    if found is None:
        st.warning(
            "There is no application {}-{}-{}: the link is wrong, or retention removed it.".format(
                *key
            ),
            icon=":material/search_off:",
        )
        return
    people = application.population()
    row = found.row
    with panel(f"Loan {row['loan_id'] or formats.UNKNOWN}"):
        _verdict(row)
        left, right = st.columns([3, 2], gap="large")
        with left:
            st.subheader("Against the population", anchor=False)
            _features(row, people)
        with right:
            _provenance(found)
        left, right = st.columns([3, 2], gap="large")
        with left:
            st.subheader("Decisions on this loan", anchor=False)
            _decisions(found)
        with right:
            st.subheader("Reviews", anchor=False)
            _reviews(key, found)


def _verdict(row: dict[str, Any]) -> None:
    reasons = ", ".join(formats.reason(code) for code in row["reasons"])
    tier = row["risk_tier"]
    st.markdown(
        f"{swatch(tier)} **{tier}**"
        + (f": {reasons}." if reasons else ", without an early warning.")
        + (f" The policy recommends: **{row['recommendation']}**." if row["recommendation"] else "")
        + f" {formats.words(row['purpose'])}, grade {row['grade'] or formats.UNKNOWN}, "
        f"{row['addr_state'] or formats.UNKNOWN}, "
        f"{(row['home_ownership'] or formats.UNKNOWN).lower()}."
    )
    if row["figures"]:
        income, dti = ("annual_inc", formats.usd), ("dti", formats.number_percent)
        known = {
            whose: ", ".join(
                formats.UNKNOWN
                if row[f"{name}_{whose}"] is None
                else written(row[f"{name}_{whose}"])
                for name, written in (income, dti)
            )
            for whose in ("joint", "primary")
        }
        st.markdown(
            f"Joint application. {_OF_TWO[row['figures']]}. Income and DTI of both: "
            f"{known['joint']}; of the first borrower: {known['primary']}.".replace("$", "\\$")
        )
    if row["pd"] is None:
        st.caption("No PD: no model was active when it was scored.")
        return
    name, horizon = probability_of(row["outcome"] or "the outcome")
    st.markdown(f"{name.capitalize()} **{formats.percent(row['pd'])}** ({horizon}).")
    if row["pd_reasons"]:
        st.caption(
            f"What raises it, for staff: {', '.join(row['pd_reasons'])}. The decision is the "
            "policy's, and its reasons are the ones above."
        )


def _features(row: dict[str, Any], people: Population) -> None:
    """Each number, its band, and where it is among the applications of late."""
    rows = []
    for name, (label, written) in FEATURES.items():
        rank = people.rank(name, row[name])
        rows.append(
            {
                "Feature": label,
                "Value": formats.UNKNOWN if row[name] is None else written(row[name]),
                "Band": row[BANDS[name]] or formats.UNKNOWN if name in BANDS else "",
                "Percentile": None if rank is None else round(100 * rank),
            }
        )
    percentile = st.column_config.ProgressColumn(
        "Percentile", format="%d", min_value=0, max_value=100, color=TIER_COLOURS["Low"]
    )
    tables.table(
        pd.DataFrame(rows),
        {"Feature": "Feature", "Value": "Value", "Band": "Band", "Percentile": percentile},
        "Features of the application, with their percentile in the population",
        key="features",
    )
    st.caption(
        f"Percentile: the share of the newest {formats.count(people.applications)} applications "
        "that have a lower value, and half of those with the same."
    )


def _provenance(found: Application) -> None:
    row = found.row
    st.subheader("Where it came from", anchor=False)
    run = f"[{row['run_id'][:8]}]({orchestration.run_url(row['run_id'])})" if row["run_id"] else "–"
    scored_at = pd.Timestamp(row["scored_at"]).tz_convert(viewer_zone())
    lines = {
        "Scored": f"{scored_at:%-d %b %Y %H:%M:%S} ({scored_at.tz})",
        "Policy": f"`{row['policy']}`",
        **({"Arm": f"`{row['arm']}`"} if row["arm"] else {}),
        "Model": f"`{row['model']}`" if row["model"] else formats.UNKNOWN,
        "Dagster run": run,
        "Batch": formats.count(row["batch_id"]),
        "Topic": f"`{row['topic']}` of cluster `{row['cluster_id']}`, partition "
        f"{row['partition']}, offset {row['offset']}",
    }
    if found.redriven:
        lines["Re-driven"] = (
            f"rejected at first (`{found.redriven['reason']}`), scored by run "
            f"[{found.redriven['run_id'][:8]}]({orchestration.run_url(found.redriven['run_id'])})"
        )
    st.markdown("\n".join(f"- {name}: {value}" for name, value in lines.items()))


def _decisions(found: Application) -> None:
    if found.decisions.empty:
        st.caption("The event had no loan id, so that no other decision can be found.")
        return
    tables.table(
        found.decisions.assign(pd=100 * found.decisions["pd"].astype(float)),
        {
            "scored_at": tables.second("Scored", format="D MMM YYYY HH:mm:ss"),
            "risk_tier": "Tier",
            "pd": tables.percent("PD"),
            "policy": "Policy",
            "partition": "Partition",
            "offset": tables.plain("Offset"),
        },
        "Every decision on the same loan, newest first",
        key="decisions",
    )


def _reviews(key: Key, found: Application) -> None:
    for review in found.reviews.itertuples():
        with st.container(border=True):
            st.markdown(
                f"**{formats.plain(str(review.reviewer))}**, {review.reviewed_at:%-d %b %Y %H:%M}"
            )
            st.text(str(review.note))
    if found.reviews.empty:
        st.caption("Nobody has reviewed this application yet.")
    signed_in = sign_in.email()
    with st.form(f"review of {'-'.join(map(str, key))}", clear_on_submit=True, border=False):
        reviewer = st.text_input(
            "Reviewer", value=signed_in or "", disabled=bool(signed_in), max_chars=200
        )
        note = st.text_area("Note", max_chars=2000, height=90)
        allowed = sign_in.may("review")  # asked again: a browser can press what is disabled
        button = partial(st.form_submit_button, icon=":material/check:", disabled=not allowed)
        if button("Mark as reviewed") and allowed:
            if not (reviewer and reviewer.strip() and note and note.strip()):
                st.error("A review needs a name and a note.", icon=":material/error:")
                return
            application.review(key, reviewer, note)
            st.rerun()
