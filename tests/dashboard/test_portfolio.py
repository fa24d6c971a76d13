"""The Portfolio page as a person meets it."""

from typing import Any

import psycopg

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import Modelling
from credit_risk_dagster.pipelines.portfolio import report_portfolio
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from resources.postgres.connection import Warehouse
from tests.dashboard.conftest import ELEVATED, LOW, WATCHLIST, Commit, figures, open_view, words
from tests.domain.model.samples import OUTCOME

POLICY = load_policy(DEFAULT_POLICY)


def test_without_a_report_the_page_says_how_to_make_one(warehouse: psycopg.Connection[Any]) -> None:
    page = open_view("portfolio")
    assert not page.exception
    assert "No report yet" in page.info[0].value
    assert "report_portfolio" in page.info[0].value


def test_the_portfolio_is_shown(
    activatable: Modelling, commit: Commit, warehouse_settings: WarehouseSettings
) -> None:
    warehouse = Warehouse(warehouse_settings)
    loans = [
        LOW | {"home_ownership": home, "dti": 10 + at % 20}
        for home in ("RENT", "OWN")
        for at in range(300)
    ]
    flagged = WATCHLIST | {"home_ownership": "RENT"}
    commit(*loans, *[ELEVATED] * 10, *[flagged] * 40)
    modelling.store(warehouse, activatable, "a-run")
    builtin = modelling.read_loans("builtin", POLICY, None, 10_000)
    found = modelling.vintages_of(builtin, OUTCOME)
    modelling.store_vintages(warehouse, "builtin", OUTCOME, found, "a-run")
    assert report_portfolio(warehouse, POLICY, OUTCOME, run_id="a-run")
    page = open_view("portfolio")
    assert not page.exception
    shown = figures(page)
    assert shown["Amount requested"] == "$6.50 M"
    assert shown["Expected loss"].startswith("$")
    assert len(page.get("vega_lite_chart")) == 4  # losses, performance, PD by tier, vintages
    said = words(page)
    assert "not active, so for information" in said
    assert "LGD 75 % is assumed" in said
    assert "riskier than their PD says" in said
    stress, stable, fair, vintages = (frame.value for frame in page.dataframe)
    assert stable["feature"].tolist()[0] == "Score"
    assert stress["scenario"].tolist()[0] == "as it is"
    assert fair["group"].tolist() == ["Home ownership: Rent", "Home ownership: Own"]
    assert vintages["month"].tolist() == ["2018-01", "2018-02", "2018-03"]
    assert vintages["exposure"].tolist()[0] == "Longest"
