"""Text from outside, on every page in a real browser and in what the pages hand out: it is shown
as it is. Rows that are older than the rules at the door may have any."""

from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.modelling import Modelling
from credit_risk_dagster.pipelines.portfolio import report_portfolio
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from dashboard.data.policy_lab import OUTCOME_DEFINITIONS
from infra.embedded.servers import HOST, Postgres, Server, free_port
from infra.embedded.stack import DASHBOARD_READY, dashboard_command
from resources.postgres.cases import Cases
from resources.postgres.connection import Warehouse
from tests.benchmarks import dashboard
from tests.live.browser import PAGES, Visit

# Needs no daemon, but a browser: beside one no test of the process can run a loop of its own.
pytestmark = pytest.mark.platform

HOSTILE = (
    "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"
    "![i](http://elsewhere.test/i.png)[a](javascript:window.owned=1)`[c](http://elsewhere.test)"
)
# What somebody outside, or on the staff, can write.
_COLUMNS: dict[LiteralString, tuple[LiteralString, ...]] = {
    "scored_applications": (
        *("loan_id", "purpose", "grade", "addr_state", "home_ownership", "loan_status"),
    ),
    "segments": ("purpose", "grade", "addr_state"),
    "rejected_events": ("reason",),
    "cases": ("loan_id", "assignee"),
    "case_events": ("who", "note"),
    "sources": ("topic", "cluster_id"),
    "approvals": ("who", "why"),
    "drift_baselines": ("name", "origin"),
    "models": ("sample",),
    "model_benchmarks": ("sample", "verdict"),
    "risk_reports": ("about",),
}
_WRONG = """
() => ({
  owned: window.owned,
  elements: [...document.querySelectorAll('a[href], img, iframe, script:not([src])')]
    // A heading may be linked to, and an address that can be seen lead to itself.
    .filter(e => !e.getAttribute('href')?.startsWith('#'))
    .filter(e => !(e.protocol === 'http:' && e.textContent.startsWith('http:')))
    .map(e => e.outerHTML)
    .filter(html => /javascript:|elsewhere\\.test|owned|src="?x"?/.test(html)),
})
"""


@pytest.fixture(scope="module")
def address(
    postgres: Postgres,
    _template: str,
    activatable: Modelling,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A dashboard on a database in which every text is hostile."""
    name = "hostile"
    postgres.create_database(name, _template)
    settings = WarehouseSettings(DATABASE_URL=SecretStr(postgres.uri(name)))
    warehouse = Warehouse(settings)
    with pytest.MonkeyPatch.context() as patch, warehouse.connect() as connection:
        patch.setattr(dashboard, "REPORTS", 3)
        dashboard.fill(connection, settings, 1_000)
    with warehouse.session() as connection:
        (version,) = connection.execute("SELECT version FROM cases WHERE case_id = 1").fetchall()[0]
        Cases(connection).act(1, version, "note", "Ada", note="mine")
    modelling.store(warehouse, activatable, "run")
    outcome = OUTCOME_DEFINITIONS["early_delinquency"]
    assert report_portfolio(warehouse, load_policy(DEFAULT_POLICY), outcome, run_id="run")
    with warehouse.connect() as connection:
        _poison(connection)
    port = free_port()
    server = Server(
        "dashboard",
        dashboard_command(port),
        port,
        ready_path=DASHBOARD_READY,
        environment={
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:1",
            "CREDIT_RISK_DAGSTER_URL": f"http://{HOST}:1",
        },
        log=tmp_path_factory.mktemp("hostile") / "dashboard.log",
    )
    with server:
        yield f"http://{HOST}:{port}"
    postgres.drop_database(name)


def _poison(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SET session_replication_role = replica")  # past the guards of history
    connection.execute("DROP INDEX cases_one_open")
    for table, columns in _COLUMNS.items():
        for column in columns:
            one = " WHERE segment_id = 1" if table == "segments" else ""  # they are unique
            connection.execute(f"UPDATE {table} SET {column} = %s{one}", (HOSTILE,))
    for table in ("scored_applications", "cases"):
        connection.execute(f"UPDATE {table} SET reasons = ARRAY[%s]".encode(), (HOSTILE,))
    connection.execute(
        "UPDATE risk_reports SET document = document || %s",
        (Jsonb({"model": HOSTILE, "lgd": HOSTILE, "classes": HOSTILE}),),
    )


def test_hostile_text_is_shown_as_it_is(address: str, desk: Visit) -> None:
    pages = {
        **PAGES,
        "Watchlist, a case": "/watchlist?case=1",
        "Watchlist, figures": "/watchlist?show=Figures",
        "Watchlist, a search": f"/watchlist?loan={HOSTILE[-38:]}&case=%3Cscript%3E&state={HOSTILE}",
        "Overview, dates": f"/?dates={HOSTILE}&purpose={HOSTILE}&period={HOSTILE}",
        "Policy lab, a name": f"/policy-lab?policy={HOSTILE}&dti_at_least={HOSTILE}",
    }
    shown = set()
    for name, path in pages.items():
        desk.open(
            address + path,
            {"Overview, dates": "Credit risk overview"}.get(name, name.partition(",")[0]),
        )
        assert not desk.page.get_by_test_id("stException").count(), name
        folded = desk.page.locator("details:not([open]) summary")
        for _ in range(folded.count()):
            folded.first.click()
        desk.settle()
        wrong = desk.page.evaluate(_WRONG)
        assert not wrong.get("owned"), name
        assert wrong["elements"] == [], name
        if "elsewhere.test" in desk.page.locator("[data-testid=stMain]").inner_text():
            shown.add(name)
    assert {"Drift", "Model", "Portfolio", "Inventory", "Watchlist, a case"} <= shown


def test_nor_is_it_more_in_what_is_handed_out(address: str, desk: Visit) -> None:
    for path, title, button in (
        ("/", "Credit risk overview", "Report"),
        ("/inventory", "Inventory", "Save as HTML"),
    ):
        desk.open(address + path, title)
        with desk.page.expect_download() as download:
            desk.page.get_by_role("button", name=button).click()
        text = download.value.path().read_text(encoding="utf-8")
        assert "elsewhere.test" in text
        desk.page.set_content(text)
        wrong = desk.page.evaluate(_WRONG)
        assert not wrong.get("owned"), button
        assert wrong["elements"] == [], button
