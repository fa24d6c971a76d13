"""Who reviews: who is signed in, or else a name that the browser remembers."""

from urllib.parse import quote, unquote

import streamlit as st

from dashboard.parts import sign_in

_KEY, _KEPT = "reviewer", "_reviewer"
_COOKIE = "credit_risk_reviewer"
_DAYS = 90


def name() -> str:
    """Who reviews; "" while nobody said."""
    # A widget's own state goes with the page; this stays for the session, the cookie for longer.
    if _KEPT not in st.session_state:
        st.session_state[_KEPT] = unquote(st.context.cookies.get(_COOKIE, ""))[:200].strip()
    return sign_in.email() or str(st.session_state[_KEPT])


def ask() -> None:
    """Draw the field of the name; of who is signed in it only tells."""
    st.session_state[_KEY] = name()
    st.text_input(
        "Reviewer",
        key=_KEY,
        disabled=bool(sign_in.email()),
        max_chars=200,
        placeholder="Your name",
        on_change=_keep,
    )
    if st.session_state.pop(_KEPT + "_new", False):
        # Quoted, so that it has no character that means something here.
        cookie = f"{_COOKIE}={quote(name(), safe='')}; path=/; max-age={_DAYS * 86_400}"
        st.html(
            f"<script>document.cookie = '{cookie}; SameSite=Strict'</script>",
            unsafe_allow_javascript=True,
        )


def _keep() -> None:
    st.session_state[_KEPT] = st.session_state[_KEY].strip()
    st.session_state[_KEPT + "_new"] = True
