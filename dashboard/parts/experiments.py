"""Experiments on the page: the arms of a split by outcome, and a shadow beside what was decided."""

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.intervals import Interval, share
from credit_risk_dagster.domain.shadow import PD_BANDS, STATES
from credit_risk_dagster.pipelines.experiment_results import MEASURES, Arm, change
from credit_risk_dagster.pipelines.experiments import ExperimentLife
from dashboard.data import experiments as queries
from dashboard.parts import formats, sign_in, tables
from dashboard.parts.layout import figure, panel
from dashboard.parts.live import guarded, viewer_zone
from resources.postgres.shadow import Cell


@guarded
def experiments(definition: str) -> None:
    """Every experiment, and what came of the chosen one.

    Args:
        definition: which loan is bad, of the page's outcome definitions.
    """
    found = {life.experiment.experiment_id: life for life in queries.lives()}
    if not found:
        st.caption(
            "No experiment yet: `credit-risk experiment submit` lets a candidate decide a share of "
            "the live traffic, or beside it."
        )
        return
    with panel("Experiments", "Candidates on live traffic, the newest first."):
        chosen = st.selectbox(
            "Experiment",
            list(found),
            format_func=lambda at: f"{at}: {found[at].experiment.words}, {found[at].state}",
            key="experiment",
        )
        _history(found[chosen])
        if found[chosen].experiment.share is None:
            _shadow(found[chosen])
        else:
            _split(found[chosen], definition)


def _history(life: ExperimentLife) -> None:
    for given in life.approvals:
        when = given.decided_at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        st.caption(formats.plain(f"{when}: {given.action} by {given.who}: {given.why}"))


def _split(life: ExperimentLife, definition: str) -> None:
    arms = queries.arms(life.experiment.experiment_id, definition)
    if not any(arm.loans for arm in arms):
        st.write("No application was dealt to an arm yet.")
        return
    st.table(arms_table(arms))
    st.caption(
        "Since it was last started, each loan by its first decision in it; in brackets 95 % "
        f"intervals (Wilson; of the change Newcombe). Bad by {formats.words(definition)}: as the "
        "loans' outcomes come in, more is known."
    )


def arms_table(arms: list[Arm]) -> pd.DataFrame:
    """Every measure of both arms, and the change, as text."""
    loans = sum(arm.loans for arm in arms)
    columns = {
        formats.words(arm.arm): {
            "Loans": f"{formats.count(arm.loans)} ({formats.percent(arm.loans / loans)})",
            "Decided by policy": ", ".join(map(str, arm.policies)),
            "Outcome known": formats.count(arm.known),
            **{words: _interval(getattr(arm, measure)) for measure, words in MEASURES.items()},
        }
        for arm in arms
    }
    table = pd.DataFrame(columns)
    table["Change"] = ""
    for measure, words in MEASURES.items():
        found = change(arms, measure)
        table.loc[words, "Change"] = formats.interval(
            found.value, found.low, found.high, formats.points
        )
    return table


def _interval(found: Interval) -> str:
    return formats.interval(found.value, found.low, found.high)


def _shadow(life: ExperimentLife) -> None:
    number = life.experiment.experiment_id
    cells, zone = queries.beside(number), viewer_zone()
    rows = queries.differences(number, zone)
    if not cells:
        st.write("It has seen no application yet.")
        return
    total = sum(cell.applications for cell in cells)
    other = share(sum(c.applications for c in cells if c.decided != c.candidate), total)
    with st.grid(3, min_column_width=170):
        figure("Decisions beside", formats.count(total))
        figure(
            "Decided otherwise",
            formats.percent(other.value),
            formats.interval(other.value, other.low, other.high),
        )
        if life.experiment.model_id:
            figure("Mean PD of the shadow", *_pds(cells))
    st.table(cells_table(cells, STATES if life.experiment.policy_id else PD_BANDS))
    st.caption(
        "Rows: what was decided. Columns: what the shadow says. Below, the newest decisions of "
        "which it says otherwise."
    )
    if not sign_in.may_see():
        return
    reasons = [[formats.reason(code) for code in found or ()] for found in rows["reasons"]]
    tables.table(
        rows.assign(reasons=pd.Series(reasons, index=rows.index, dtype=object)),
        {
            "loan_id": tables.name("Loan"),
            "scored_at": tables.second("Scored"),
            "decided": "Decided",
            "candidate": "Shadow",
            **(
                {
                    "decided_pd": tables.number("PD"),
                    "candidate_pd": tables.number("PD of the shadow"),
                }
                if life.experiment.model_id
                else {
                    "recommendation": "Its recommendation",
                    "reasons": st.column_config.ListColumn("Its reasons", width="large"),
                }
            ),
            "loan_amnt": tables.dollars("Amount"),
        },
        "Decisions of which the shadow says otherwise than what was decided",
    )


def cells_table(cells: list[Cell], labels: tuple[str, ...]) -> pd.DataFrame:
    """Decisions by what was decided (rows) and by what the shadow says, as text."""
    counts = {(cell.decided, cell.candidate): cell.applications for cell in cells}
    there = [label for label in labels if any(label in pair for pair in counts)]
    return pd.DataFrame(
        {
            column: [formats.count(counts.get((row, column), 0)) for row in there]
            for column in there
        },
        index=there,
    )


def _pds(cells: list[Cell]) -> tuple[str, str]:
    """The mean PD of a shadow, and of the active model, each over those that have one."""

    def mean(name: str) -> float:
        some = [cell for cell in cells if (getattr(cell, name) or 0) > 0]
        applications = sum(cell.applications for cell in some)
        return sum(getattr(cell, name) for cell in some) / max(applications, 1)

    return formats.percent(mean("candidate_pd")), f"{formats.percent(mean('decided_pd'))} active"
