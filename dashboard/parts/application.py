"""A decision on a page: what was decided, its place in the population, where it came from."""

from typing import Any

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.model.outcome import probability_of
from dashboard.charts.theme import TIER_COLOURS, swatch
from dashboard.data import application
from dashboard.data.application import Application, Population
from dashboard.parts import formats, orchestration, tables
from dashboard.parts.layout import panel
from dashboard.parts.live import viewer_zone

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


def show(found: Application) -> None:
    """Draw a decision, with every other one on its loan."""
    people = application.population()
    with panel("The newest decision" if found.row["loan_id"] else "The decision"):
        _verdict(found.row)
        left, right = st.columns([3, 2], gap="large")
        with left:
            st.subheader("Against the population", anchor=False)
            _features(found.row, people)
        with right:
            _provenance(found)
            st.subheader("Decisions on this loan", anchor=False)
            _decisions(found)


def _verdict(row: dict[str, Any]) -> None:
    reasons = formats.plain(", ".join(formats.reason(code) for code in row["reasons"]))
    tier = row["risk_tier"]
    st.markdown(
        f"{swatch(tier)} **{tier}**"
        + (f": {reasons}." if reasons else ", without an early warning.")
        + (f" The policy recommends: **{row['recommendation']}**." if row["recommendation"] else "")
        + f" {formats.plain(formats.words(row['purpose']))}, "
        + formats.plain(
            f"grade {row['grade'] or formats.UNKNOWN}, {row['addr_state'] or formats.UNKNOWN}, "
            f"{(row['home_ownership'] or formats.UNKNOWN).lower()}."
        )
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
    st.markdown(f"{formats.plain(name.capitalize())} **{formats.percent(row['pd'])}** ({horizon}).")
    if row["pd_reasons"]:
        st.caption(
            f"What raises it, for staff: {formats.plain(', '.join(row['pd_reasons']))}. "
            "The decision is the policy's, and its reasons are the ones above."
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
        "Policy": formats.code(row["policy"]),
        **({"Arm": formats.code(row["arm"])} if row["arm"] else {}),
        "Model": formats.code(row["model"]) if row["model"] else formats.UNKNOWN,
        "Dagster run": run,
        "Batch": formats.count(row["batch_id"]),
        "Topic": f"{formats.code(row['topic'])} of cluster {formats.code(row['cluster_id'])}, "
        f"partition {row['partition']}, offset {row['offset']}",
    }
    if found.redriven:
        lines["Re-driven"] = (
            f"rejected at first ({formats.code(found.redriven['reason'])}), scored by run "
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
