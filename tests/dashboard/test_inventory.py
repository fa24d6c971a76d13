"""The Inventory page as a person meets it."""

from typing import Any

import psycopg

from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import Modelling
from credit_risk_dagster.settings import WarehouseSettings
from resources.postgres.connection import Warehouse
from tests.dashboard.conftest import LOW, Commit, open_view, words


def test_without_anything_the_page_says_what_will_come(warehouse: psycopg.Connection[Any]) -> None:
    page = open_view("inventory")
    assert not page.exception
    assert "Nothing yet" in page.info[0].value


def test_what_there_is_and_a_models_document(
    activatable: Modelling, commit: Commit, warehouse_settings: WarehouseSettings
) -> None:
    commit(LOW)
    modelling.store(Warehouse(warehouse_settings), activatable, "a-run")
    page = open_view("inventory")
    assert not page.exception
    (items,) = (frame.value for frame in page.dataframe)
    assert set(items["kind"]) == {"Policy", "Model"}
    assert items["age"].tolist() == [0, 0]
    assert "nothing is known of the declined" in words(page)
