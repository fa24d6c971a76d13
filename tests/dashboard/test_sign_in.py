"""Who sees the dashboard: beyond loopback nobody without a sign-in, whatever is wrong with it."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
import streamlit as st
from streamlit import config
from streamlit.runtime.secrets import Secrets
from streamlit.testing.v1 import AppTest

from credit_risk_dagster.settings import PROJECT_ROOT
from tests.dashboard.conftest import WATCHLIST, Commit, words

AUTH = """[auth]
redirect_uri = "https://risk.example.com/oauth2callback"
cookie_secret = "0123456789abcdef0123456789abcdef"
client_id = "credit-risk"
client_secret = "from the provider"
server_metadata_url = "https://login.example.com/.well-known/openid-configuration"
"""


@pytest.fixture
def one(warehouse: psycopg.Connection[Any], commit: Commit) -> None:
    """There is something to see."""
    commit(WATCHLIST)


def opened(monkeypatch: pytest.MonkeyPatch, file: Path, address: str | None) -> AppTest:
    """The dashboard, which listens on an address, with that file as its secrets."""
    options = {"server.address": address, "secrets.files": [str(file)]}
    asked = config.get_option
    monkeypatch.setattr(config, "get_option", lambda key: options.get(key, asked(key)))
    monkeypatch.setattr(st, "get_option", lambda key: options.get(key, asked(key)))
    monkeypatch.setattr(st, "secrets", Secrets())
    return AppTest.from_file(PROJECT_ROOT / "dashboard" / "app.py", default_timeout=60).run()


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "unix:///run/risk.sock"])
def test_loopback_is_open(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = opened(monkeypatch, tmp_path / "secrets.toml", address)
    assert not page.exception
    assert page.title[0].value == "Credit risk overview"


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize("address", ["0.0.0.0", "::", None, "", "10.0.0.7", "risk.example.com"])
def test_beyond_it_nobody_sees_anything_without_a_sign_in(
    address: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    page = opened(monkeypatch, tmp_path / "secrets.toml", address)
    assert not page.exception
    assert not page.metric
    assert not page.button
    assert words(page).startswith("The dashboard is closed")
    assert f"add [auth] to {tmp_path}" in caplog.text
    monkeypatch.setenv("CREDIT_RISK_DASHBOARD_SIGN_IN", "proxy")
    assert page.run().metric


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_who_has_to_sign_in_sees_nothing_before(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "secrets.toml"
    file.write_text(AUTH)
    page = opened(monkeypatch, file, address)
    assert not page.exception
    assert [button.label for button in page.button] == ["Sign in"]
    assert not page.metric


@pytest.mark.usefixtures("one")
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"credit-risk"', '"credit-risk', "Error parsing secrets file"),
        ("[auth]", "[auth", "Error parsing secrets file"),
        ("[auth]", "auth = 1\n[authentication]", "auth"),
        ("client_secret =", "client-secret =", "lacks client_secret"),
        ('"from the provider"', '" "', "lacks client_secret"),
        ("0123456789abcdef0123456789abcdef", "secret", "has fewer than 32 characters"),
        ("https://login", "login", "is no address: it begins with https"),
        ("oauth2callback", "", "ends with /oauth2callback"),
        (AUTH, "[auth]", "lacks redirect_uri, cookie_secret"),
        (AUTH, "\0", "Error parsing secrets file"),
        ("from", "\ud800", "secrets.toml cannot be read"),
    ],
)
def test_a_sign_in_that_is_wrong_opens_nothing(
    before: str,
    after: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "secrets.toml"
    file.write_bytes(AUTH.replace(before, after).encode("utf-8", "surrogatepass"))
    monkeypatch.setenv("CREDIT_RISK_DASHBOARD_SIGN_IN", "proxy")
    page = opened(monkeypatch, file, "127.0.0.1")
    assert not page.exception
    assert not page.metric
    assert not page.button
    assert words(page).startswith("The dashboard is closed")
    assert message in page.code[0].value
    assert message in caplog.text
    assert "from the provider" not in caplog.text
    page = opened(monkeypatch, file, "0.0.0.0")
    assert not page.code
