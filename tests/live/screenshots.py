"""`make screenshots`: the pictures in docs/images, of a platform with six weeks of history.

ARGS=<folder> takes, for a look at them, every page and Dagster's lineage instead: desktop and
phone, light and dark.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from credit_risk_dagster.pipelines.loans import builtin_loans, endless
from credit_risk_dagster.settings import PROJECT_ROOT, KafkaSettings, WarehouseSettings
from infra.embedded.history import backfill
from tests.live.browser import PAGES, THEMES, WIDTHS, Visit, chromium, visit
from tests.platform.running import Platform, open_platform
from tests.platform.waiting import wait_until

FOLDER = PROJECT_ROOT / "docs" / "images"
_IN_DOCS = ("overview", "watchlist", "application", "drift", "model", "portfolio", "policy-lab")
# The candidate of the lab takes a higher DTI and a single inquiry.
_CANDIDATE = "?dti_at_least=26&inq_at_least=1"
_FIRST_REPORTS_SECONDS = 600  # made by themselves, of which training is the most
_HEIGHTS = {"policy-lab": 940}  # pixels that docs show, for the README; of other pages all
_COLOURS = 256  # a page has fewer that differ, and the file is a third
_LINEAGE = {"lineage": "/asset-groups", "assets": "/assets"}
_LINEAGE_SIZE = {"width": 1600, "height": 1000}
_LINEAGE_MS = 8_000  # Dagster's page has no sign of being ready


@dataclass(frozen=True)
class Picture:
    """A page to take: its file's name, its title and its address on the dashboard."""

    name: str
    title: str
    address: str


def main(arguments: list[str]) -> None:
    """Make the history, start the platform and take the pictures."""
    with open_platform(history=_history) as live, chromium() as browser:
        wait_until(
            lambda: live.query("SELECT FROM risk_reports WHERE kind = 'portfolio'"),
            _FIRST_REPORTS_SECONDS,
            f"the first reports are made; see {live.log}",
            every=1.0,
        )
        pictures = [*_pictures(live)]
        if not arguments:
            for picture in pictures:
                if picture.name in _IN_DOCS:
                    with visit(browser) as desk:
                        _take(desk, live, picture, FOLDER / f"{picture.name}.png", _HEIGHTS)
            return
        folder = Path(arguments[0])
        folder.mkdir(parents=True, exist_ok=True)
        _lineage(live, browser, folder)
        for picture in pictures:
            for look, width in WIDTHS.items():
                for theme in THEMES:
                    with visit(browser, theme, width) as desk:
                        _take(desk, live, picture, folder / f"{picture.name}-{look}-{theme}.png")


def _history(kafka: KafkaSettings, settings: WarehouseSettings, _: Mapping[str, str]) -> None:
    backfill(kafka, settings, endless(builtin_loans()))


def _pictures(live: Platform) -> Iterator[Picture]:
    for title, address in PAGES.items():
        name = address.strip("/") or "overview"
        yield Picture(name, title, address + (_CANDIDATE if name == "policy-lab" else ""))
    (row,) = live.query("SELECT case_id FROM case_events ORDER BY event_id LIMIT 1")
    yield Picture("application", "Watchlist", f"/watchlist?case={row['case_id']}")


def _take(
    desk: Visit,
    live: Platform,
    picture: Picture,
    file: Path,
    heights: Mapping[str, int] | None = None,
) -> None:
    desk.open(live.services.dashboard_url + picture.address, picture.title)
    desk.show_all()
    desk.page.screenshot(path=file)
    with Image.open(file) as image:
        page = image.convert("RGB")
    rows = np.asarray(page)
    full = np.flatnonzero((rows != rows[-1]).any(axis=(1, 2)))  # the window ends after the page
    height = min(int(full[-1]) + 30, page.height, (heights or {}).get(picture.name, page.height))
    page = page.crop((0, 0, page.width, height))
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE  # every colour within 11 of 255
    page.quantize(_COLOURS, method=method, dither=dither).save(file, optimize=True)


def _lineage(live: Platform, browser: Browser, folder: Path) -> None:
    with visit(browser) as desk:
        desk.page.set_viewport_size(_LINEAGE_SIZE)
        for name, address in _LINEAGE.items():
            desk.page.goto(live.services.dagster_url + address)
            desk.page.wait_for_timeout(_LINEAGE_MS)
            desk.page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
