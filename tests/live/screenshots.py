"""`make screenshots`: the pictures in docs/images, of a live run."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.settings import PROJECT_ROOT
from tests.live.browser import PAGES, THEMES, WIDTHS, Visit, chromium, visit
from tests.platform.live import Live, run_platform
from tests.platform.waiting import wait_until

FOLDER = PROJECT_ROOT / "docs" / "images"
LOANS = 6_000
RATE = 300.0  # a few hundred a second, so that there is a course to see


def main() -> None:
    """Start the platform and take the pictures."""
    with (
        TemporaryDirectory(prefix="credit-risk-shots-") as folder,
        run_platform(Path(folder) / "platform") as live,
        chromium() as browser,
    ):
        take(live, browser)


def take(live: Live, browser: Browser) -> None:
    """Let the platform score some thousand loans, and take every picture."""
    before = live.committed()
    produce(live.kafka, builtin_loans()[:LOANS], rate=RATE)
    wait_until(lambda: live.committed() >= before + LOANS, 240, "the loans are scored", every=0.5)
    for theme in THEMES:
        with visit(browser, theme) as desk:
            for title, path in PAGES.items():
                desk.open(live.services.dashboard_url + path, title)
                _take(desk, path, "" if theme == "light" else f"-{theme}")
    with visit(browser) as desk:
        desk.open(live.services.dashboard_url + _an_application(live), "Watchlist")
        _take(desk, "/application")
    with visit(browser, "dark", WIDTHS["phone"]) as phone:
        phone.open(live.services.dashboard_url, "Credit risk overview")
        _take(phone, "/", "-phone", whole=False)


def _an_application(live: Live) -> str:
    (row,) = live.query(
        'SELECT source_id, partition, "offset" FROM scored_applications'
        " WHERE risk_tier = 'Watchlist' ORDER BY cardinality(reasons) DESC, scored_at LIMIT 1"
    )
    key = f"{row['source_id']}-{row['partition']}-{row['offset']}"
    return f"/watchlist?application={key}"


def _take(desk: Visit, path: str, suffix: str = "", *, whole: bool = True) -> None:
    if whole:
        desk.show_all()
    file = FOLDER / f"{path.strip('/') or 'overview'}{suffix}.png"
    desk.page.screenshot(path=file)
    if whole:
        _cut_empty_end(file)


def _cut_empty_end(file: Path) -> None:
    """A page is shown as high as the highest one before it was."""
    with Image.open(file) as image:
        rows = np.asarray(image.convert("RGB"))
    full = np.flatnonzero((rows != rows[-1]).any(axis=(1, 2)))
    Image.fromarray(rows[: int(full[-1]) + 30]).save(file, optimize=True)


if __name__ == "__main__":
    main()
