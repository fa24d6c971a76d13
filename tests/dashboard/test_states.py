"""What each page says while something that it needs is not there."""

import pytest

from tests.dashboard.conftest import open_view, point_at
from tests.live.browser import PAGES

VIEWS = [address.strip("/").replace("-", "_") or "overview" for address in PAGES.values()]


@pytest.mark.parametrize("view", VIEWS)
def test_without_tables_a_page_says_how_to_make_them(
    database_url: str, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    point_at(database_url, monkeypatch)
    page = open_view(view)
    assert not page.exception
    assert not page.metric
    assert page.warning
    for warning in page.warning:
        if "Dagster" not in warning.value:
            assert "no tables yet" in warning.value
            assert "credit-risk migrate" in warning.value


@pytest.mark.parametrize("view", VIEWS)
def test_without_a_server_a_page_names_it_and_not_its_password(
    unreachable: None, view: str
) -> None:
    page = open_view(view)
    assert not page.exception
    assert not page.metric
    assert any("The warehouse does not answer" in warning.value for warning in page.warning)
    said = " ".join(element.value for element in (*page.code, *page.warning))
    assert "127.0.0.1:1/credit_risk" in said
    assert "secret" not in said
