"""The life of policies on the page: submit the candidate, and what was decided about each."""

from functools import partial

import pandas as pd
import streamlit as st

from credit_risk_dagster.domain.policy import Policy
from credit_risk_dagster.domain.policy_lab import Comparison
from dashboard.data import policies as queries
from dashboard.parts import formats, sign_in, tables
from dashboard.parts.layout import panel
from dashboard.parts.live import guarded, viewer_zone


def submission(candidate: Policy, compared: Comparison) -> None:
    """A form that submits the candidate, with the lab's figures as its evidence."""
    with (
        st.expander("Submit the candidate for approval"),
        st.form("submit_form", clear_on_submit=True, border=False),
    ):
        why = st.text_input("Why should it decide?", max_chars=2000)
        st.caption(
            "Somebody else approves it: `credit-risk policy approve`. The figures of this page are "
            "kept with it."
        )
        allowed = sign_in.may("submit")
        button = partial(st.form_submit_button, icon=":material/send:", disabled=not allowed)
        if button("Submit") and allowed:  # a browser can press what is disabled
            if not why.strip():
                st.error("A submission needs a reason.", icon=":material/error:")
                return
            found = queries.submit(candidate, sign_in.email(), why, compared.figures())
            st.success(
                f"Policy {found} is submitted: `credit-risk policy approve {found}` by somebody "
                "else comes next.",
                icon=":material/check:",
            )
        if not allowed:
            st.caption("`CREDIT_RISK_ROLES` does not let you submit.")


@guarded
def history() -> None:
    """Every policy and what was decided about it; and whether the active one does decide."""
    found, other = queries.lives(), queries.decided_by_another()
    if other:
        st.warning(f"{formats.plain(other)}.", icon=":material/rule:")
    rows = [
        {
            "policy": life.stored.policy_id,
            "version": life.stored.version,
            "state": life.state.capitalize(),
            "action": given.action.capitalize(),
            "who": given.who,
            "decided_at": given.decided_at,
            "effective_from": given.effective_from,
            "why": given.why,
        }
        for life in found
        for given in reversed(life.approvals)
    ]
    with panel("Policies, and who decided what about them", "The newest first."):
        if not rows:
            st.write("Nothing was decided about any policy yet.")
            return
        table = pd.DataFrame(rows)
        for column in ("decided_at", "effective_from"):
            table[column] = pd.to_datetime(table[column], utc=True).dt.tz_convert(viewer_zone())
        tables.table(
            table,
            {
                "version": tables.name("Policy"),
                "policy": tables.plain("Id"),
                "state": "State",
                "action": "What",
                "who": "Who",
                "decided_at": tables.second("When"),
                "effective_from": tables.second("From"),
                "why": tables.text("Why", width="large"),
            },
            "Submissions, approvals and activations of policies",
        )
