"""Sign-in by OpenID Connect, where `.streamlit/secrets.toml` configures it: docs/dashboard.md.

Closed unless it is known to be right: without a sign-in only loopback is served, and what is
configured in part, or cannot be read, opens nothing.
"""

import ipaddress
import logging
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError

from credit_risk_dagster.domain.rights import Right
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import AccessSettings, DashboardSettings

log = logging.getLogger(__name__)

_KEYS = ("redirect_uri", "cookie_secret", "client_id", "client_secret", "server_metadata_url")
# Whoever guesses the secret signs cookies, which say who is signed in.
_SECRET_CHARACTERS = 32


def is_due() -> bool:
    """Whether the viewer has to sign in first.

    Raises:
        PlatformError: nobody may see anything; the message says which setting is missing or wrong.
    """
    auth = _auth()
    if auth is not None:
        _check(auth)
        return not st.user.get("is_logged_in")
    address = st.get_option("server.address")
    if _is_loopback(address) or DashboardSettings().dashboard_sign_in == "proxy":
        return False
    raise PlatformError(
        f"The dashboard listens on {address or 'every address'} and nobody has to sign in: add "
        f"[auth] to {_file()} (docs/dashboard.md), or start it with --server.address 127.0.0.1. "
        "Where a proxy in front of it signs people in, set CREDIT_RISK_DASHBOARD_SIGN_IN=proxy."
    )


def page() -> None:
    """Ask for the sign-in; nothing of the warehouse is shown before it."""
    st.title("Credit risk", anchor=False)
    st.write("Sign in to see applications.")
    st.button("Sign in", on_click=st.login, icon=":material/login:", type="primary")


def closed(why: PlatformError) -> None:
    """Say that nothing is shown; what is wrong is for whoever reads the log, and for loopback."""
    log.error("%s", why)
    st.title("Credit risk", anchor=False)
    st.error("The dashboard is closed: its sign-in is not configured. The server's log says more.")
    if _is_loopback(st.get_option("server.address")):
        st.code(str(why), language=None, wrap_lines=True)


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


def may_see() -> bool:
    """Whether applicants may be shown; where not, says so in their place."""
    if may("see"):
        return True
    st.info(
        "Applicants are for who may see them: `CREDIT_RISK_ROLES` does not let you.",
        icon=":material/lock:",
    )
    return False


def _auth() -> object | None:
    """The table [auth] of the secrets; None where there are no secrets, or none of that name."""
    try:
        return st.secrets.to_dict().get("auth")
    except StreamlitSecretNotFoundError as error:
        if error.error_id == "no-secrets-found":
            return None
        raise PlatformError(f"Nobody can sign in. {' '.join(str(error).split())}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PlatformError(f"Nobody can sign in. {_file()} cannot be read: {error}") from error


def _file() -> str:
    """Where the secrets of this project are; another file may be in the user's home."""
    return str(st.get_option("secrets.files")[-1])


def _check(auth: object) -> None:
    """Raises PlatformError: nobody could sign in by it, or anybody."""
    if not isinstance(auth, Mapping):
        raise PlatformError(f"auth in {_file()} is not a table: write [auth]")
    missing = [name for name in _KEYS if not str(auth.get(name) or "").strip()]
    if missing:
        raise PlatformError(f"[auth] in {_file()} lacks {', '.join(missing)}")
    if len(str(auth["cookie_secret"])) < _SECRET_CHARACTERS:
        raise PlatformError(
            f"cookie_secret in {_file()} has fewer than {_SECRET_CHARACTERS} "
            "characters: `openssl rand -hex 32` makes one"
        )
    for name in ("redirect_uri", "server_metadata_url"):
        if urlsplit(str(auth[name])).scheme not in ("http", "https"):
            raise PlatformError(f"{name} in {_file()} is no address: it begins with https://")
    if not str(auth["redirect_uri"]).endswith("/oauth2callback"):
        raise PlatformError(
            f"redirect_uri in {_file()} ends with /oauth2callback, as in "
            "https://risk.example.com/oauth2callback"
        )


def _is_loopback(address: str | None) -> bool:
    if not address:
        return False  # every address
    if address == "localhost" or address.startswith("unix://"):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(address).is_loopback
    return False
