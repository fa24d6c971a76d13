"""Policy lab: what another policy would have decided on the newest applications. Only reads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.intervals import Interval
from credit_risk_dagster.domain.model.outcome import BUILTIN_OUTCOMES
from credit_risk_dagster.domain.policy import (
    BANDS,
    TIERS,
    Policy,
    PolicyError,
    parse_policy,
    validate_policy,
)
from credit_risk_dagster.domain.policy_lab import (
    Applications,
    Comparison,
    Verdict,
    compare,
    outcome_codes,
)
from credit_risk_dagster.domain.scoring import decide
from dashboard.charts import policy as charts
from dashboard.charts.policy import ACTIVE, CANDIDATE, MOVES
from dashboard.charts.theme import swatch
from dashboard.charts.vocabulary import TIME_FORMAT
from dashboard.data import policy_lab as queries
from dashboard.parts import formats
from dashboard.parts.chart import show
from dashboard.parts.live import guarded, viewer_zone

DEFAULT_SIZE = 100_000
_MAX_UPLOAD_MB = 1
_AGAINST = "against active"
_FLAGGED_SHARE, _RECALL = "Flagged share", "Recall: bad loans that are flagged"
_PROBLEM, _READING, _CEILINGS = "lab_problem", "lab_reading", "lab_ceilings"


@dataclass(frozen=True)
class Dial:
    """A slider and the number of the policy that it sets.

    Attributes:
        key: of the slider; also its name in the page's address.
        path: where the number is in the policy's document.
        ceiling: where the slider ends, unless a policy has more.
    """

    key: str
    label: str
    path: tuple[str | int, ...]
    ceiling: float
    step: float = 0.5
    format: str = "%g %%"


def _dial(key: str, label: str, field: str, ceiling: float) -> Dial:
    return Dial(key, label, ("early_warning", field), ceiling)


def _count_dial(key: str, label: str, field: str) -> Dial:
    return Dial(key, label, ("early_warning", field), 10, 1, "%g")


STRESS = (
    _dial("dti_at_least", "DTI, at least", "dti_at_least", 60),
    _dial("util_at_least", "Utilization, at least", "revol_util_at_least", 120),
)
BEHAVIOUR = (
    _count_dial("delinq_above", "Delinquencies in 2 years, more than", "delinq_2yrs_above"),
    _count_dial("inq_at_least", "Inquiries in 6 months, at least", "inq_last_6mths_at_least"),
)
_BANDED = {"dti": ("DTI", 60.0), "revol_util": ("Utilization", 120.0), "int_rate": ("Rate", 40.0)}
EDGES = {
    title: tuple(
        Dial(f"{name}_{i + 1}", f"{BANDS[i]} up to", ("bands", name, i), ceiling)
        for i in range(len(BANDS) - 1)
    )
    for name, (title, ceiling) in _BANDED.items()
}
DIALS = (*STRESS, *BEHAVIOUR, *(dial for dials in EDGES.values() for dial in dials))
RULE_FEATURES = ("dti", "revol_util", "int_rate", "delinq_2yrs", "inq_last_6mths")


def page() -> None:
    """Draw the page."""
    st.title("Policy lab", anchor=False)
    st.markdown(
        "What would another policy have decided? Move a threshold, or upload a policy, and see it "
        "on the newest applications. Nothing is stored, and nothing is changed."
    )
    _body()


@guarded
def _body() -> None:
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
            BUILTIN_OUTCOMES,
            format_func=formats.words,
            default=BUILTIN_OUTCOMES[0],
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
    reading = st.session_state.setdefault(_READING, 0)
    sample = queries.lab_sample(size or DEFAULT_SIZE, reading)
    if sample.active is None or not len(sample.status):
        queries.lab_sample.clear()
        st.info(
            "**No scored applications yet.** Stream some with `make demo`, or with `credit-risk "
            "produce` while the pipeline runs; then the lab compares policies on them.",
            icon=":material/science:",
        )
        return
    outcome = queries.OUTCOME_DEFINITIONS[definition or BUILTIN_OUTCOMES[0]]
    applications = Applications(
        **sample.features, outcome=outcome_codes(outcome, queries.STATUSES)[sample.status]
    )
    controls, results = st.columns([1, 2], gap="medium")
    with controls:
        candidate = _controls(sample.active)
    with results:
        if candidate is not None:
            _results(sample, applications, candidate, outcome.name)


def _read_again() -> None:
    st.session_state[_READING] += 1


# --- the candidate ------------------------------------------------------------------------------


def _controls(active: Policy) -> Policy | None:
    """The candidate that the sliders describe; None when it is not valid."""
    ceilings = st.session_state.setdefault(_CEILINGS, _ceilings(active))
    content = active.model_dump(mode="json")

    def dial(spec: Dial) -> None:
        _put(
            content,
            spec.path,
            st.slider(
                spec.label,
                0.0,
                ceilings[spec.key],
                _at(content, spec.path),
                float(spec.step),
                spec.format,
                key=spec.key,
                bind="query-params",
            ),
        )

    with st.container(border=True):
        st.header("Candidate", anchor=False)
        st.markdown("**Early warning**: a stress signal")
        for spec in STRESS:
            dial(spec)
        st.markdown("and a behaviour signal")
        for spec in BEHAVIOUR:
            dial(spec)
        choices = BANDS[1:]
        content["elevated_from"] = st.selectbox(
            "Elevated from the DTI or utilization band",
            choices,
            choices.index(active.elevated_from),
            key="elevated_from",
            bind="query-params",
        )
        with st.expander("Bands"):
            for tab, dials in zip(st.tabs(list(EDGES)), EDGES.values(), strict=True):
                with tab:
                    for spec in dials:
                        dial(spec)
            st.caption("The bands of the rate decide nothing: they describe an application.")
        content["name"] = st.text_input(
            "Name of the candidate",
            f"{active.name[:52]}-candidate",
            max_chars=64,
            key="policy",
            bind="query-params",
        )
        candidate = _validated(content)
        document = "" if candidate is None else candidate.yaml
        st.download_button(
            "Download the candidate (YAML)",
            lambda: document,  # made when it is clicked: a moving slider would make one file a step
            file_name=f"{content['name']}.yaml",
            mime="application/yaml",
            icon=":material/download:",
            on_click="ignore",
            disabled=candidate is None,
            width="stretch",
        )
        if candidate is not None:
            with st.expander("The candidate as YAML"):
                st.code(candidate.yaml, language="yaml")
        st.button(
            "Back to the active policy",
            icon=":material/undo:",
            on_click=_show_policy,
            args=(active, active),
            width="stretch",
        )
        st.file_uploader(
            "Or start from a policy file (YAML)",
            type=["yaml", "yml"],
            key="lab_upload",
            max_upload_size=_MAX_UPLOAD_MB,
            on_change=_uploaded,
            args=(active,),
        )
        if problem := st.session_state.get(_PROBLEM):
            st.error(formats.plain(problem), icon=":material/rule:")
    return candidate


def _validated(content: dict[str, Any]) -> Policy | None:
    try:
        return validate_policy(content, content["name"])
    except PolicyError as error:
        st.error(formats.plain(str(error)), icon=":material/rule:")
        return None


def _uploaded(active: Policy) -> None:
    """Set the sliders to the uploaded policy, or say what is wrong with it."""
    st.session_state[_PROBLEM] = None
    file = st.session_state["lab_upload"]
    if file is None:  # it was taken away again
        return
    try:
        policy = parse_policy(file.getvalue().decode("utf-8"), file.name)
    except PolicyError as error:
        st.session_state[_PROBLEM] = str(error)
    except UnicodeDecodeError:
        st.session_state[_PROBLEM] = f"policy {file.name} is no text in UTF-8"
    else:
        _show_policy(policy, active)


def _show_policy(policy: Policy, active: Policy) -> None:
    content = policy.model_dump(mode="json")
    st.session_state[_CEILINGS] = _ceilings(policy, active)
    for spec in DIALS:
        st.session_state[spec.key] = _at(content, spec.path)
    st.session_state["elevated_from"] = policy.elevated_from
    if policy != active:
        st.session_state["policy"] = policy.name


def _ceilings(*policies: Policy) -> dict[str, float]:
    """Where each slider ends: no policy that is shown is beyond it."""
    contents = [policy.model_dump(mode="json") for policy in policies]
    return {
        spec.key: max(float(spec.ceiling), *(_at(content, spec.path) for content in contents))
        for spec in DIALS
    }


def _at(content: Mapping[str, Any], path: tuple[str | int, ...]) -> float:
    value: Any = content
    for step in path:
        value = value[step]
    return float(value)


def _put(content: dict[str, Any], path: tuple[str | int, ...], value: float) -> None:
    *parents, last = path
    inner: Any = content
    for step in parents:
        inner = inner[step]
    inner[last] = value


# --- what it would do ---------------------------------------------------------------------------


def _results(
    sample: queries.LabSample, applications: Applications, candidate: Policy, outcome: str
) -> None:
    active = sample.active
    assert active is not None  # noqa: S101 (checked before)
    compared = compare(applications, active, candidate)
    zone = viewer_zone()
    oldest, newest = (f"{sample.scored_at(at).tz_convert(zone):{TIME_FORMAT}}" for at in (-1, 0))
    caption = (
        f"{formats.count(compared.applications)} applications scored from {oldest} to {newest}, "
        f"as of {sample.as_of.tz_convert(zone):{TIME_FORMAT}} ({zone})"
    )
    st.markdown(_changes(active, candidate))
    _key_figures(compared)
    left, right = st.columns(2)
    with left.container(border=True):
        st.header("Tiers", anchor=False)
        show(
            charts.tiers(),
            _tier_bars(compared),
            "Bars: share of each tier under the active policy and under the candidate",
        )
        st.caption(caption)
    with right.container(border=True):
        st.header("Who moves", anchor=False)
        show(
            charts.moves(),
            _moves(compared),
            "Table: applications by tier under the active policy and under the candidate",
        )
        st.caption(caption)
    with st.container(border=True):
        st.header("Active and candidate", anchor=False)
        st.table(_figures_table(compared))
        st.caption(
            f"In brackets 95 % intervals. Recall, precision and bad rates are of the "
            f"{formats.count(compared.known)} applications whose outcome is known by {outcome}, "
            f"{formats.count(compared.bads)} of them bad. {caption}"
        )
    with st.container(border=True):
        st.header("Who enters and who leaves the Watchlist", anchor=False)
        _movers(sample, compared, active, candidate)
        st.caption(f"The newest {queries.LAB_ROWS} at most. {caption}")


def _changes(active: Policy, candidate: Policy) -> str:
    before, after = (policy.model_dump(mode="json") for policy in (active, candidate))
    titles = {spec.key: spec.label for spec in (*STRESS, *BEHAVIOUR)}
    for feature, dials in EDGES.items():
        titles |= {spec.key: f"{feature} band {spec.label}" for spec in dials}
    changed = [
        f"{titles[spec.key]} {_at(before, spec.path):g} → **{_at(after, spec.path):g}**"
        for spec in DIALS
        if _at(before, spec.path) != _at(after, spec.path)
    ]
    if active.elevated_from != candidate.elevated_from:
        changed.append(f"Elevated from {active.elevated_from} → **{candidate.elevated_from}**")
    against = f"against the active policy `{active.version}`"
    if not changed:
        return f"The candidate decides as the active policy `{active.version}`. Move a threshold."
    return f"{'; '.join(changed)}, {against}"


def _key_figures(compared: Comparison) -> None:
    figure = partial(st.metric, delta_color="off", delta_arrow="off", border=True)
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
    sample: queries.LabSample, compared: Comparison, active: Policy, candidate: Policy
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
            _movers_table(sample, table, flagging, other)


def _movers_table(
    sample: queries.LabSample, table: pd.DataFrame, flagging: Policy, other: Policy
) -> None:
    features = {name: sample.features[name][table["position"]] for name in RULE_FEATURES}
    reasons = [
        [formats.reason(code) for bit, code in enumerate(flagging.reason_codes) if fired >> bit & 1]
        for fired in decide(flagging, **features).reasons.tolist()
    ]
    percent = partial(st.column_config.NumberColumn, format="%.1f %%")
    st.dataframe(
        table.assign(
            scored_at=pd.to_datetime(table["scored_at"], utc=True).dt.tz_convert(viewer_zone()),
            otherwise=np.take(TIERS, decide(other, **features).tier),
            reasons=pd.Series(reasons, index=table.index, dtype=object),
            purpose=table["purpose"].map(formats.words),
        ),
        hide_index=True,
        placeholder=formats.UNKNOWN,
        column_order=(
            *("loan_id", "scored_at", "loan_amnt", "otherwise", "reasons", "loan_status"),
            *("dti", "revol_util", "int_rate", "grade", "purpose", "addr_state"),
        ),
        column_config={
            "loan_id": st.column_config.TextColumn("Loan", pinned=True),
            "scored_at": st.column_config.DatetimeColumn("Scored", format="D MMM HH:mm:ss"),
            "loan_amnt": st.column_config.NumberColumn("Amount", format="$%,d"),
            "otherwise": st.column_config.TextColumn(
                "Otherwise", help="The tier under the policy that does not flag it"
            ),
            "reasons": st.column_config.ListColumn("Why it is flagged", width="large"),
            "loan_status": st.column_config.TextColumn(
                "Outcome so far", help="The loan's status, where it is known"
            ),
            "dti": percent("DTI"),
            "revol_util": percent("Utilization"),
            "int_rate": percent("Rate"),
            "grade": "Grade",
            "purpose": "Purpose",
            "addr_state": "State",
        },
    )
