"""`make screenshots`: the pictures in docs/images, of a platform with six weeks of history."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from credit_risk_dagster.pipelines.loans import builtin_loans, endless
from credit_risk_dagster.settings import PROJECT_ROOT, KafkaSettings, WarehouseSettings
from infra.embedded.history import backfill
from tests.live.browser import Visit, chromium, visit
from tests.platform.running import Platform, open_platform

FOLDER = PROJECT_ROOT / "docs" / "images"
# Title and address of each page. The candidate of the lab takes a higher DTI and a single inquiry.
_PAGES: Mapping[str, tuple[str, str]] = {
    "overview": ("Credit risk overview", "/"),
    "watchlist": ("Watchlist", "/watchlist"),
    "drift": ("Drift", "/drift"),
    "model": ("Model", "/model"),
    "policy-lab": ("Policy lab", "/policy-lab?dti_at_least=26&inq_at_least=1&applications=10000"),
}
_HEIGHTS = {"policy-lab": 940}  # pixels that are shown, for the README; of other pages all
_COLOURS = 256  # a page has fewer that differ, and the file is a third


def main() -> None:
    """Make the history, start the platform and take the pictures."""
    with open_platform(history=_history) as live, chromium() as browser:
        live.run_jobs(["report_drift", "benchmark_models", "report_portfolio"])
        take(live, browser)


def _history(kafka: KafkaSettings, settings: WarehouseSettings, _: Mapping[str, str]) -> None:
    backfill(kafka, settings, endless(builtin_loans()))


def take(live: Platform, browser: Browser) -> None:
    """Take every picture."""
    pages = {**_PAGES, "application": ("Watchlist", _a_case(live))}
    for name, (title, address) in pages.items():
        with visit(browser) as desk:
            desk.open(live.services.dashboard_url + address, title)
            _take(desk, FOLDER / f"{name}.png")


def _a_case(live: Platform) -> str:
    (row,) = live.query("SELECT case_id FROM case_events ORDER BY event_id LIMIT 1")
    return f"/watchlist?case={row['case_id']}"


def _take(desk: Visit, file: Path) -> None:
    desk.show_all()
    desk.page.screenshot(path=file)
    with Image.open(file) as image:
        page = image.convert("RGB")
    rows = np.asarray(page)
    full = np.flatnonzero((rows != rows[-1]).any(axis=(1, 2)))  # the window ends after the page
    height = min(int(full[-1]) + 30, page.height, _HEIGHTS.get(file.stem, page.height))
    page = page.crop((0, 0, page.width, height))
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE  # every colour within 11 of 255
    page.quantize(_COLOURS, method=method, dither=dither).save(file, optimize=True)


if __name__ == "__main__":
    main()
