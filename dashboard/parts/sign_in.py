"""Sign-in by OpenID Connect, where `.streamlit/secrets.toml` configures it: docs/dashboard.md."""

import streamlit as st

from credit_risk_dagster.domain.rights import Right
from credit_risk_dagster.settings import AccessSettings


def is_due() -> bool:
    """Whether the viewer has to sign in first."""
    configured = st.secrets.load_if_toml_exists() and "auth" in st.secrets
    return configured and not st.user.get("is_logged_in")


def page() -> None:
    """Ask for the sign-in; nothing of the warehouse is shown before it."""
    st.title("Credit risk", anchor=False)
    st.write("Sign in to see applications.")
    st.button("Sign in", on_click=st.login, icon=":material/login:", type="primary")


def email() -> str | None:
    """Who is signed in; None where nobody has to."""
    address = st.user.get("email") if st.user.get("is_logged_in") else None
    return str(address) if address else None


def may(right: Right) -> bool:
    """Whether CREDIT_RISK_ROLES gives a right to who is signed in, or to one of the groups that the
    identity provider tells. Who is not signed in has what anybody has."""
    groups = st.user.get("groups") if st.user.get("is_logged_in") else None
    names = [email() or "", *(groups if isinstance(groups, list) else [])]
    return AccessSettings().may(right, [str(name) for name in names if name])
