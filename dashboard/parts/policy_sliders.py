"""The candidate of the Policy lab: sliders for the numbers of a policy, and files in and out."""

from collections.abc import Iterator
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
from credit_risk_dagster.domain.policy_diff import differences
from credit_risk_dagster.domain.unary import NUMBERS, kind_of, parse_test
from dashboard.parts import formats

_MAX_UPLOAD_MB = 1
_PROBLEM, _BASE = "lab_problem", "lab_base"
_CEILINGS = {"dti": 60.0, "revol_util": 120.0, "int_rate": 40.0, "pd": 1.0}
_KEYS = {"revol_util": "util", "delinq_2yrs": "delinq", "inq_last_6mths": "inq"}
_RELATIONS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than", "=": "is"}


@dataclass(frozen=True)
class Dial:
    """A slider and the number of the policy that it sets.

    Attributes:
        key: of the slider; also its name in the page's address.
        column: the input that the number is of.
        path: where the number, or the test with it, is in the policy's document.
        value: what it is.
        relation: of a test; empty of a band's edge.
    """

    key: str
    label: str
    column: str
    path: tuple[str | int, ...]
    value: float
    relation: str = ""

    @property
    def ceiling(self) -> float:
        """Where the slider ends."""
        return max(_CEILINGS.get(self.column, 10.0), self.value, 2 * self.value - 60)

    @property
    def of_percent(self) -> bool:
        return self.column in ("dti", "revol_util", "int_rate")


def dials(policy: Policy) -> list[Dial]:
    """Every number of a policy: of the tests with one number, then of the edges of the bands."""
    content = policy.table.content()
    found: list[Dial] = []
    taken: dict[str, int] = {}
    for path, column, comparison in _tests(content):
        operand = comparison.operand
        assert isinstance(operand, float)  # noqa: S101 (see _tests)
        words = _RELATIONS[comparison.relation]
        of = column.removeprefix("band(").removesuffix(")")
        key = f"{_KEYS.get(of, of)}{'' if of == column else '_band'}_{words.replace(' ', '_')}"
        key = key.replace("more_than", "above").replace("less_than", "below")
        taken[key] = taken.get(key, 0) + 1
        key = key if taken[key] == 1 else f"{key}_{taken[key]}"
        label = f"{formats.feature(of)}{'' if of == column else ' band'}, {words}"
        found.append(Dial(key, label, column, path, operand, comparison.relation))
    for name, edges in content["bands"].items():
        for at, edge in enumerate(edges):
            label = f"{BANDS[at]} up to"
            found.append(Dial(f"{name}_{at + 1}", label, name, ("bands", name, at), float(edge)))
    return found


def _tests(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[Any]:
    """The tests that compare a number, or a band, with one number; and where they are."""
    if not path:
        for key in ("conditions", "rules"):
            yield from _tests(content.get(key, {}), (key,))
    elif isinstance(content, list):
        for at, part in enumerate(content):
            yield from _tests(part, (*path, at))
    elif isinstance(content, dict):
        for key, part in content.items():
            number = key.removeprefix("band(").removesuffix(")")
            if number in NUMBERS and isinstance(part, str):
                test = parse_test(key, part)
                if len(test.either) == 1 and len(test.either[0]) == 1 and not test.negated:
                    (comparison,) = test.either[0]
                    if isinstance(comparison.operand, float) and comparison.relation != "!=":
                        yield (*path, key), key, comparison
            else:
                yield from _tests(part, (*path, key))


def base(active: Policy) -> Policy:
    """The policy that the sliders begin with: the active one, or one that was uploaded."""
    found: Policy = st.session_state.get(_BASE) or active
    return found


def controls(active: Policy) -> Policy | None:
    """Draw the sliders; the candidate that they describe, None when it is not valid."""
    with st.container(border=True):
        st.header("Candidate", anchor=False)
        content = _thresholds(base(active))
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


def _thresholds(policy: Policy) -> dict[str, Any]:
    """The document of a policy with what the sliders say."""
    content = policy.table.content()
    found = dials(policy)
    st.markdown("**Rules**")
    for dial in found:
        if dial.relation:
            _draw(content, dial)
    with st.expander("Bands"):
        for tab, name in zip(
            st.tabs([*map(formats.feature, content["bands"])]), content["bands"], strict=True
        ):
            with tab:
                for dial in found:
                    if dial.path[:2] == ("bands", name):
                        _draw(content, dial)
        st.caption("A band decides where a rule asks for it; the others describe an application.")
    if content != policy.table.content():
        content.pop("examples", None)  # they are of the policy as it was
    return content


def _draw(content: dict[str, Any], dial: Dial) -> None:
    if kind_of(dial.column) == "band":
        chosen = st.selectbox(dial.label, BANDS, int(dial.value), key=dial.key, bind="query-params")
        value = float(BANDS.index(chosen))
    else:
        counted = dial.relation and not dial.of_percent and dial.column != "pd"
        value = st.slider(
            dial.label,
            0.0,
            dial.ceiling,
            dial.value,
            1.0 if counted else 0.01 if dial.column == "pd" else 0.5,
            "%g %%" if dial.of_percent else "%g",
            key=dial.key,
            bind="query-params",
        )
    if value == dial.value:
        return
    if not dial.relation:
        _put(content, dial.path, value)
        return
    written = _RELATIONS_OF[dial.relation] + (
        BANDS[int(value)] if kind_of(dial.column) == "band" else f"{value:.15g}"
    )
    _put(content, dial.path, written)
    for rule in content["rules"]:  # a reason that names the number names the new one
        if rule.get("reason") == f"{dial.column.upper()}{dial.relation}{dial.value:.15g}":
            rule["reason"] = f"{dial.column.upper()}{dial.relation}{value:.15g}"


_RELATIONS_OF = {relation: "" if relation == "=" else f"{relation} " for relation in _RELATIONS}


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
    found = differences(active, candidate)
    if not found:
        return f"The candidate decides as the active policy `{active.version}`. Move a threshold."
    return f"{formats.plain('; '.join(found))}, against the active policy `{active.version}`"


def _validated(content: dict[str, Any]) -> Policy | None:
    try:
        return validate_policy(content, content["name"])
    except PolicyError as error:
        st.error(formats.plain(str(error)), icon=":material/rule:")
        return None


def _uploaded(active: Policy) -> None:
    """Begin with the uploaded policy, or say what is wrong with it."""
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
    st.session_state[_BASE] = policy
    for dial in dials(policy):
        band = kind_of(dial.column) == "band"
        st.session_state[dial.key] = BANDS[int(dial.value)] if band else dial.value
    if policy != active:
        st.session_state["policy"] = policy.name


def _put(content: dict[str, Any], path: tuple[str | int, ...], value: float | str) -> None:
    *parents, last = path
    inner: Any = content
    for step in parents:
        inner = inner[step]
    inner[last] = value
