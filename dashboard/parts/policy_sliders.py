"""The candidate of the Policy lab: sliders for the numbers of a policy, and files in and out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from credit_risk_dagster.domain.policy import (
    BANDS,
    Policy,
    PolicyError,
    parse_policy,
    validate_policy,
)
from dashboard.parts import formats

_MAX_UPLOAD_MB = 1
_PROBLEM, _CEILINGS = "lab_problem", "lab_ceilings"


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


def controls(active: Policy) -> Policy | None:
    """Draw the sliders; the candidate that they describe, None when it is not valid."""
    with st.container(border=True):
        st.header("Candidate", anchor=False)
        content = _thresholds(active)
        content["name"] = st.text_input(
            "Name of the candidate",
            f"{active.name[:52]}-candidate",
            max_chars=64,
            key="policy",
            bind="query-params",
        )
        candidate = _validated(content)
        _files(candidate, content["name"], active)
    return candidate


def _thresholds(active: Policy) -> dict[str, Any]:
    """The document of the active policy with what the sliders say."""
    ceilings = st.session_state.setdefault(_CEILINGS, _ceilings(active))
    content = active.model_dump(mode="json")

    def draw(*dials: Dial) -> None:
        for dial in dials:
            value = st.slider(
                dial.label,
                0.0,
                ceilings[dial.key],
                _at(content, dial.path),
                float(dial.step),
                dial.format,
                key=dial.key,
                bind="query-params",
            )
            _put(content, dial.path, value)

    st.markdown("**Early warning**: a stress signal")
    draw(*STRESS)
    st.markdown("and a behaviour signal")
    draw(*BEHAVIOUR)
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
                draw(*dials)
        st.caption("The bands of the rate decide nothing: they describe an application.")
    return content


def _files(candidate: Policy | None, name: str, active: Policy) -> None:
    """The candidate as a file, and where another one comes from."""
    document = "" if candidate is None else candidate.yaml
    st.download_button(
        "Download the candidate (YAML)",
        lambda: document,  # made when it is clicked: a moving slider would make one file a step
        file_name=f"{name}.yaml",
        mime="application/yaml",
        icon=":material/download:",
        on_click="ignore",
        disabled=candidate is None,
        width="stretch",
    )
    if candidate is not None:
        with st.expander("The candidate as YAML"):
            st.code(document, language="yaml")
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


def changes(active: Policy, candidate: Policy) -> str:
    """What the candidate has otherwise, in words."""
    before, after = (policy.model_dump(mode="json") for policy in (active, candidate))
    titles = {dial.key: dial.label for dial in (*STRESS, *BEHAVIOUR)}
    for feature, dials in EDGES.items():
        titles |= {dial.key: f"{feature} band {dial.label}" for dial in dials}
    changed = [
        f"{titles[dial.key]} {_at(before, dial.path):g} → **{_at(after, dial.path):g}**"
        for dial in DIALS
        if _at(before, dial.path) != _at(after, dial.path)
    ]
    if active.elevated_from != candidate.elevated_from:
        changed.append(f"Elevated from {active.elevated_from} → **{candidate.elevated_from}**")
    against = f"against the active policy `{active.version}`"
    if not changed:
        return f"The candidate decides as the active policy `{active.version}`. Move a threshold."
    return f"{'; '.join(changed)}, {against}"


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
    for dial in DIALS:
        st.session_state[dial.key] = _at(content, dial.path)
    st.session_state["elevated_from"] = policy.elevated_from
    if policy != active:
        st.session_state["policy"] = policy.name


def _ceilings(*policies: Policy) -> dict[str, float]:
    """Where each slider ends: no policy that is shown is beyond it."""
    contents = [policy.model_dump(mode="json") for policy in policies]
    return {
        dial.key: max(float(dial.ceiling), *(_at(content, dial.path) for content in contents))
        for dial in DIALS
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
