"""The dashboard in a real browser: Debian's Chromium, driven by Playwright."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.platform.waiting import slowness

CHROMIUM = Path("/usr/bin/chromium")
WIDTHS = {"desktop": 1280, "phone": 390}
THEMES = ("light", "dark")
# Title of each page, and its address.
PAGES = {
    "Credit risk overview": "/",
    "Watchlist": "/watchlist",
    "Drift": "/drift",
    "Model": "/model",
    "Portfolio": "/portfolio",
    "Inventory": "/inventory",
    "Policy lab": "/policy-lab",
    "Operations": "/operations",
}
PATIENCE_MS = 30_000
_PHONE = (
    "Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 "
    "Mobile Safari/537.36"
)
_QUIET_MS = 300  # on a machine that does nothing else; from a click to what comes of it is less
# Nothing is being computed, drawn or moved, and for so long nothing was; or, where a slow machine
# is never quiet because one refresh follows the other, the page was drawn three times, whole.
_QUIET = """
quiet => new Promise(settled => {
  const begun = performance.now();
  let since = begun, drawn = 0;
  const seen = new MutationObserver(changes => {
    since = performance.now();
    const ended = change =>
      change.attributeName === 'data-test-script-state' && change.oldValue === 'running';
    drawn += changes.filter(ended).length;
  });
  const everything = {subtree: true, childList: true, attributes: true, characterData: true};
  seen.observe(document.documentElement, {...everything, attributeOldValue: true});
  const missing = '[data-testid=stSkeleton], [data-testid=stSpinner]';
  const running = '[data-test-script-state=running]';
  const moves = animation => animation.effect.getComputedTiming().endTime < Infinity;
  const look = () => {
    const now = performance.now();
    if (document.querySelector(missing) || document.getAnimations().some(moves)) {
      since = now;
      drawn = 0;
    }
    if (document.querySelector(running)) since = now;
    const again = drawn >= 3 && now - begun > 10 * quiet;
    if (now - since < quiet && !again) return requestAnimationFrame(look);
    seen.disconnect();
    settled();
  };
  look();
})
"""
_PICTURE_MS = 3_000
# Streamlit's own, and minor: the corner of `st.table`, and where files are dropped.
_OF_STREAMLIT = {
    "empty-table-header": "blank",
    "presentation-role-conflict": "stFileUploaderDropzone",
}
# Streamlit looks for its server below the page's own path first, and then where it is.
_PROBES = ("/_stcore/health", "/_stcore/host-config")


@dataclass
class Visit:
    """A page in the browser, and what went wrong in it; for how long it is quiet when all of it is
    drawn."""

    page: Page
    quiet_ms: float = _QUIET_MS
    problems: list[str] = field(default_factory=list)

    def open(self, address: str, title: str) -> None:
        """Load a page and wait until all of it is drawn."""
        self.page.goto(address)
        self.page.get_by_role("heading", name=title, exact=True, level=1).wait_for()
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being drawn."""
        self.page.evaluate(_QUIET, self.quiet_ms)

    def show_all(self) -> None:
        """Make the window as high as the page, which scrolls inside of it."""
        for _ in range(2):  # a part that is drawn last makes it higher
            height = self.page.evaluate(
                "() => document.querySelector('[data-testid=stMain]').scrollHeight"
            )
            size = self.page.viewport_size
            assert size is not None
            self.page.set_viewport_size(
                {"width": size["width"], "height": min(int(height) + 20, 6_000)}
            )
            self.page.wait_for_timeout(_PICTURE_MS)

    def look(self, theme: str, width: int) -> None:
        """See the page in a theme and a width."""
        self.page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
        self.page.set_viewport_size({"width": width, "height": 1_000})
        self.settle()

    def figure(self, label: str) -> str:
        """The value of a key figure."""
        metric = self.page.get_by_test_id("stMetric").filter(has_text=label)
        return metric.get_by_test_id("stMetricValue").inner_text()

    def violations(self) -> list[str]:
        """What axe-core finds, one line for each rule."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{violation['impact']} {violation['id']}: "
            + "; ".join(
                f"{' '.join(map(str, node['target']))} {node.get('failureSummary', '')}"
                for node in violation["nodes"][:3]
            )
            for violation in found
            if not all(
                _OF_STREAMLIT.get(violation["id"], "\0") in node["html"]
                for node in violation["nodes"]
            )
        ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser that stays off the internet."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                *("--disable-component-update", "--disable-sync"),
            ],
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(
    browser: Browser, theme: str = "light", width: int = WIDTHS["desktop"]
) -> Iterator[Visit]:
    """A fresh window, in the time zone of a viewer far from UTC."""
    context = browser.new_context(
        viewport={"width": width, "height": 1_000},
        user_agent=_PHONE if width == WIDTHS["phone"] else None,
        color_scheme="dark" if theme == "dark" else "light",
        timezone_id="America/New_York",
        locale="en-US",
        accept_downloads=True,
    )
    slow = slowness()
    patience = PATIENCE_MS * slow
    context.set_default_timeout(patience)
    expect.set_options(timeout=patience)
    seen = Visit(context.new_page(), _QUIET_MS * slow)

    def on_console(message: ConsoleMessage) -> None:
        where = message.location.get("url", "")
        if message.type == "error" and not where.endswith(_PROBES):
            seen.problems.append(f"console: {message.text} ({where})")

    seen.page.on("console", on_console)
    seen.page.on("pageerror", lambda error: seen.problems.append(f"uncaught: {error}"))
    seen.page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else seen.problems.append(f"another server is asked: {request.url}")
        ),
    )
    try:
        yield seen
    finally:
        context.close()
