"""Policy lab: what another policy would have decided on the newest applications.

All that it writes is a candidate's submission.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.intervals import Interval
from credit_risk_dagster.domain.policy import TIERS, Policy
from credit_risk_dagster.domain.policy_lab import (
    Applications,
    Comparison,
    NotInTheLab,
    Verdict,
    compare,
    lab_numbers,
    outcome_codes,
)
from dashboard.charts import policy as charts
from dashboard.charts.policy import ACTIVE, CANDIDATE, MOVES
from dashboard.charts.theme import swatch
from dashboard.charts.vocabulary import TIME_FORMAT
from dashboard.data import policy_lab as queries
from dashboard.parts import formats, sign_in, tables
from dashboard.parts.chart import show
from dashboard.parts.experiments import experiments
from dashboard.parts.layout import figure, panel
from dashboard.parts.live import guarded, viewer_zone
from dashboard.parts.policy_life import history, submission
from dashboard.parts.policy_sliders import changes, controls

DEFAULT_SIZE = 100_000
DEFINITIONS = tuple(queries.OUTCOME_DEFINITIONS)
_AGAINST = "against active"
_FLAGGED_SHARE, _RECALL = "Flagged share", "Recall: bad loans that are flagged"


def page() -> None:
    """Draw the page."""
    st.title("Policy lab", anchor=False)
    st.markdown(
        "What would another policy have decided? Move a threshold, or upload a policy, and see it "
        "on the newest applications. Nothing is changed: a candidate decides once it was "
        "submitted, approved by somebody else, and activated."
    )
    _body()
    experiments(st.session_state.get("outcome") or DEFINITIONS[0])
    history()


@guarded
def _body() -> None:
    size, definition = _choices()
    active = queries.active_policy()
    if active is None:
        queries.active_policy.clear()
        st.info(
            "**No scored applications yet.** Stream some with `make demo`, or with `credit-risk "
            "produce` while the pipeline runs; then the lab compares policies on them.",
            icon=":material/science:",
        )
        return
    outcome = queries.OUTCOME_DEFINITIONS[definition]
    left, right = st.columns([1, 2], gap="medium")
    with left:
        candidate = controls(active)
    with right:
        if candidate is None:
            return
        try:
            numbers = lab_numbers(active, candidate)
        except NotInTheLab as error:
            st.info(formats.plain(str(error)), icon=":material/science:")
            return
        sample = queries.lab_sample(size, queries.readings()[0], numbers)
        bad = outcome_codes(outcome, queries.STATUSES)[sample.status]
        applications = Applications(sample.numbers, sample.of_two, bad)
        _results(sample, applications, active, candidate, outcome.name)


def _choices() -> tuple[int, str]:
    """How many applications, and the outcome definition."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        size = st.segmented_control(
            "Newest applications",
            queries.LAB_SIZES,
            format_func=formats.count,
            default=DEFAULT_SIZE,
            required=True,
            key="applications",
            bind="query-params",
        )
        definition = st.segmented_control(
            "A loan is bad by",
            DEFINITIONS,
            format_func=formats.words,
            default=DEFINITIONS[0],
            required=True,
            key="outcome",
            bind="query-params",
            help="The outcome definition: which loan statuses count as bad and as good.",
        )
        st.button(
            "Read again",
            icon=":material/refresh:",
            on_click=_read_again,
            help="Take in the applications that came since.",
        )
    return size or DEFAULT_SIZE, definition or DEFINITIONS[0]


def _read_again() -> None:
    queries.readings()[0] += 1


def _results(
    sample: queries.LabSample,
    applications: Applications,
    active: Policy,
    candidate: Policy,
    outcome: str,
) -> None:
    compared = compare(applications, active, candidate)
    zone = viewer_zone()
    oldest, newest = (f"{sample.scored_at(at).tz_convert(zone):{TIME_FORMAT}}" for at in (-1, 0))
    caption = (
        f"{formats.counted(compared.applications, 'application')}, of each loan the newest, scored "
        f"from {oldest} to {newest}, "
        f"as of {sample.as_of.tz_convert(zone):{TIME_FORMAT}} ({zone})"
    )
    st.markdown(changes(active, candidate))
    _key_figures(compared)
    if candidate != active:
        submission(candidate, compared)
    left, right = st.columns(2)
    with panel("Tiers", caption, left):
        show(
            charts.tiers(),
            _tier_bars(compared),
            "Bars: share of each tier under the active policy and under the candidate",
        )
    with panel("Who moves", caption, right):
        show(
            charts.moves(),
            _moves(compared),
            "Table: applications by tier under the active policy and under the candidate",
        )
    with panel(
        "Active and candidate",
        f"In brackets 95 % intervals. Recall, precision and bad rates are of the "
        f"{formats.counted(compared.known, 'application')} whose outcome is known by {outcome}, "
        f"{formats.count(compared.bads)} of them bad. {caption}",
    ):
        st.table(_figures_table(compared))
    with panel(
        "Who enters and who leaves the Watchlist",
        f"The newest {queries.LAB_ROWS} at most. {caption}",
    ):
        if sign_in.may_see():
            _movers(sample, applications, compared, active, candidate)


def _key_figures(compared: Comparison) -> None:
    before, after = compared.active, compared.candidate
    precision_change = after.precision.value - before.precision.value
    nothing_known = "no known outcomes" if not compared.known else None
    with st.grid(3, min_column_width=170):
        figure(
            f"{swatch(TIERS[-1])} Flagged share",
            formats.percent(after.flagged_share.value),
            f"{formats.points(compared.flagged_change.value)} {_AGAINST}",
        )
        figure("Enter the Watchlist", formats.count(len(compared.entering)), "not flagged today")
        figure("Leave the Watchlist", formats.count(len(compared.leaving)), "flagged today")
        figure(
            "Bad loans caught (recall)",
            formats.percent(after.recall.value),
            nothing_known or f"{formats.points(compared.recall_change.value)} {_AGAINST}",
        )
        figure(
            "Bad among flagged (precision)",
            formats.percent(after.precision.value),
            nothing_known or f"{formats.points(precision_change)} {_AGAINST}",
        )
        figure(
            "Exposure on the Watchlist",
            formats.dollars(after.exposure),
            f"{formats.dollars(after.exposure - before.exposure, signed=True)} {_AGAINST}",
        )


def _figures_table(compared: Comparison) -> pd.DataFrame:
    """Every figure of both policies, and the change where it has an interval, as text."""
    table = pd.DataFrame(
        {ACTIVE: _figures(compared.active), CANDIDATE: _figures(compared.candidate)}
    )
    table["Change"] = ""
    for row, change in (
        (_FLAGGED_SHARE, compared.flagged_change),
        (_RECALL, compared.recall_change),
    ):
        table.loc[row, "Change"] = _interval(change, formats.points)
    return table


def _figures(verdict: Verdict) -> dict[str, str]:
    worst_first = range(len(TIERS) - 1, -1, -1)
    return {
        "Flagged": formats.count(verdict.flagged),
        _FLAGGED_SHARE: _interval(verdict.flagged_share),
        _RECALL: _interval(verdict.recall),
        "Precision: bad loans among the flagged": _interval(verdict.precision),
        **{f"Bad rate, {TIERS[tier]}": _interval(verdict.bad_rate(tier)) for tier in worst_first},
        **{
            f"Amount applied for, {TIERS[tier]}": formats.dollars(verdict.amounts[tier])
            for tier in worst_first
        },
    }


def _interval(found: Interval, write: Callable[[float], str] = formats.percent) -> str:
    return formats.interval(found.value, found.low, found.high, write)


def _tier_bars(compared: Comparison) -> pd.DataFrame:
    bars = pd.concat(
        {
            policy: pd.DataFrame({"tier": TIERS, "applications": verdict.tiers})
            for policy, verdict in ((ACTIVE, compared.active), (CANDIDATE, compared.candidate))
        },
        names=["policy"],
    ).reset_index()
    bars["share"] = bars["applications"] / compared.applications
    bars["text"] = bars["policy"] + " " + bars["share"].map(formats.percent)
    return bars


def _moves(compared: Comparison) -> pd.DataFrame:
    """A row for each pair of tiers."""
    before, after = np.divmod(np.arange(len(TIERS) ** 2), len(TIERS))
    return pd.DataFrame(
        {
            "active": np.take(TIERS, before),
            "candidate": np.take(TIERS, after),
            "move": np.take(MOVES, np.sign(after - before) + 1),
            "applications": compared.moves.ravel(),
            "amount": compared.amounts.ravel(),
        }
    )


def _movers(
    sample: queries.LabSample,
    applications: Applications,
    compared: Comparison,
    active: Policy,
    candidate: Policy,
) -> None:
    """Tables of those who enter and those who leave."""
    entering, leaving = compared.entering, compared.leaving
    tabs = st.tabs(
        [f"Enter ({formats.count(len(entering))})", f"Leave ({formats.count(len(leaving))})"]
    )
    for tab, positions, flagging, other, nobody in (
        (tabs[0], entering, candidate, active, "Nobody enters the Watchlist."),
        (tabs[1], leaving, active, candidate, "Nobody leaves the Watchlist."),
    ):
        with tab:
            if not len(positions):
                st.write(nobody)
                continue
            table = queries.lab_applications(sample, positions[: queries.LAB_ROWS])
            _movers_table(applications[table["position"].to_numpy()], table, flagging, other)


def _movers_table(
    applications: Applications, found: pd.DataFrame, flagging: Policy, other: Policy
) -> None:
    reasons = [
        [formats.reason(code) for code in codes]
        for codes in applications.decisions(flagging).reasons().to_pylist()
    ]
    tables.table(
        found.assign(
            scored_at=pd.to_datetime(found["scored_at"], utc=True).dt.tz_convert(viewer_zone()),
            otherwise=np.take(TIERS, applications.decisions(other).tier),
            reasons=pd.Series(reasons, index=found.index, dtype=object),
            purpose=found["purpose"].map(formats.words),
        ),
        {
            "loan_id": tables.name("Loan"),
            "scored_at": tables.second("Scored"),
            "loan_amnt": tables.dollars("Amount"),
            "otherwise": tables.text(
                "Otherwise", help="The tier under the policy that does not flag it"
            ),
            "reasons": st.column_config.ListColumn("Why it is flagged", width="large"),
            "loan_status": tables.text(
                "Outcome so far", help="The loan's status, where it is known"
            ),
            "dti": tables.percent("DTI"),
            "revol_util": tables.percent("Utilization"),
            "int_rate": tables.percent("Rate"),
            "grade": "Grade",
            "purpose": "Purpose",
            "addr_state": "State",
        },
        "Applications that only one of the policies flags",
    )
