"""What a viewer waits for, in a real browser: the first paint of each page, and its last figure;
alone, and while others look at pages that refresh."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser

from credit_risk_dagster.domain.features import CLASSIC_FEATURES, select_features
from credit_risk_dagster.domain.policy import load_policy
from credit_risk_dagster.pipelines import modelling
from credit_risk_dagster.pipelines.portfolio import report_portfolio
from credit_risk_dagster.settings import DEFAULT_POLICY, WarehouseSettings
from dashboard.data.policy_lab import OUTCOME_DEFINITIONS
from infra.embedded.servers import HOST, Broker, Server, free_port
from infra.embedded.stack import DASHBOARD_READY, dashboard_command
from resources.postgres.connection import Warehouse
from tests.benchmarks.report import Bar, Section, table
from tests.domain.model.samples import builtin_sample
from tests.live.browser import PAGES, chromium, visit

SESSIONS = 10
RATIO = 3.0
QUIET_MS = 3_000  # without another figure: the page has its last one
PATIENCE_SECONDS = 120.0
_DRAWING = re.compile(r"/static/js/(ArrowVegaLiteChart|DataFrame|loadVegaEmbed)\.")
# When there are more figures, charts and tables than ever before, as milliseconds since the
# navigation; a refresh replaces some, and is none.
_WATCH = """
(() => {
  const kinds = '[data-testid=stMetric], [data-testid=stVegaLiteChart] svg,'
    + '[data-testid=stVegaLiteChart] canvas, [data-testid=stDataFrame], [data-testid=stTable],'
    + '[data-testid=stAlert], .signals li'
  window.figures = {most: 0, last: 0}
  const look = () => {
    const count = document.querySelectorAll(kinds).length
    if (count > window.figures.most) window.figures = {most: count, last: performance.now()}
  }
  new MutationObserver(look).observe(document, {childList: true, subtree: true})
})()
"""
_STATE = """
() => ({
  now: performance.now(),
  drawing: !!document.querySelector('[data-testid=stSkeleton], [data-testid=stSpinner]'),
  first: performance.getEntriesByName('first-contentful-paint')[0]?.startTime,
  ...window.figures,
})
"""


def measure_paint(settings: WarehouseSettings, sessions: int, rounds: int) -> Section:
    """Open every page on a server of its own, alone and as the last one of so many sessions.

    Args:
        settings: of a filled database.
        sessions: all of them; the others stay on their pages, which refresh, and draw no chart.
        rounds: of each figure the median of so many.
    """
    warehouse, policy = Warehouse(settings), load_policy(DEFAULT_POLICY)
    # What cannot be made up: the pages read what is in it.
    features = select_features(CLASSIC_FEATURES)
    found = modelling.model(builtin_sample(), features, policy, 0, logging.getLogger("bench"))
    modelling.store(warehouse, found, "bench")
    outcome = OUTCOME_DEFINITIONS["early_delinquency"]
    report_portfolio(warehouse, policy, outcome, run_id="bench")
    grid = table(
        "In a browser, ms",
        *("first paint", "last figure", f"first of {sessions}", f"last of {sessions}", "ratio"),
    )
    found: dict[str, dict[str, float]] = {}
    with _dashboard(settings) as url, chromium() as browser:
        alone = _times(browser, url, rounds)
        with _others(browser, url, sessions - 1):
            among = _times(browser, url, rounds)
    for title in PAGES:
        (first, last), (first_among, last_among) = alone[title], among[title]
        ratio = max(first_among / first, last_among / last)
        found[title] = {
            "first_paint_ms": first,
            "last_figure_ms": last,
            "first_paint_among_ms": first_among,
            "last_figure_among_ms": last_among,
            "ratio": ratio,
        }
        times = (f"{at:,.0f}" for at in (first, last, first_among, last_among))
        grid.add_row(title, *times, f"{ratio:.2f}")
    worst = max(found, key=lambda title: found[title]["ratio"])
    name = f"{sessions} sessions against one ({worst})"
    bar = Bar(name, found[worst]["ratio"], RATIO, "times", at_most=True)
    return Section("paint", found, grid, [bar])


@contextmanager
def _dashboard(settings: WarehouseSettings) -> Iterator[str]:
    """Its address: with a broker, whose topic it asks for, and without Dagster, which refuses."""
    port = free_port()
    with (
        TemporaryDirectory(prefix="credit-risk-bench-") as folder,
        Broker() as broker,
        Server(
            "dashboard",
            dashboard_command(port),
            port,
            ready_path=DASHBOARD_READY,
            environment={
                "DATABASE_URL": settings.of_dashboard().database_url.get_secret_value(),
                "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
                "CREDIT_RISK_DAGSTER_URL": f"http://{HOST}:1",
            },
            log=Path(folder) / "dashboard.log",
        ),
    ):
        yield f"http://{HOST}:{port}"


@contextmanager
def _others(browser: Browser, url: str, count: int) -> Iterator[None]:
    """So many viewers, each on a page."""
    addresses = list(PAGES.values())
    with ExitStack() as open_pages:
        for at in range(count):
            other = open_pages.enter_context(visit(browser))
            # Nobody has ten viewers' charts drawn by the processors of the one.
            other.page.route(_DRAWING, lambda route: route.abort())
            other.page.goto(url + addresses[at % len(addresses)])
            other.settle()
        yield


def _times(browser: Browser, url: str, rounds: int) -> dict[str, tuple[float, float]]:
    """First paint and last figure of each page, milliseconds since the navigation."""
    times: dict[str, list[tuple[float, float]]] = {title: [] for title in PAGES}
    for _ in range(rounds):
        for title, address in PAGES.items():
            times[title].append(_open(browser, url + address, title))
    return {
        title: (median(first for first, _ in of), median(last for _, last in of))
        for title, of in times.items()
    }


def _open(browser: Browser, address: str, title: str) -> tuple[float, float]:
    with visit(browser) as seen:
        seen.page.add_init_script(_WATCH)
        seen.page.goto(address)
        seen.page.get_by_role("heading", name=title, exact=True, level=1).wait_for()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            state = seen.page.evaluate(_STATE)
            quiet = state["now"] - state["last"] > QUIET_MS
            if quiet and state["most"] and not state["drawing"]:
                return float(state["first"]), float(state["last"])
            seen.page.wait_for_timeout(100)
    raise TimeoutError(f"{address} still draws after {PATIENCE_SECONDS:g} s: {state}")
