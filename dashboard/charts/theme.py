"""Colours that Streamlit's own theme (`.streamlit/config.toml`) does not reach."""

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any
from urllib.parse import quote

from credit_risk_dagster.domain.policy import TIERS

# Told apart with each kind of colour blindness, and at least 3:1 against both backgrounds, so that
# a tier has one colour in light and in dark.
TIER_COLOURS = dict(zip(TIERS, ("#2F7DBD", "#C28400", "#C6303E"), strict=True))

# Of lines and what else has no tier: at least 3:1 against both backgrounds. Lines also differ in
# their dashes.
SERIES_COLOURS = ("#2F7DBD", "#C28400", "#C6303E", "#2E8B70", "#8E6BBF", "#6E7F91")
SERIES_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [1, 3])
NEUTRAL = "#7F8C9B"

# Streamlit writes the text of light charts at 3.7:1.
CHART_TEXT = {"light": "#45556A", "dark": "#B4C1D0"}

# Streamlit announces each run: it shows a running figure and fades what is not redrawn yet. On a
# page that refreshes every two seconds that is flicker. And it leaves a lot of room above headings,
# and writes what is chosen in white on the theme's own colour, which in dark has no contrast. And
# it cuts off what a narrow key figure says, as on a phone. And its tables hand themselves out as a
# file, formulas and all, to who may not export, and without a row in `exports`. And it prints the
# first screen alone, with what can be pressed.
PAGE_STYLE = """
<style>
[data-testid="stStatusWidget"] { display: none; }
[data-stale="true"] { opacity: 1 !important; transition: none !important; }
[data-testid="stMainBlockContainer"] { padding-top: 4rem; }
[data-testid="stHeading"] h2 { padding: 0; }
[data-testid="stMetric"] * {
  white-space: normal !important; overflow: visible !important; text-overflow: clip !important;
}
[data-testid="stCaptionContainer"] code { color: inherit; }
[data-testid="stElementToolbarButton"]:has([aria-label^="Download as CSV"]) { display: none; }
[data-tag] { background-color: rgba(128, 140, 155, 0.25) !important; }
[data-tag], [data-tag] * { color: inherit !important; }
@media print {
  [data-testid="stHeader"], [data-testid="stToolbar"], [data-testid="stBaseButton-secondary"],
  [data-testid="stSelectbox"], [data-testid="stMultiSelect"], [data-testid="stTextInput"],
  [data-testid="stDownloadButton"], [data-testid="stPopover"] { display: none !important; }
  [data-testid="stAppViewContainer"], [data-testid="stMain"], .stApp {
    position: static !important; overflow: visible !important; height: auto !important;
  }
  [data-testid="stMainBlockContainer"] { padding: 0; }
  [data-testid="stMetric"], [data-testid="stVegaLiteChart"], .signals li { break-inside: avoid; }
}
</style>
"""

# The colours of the lowest and the highest tile of a map.
TILE_COLOURS = {"light": ("#E6EEF6", "#1F4E79"), "dark": ("#1E2E42", "#A9D0F5")}


def config(theme: str) -> dict[str, Any]:
    """What a specification needs to have contrast in a theme: light or dark."""
    text = CHART_TEXT[theme]
    labels = {"labelColor": text, "titleColor": text}
    return {
        "axis": labels,
        "legend": labels,
        "text": {"color": text},
        "rule": {"color": text},
    }


def tile_ink(share: float, theme: str) -> str:
    """Black or white, whichever has contrast on a tile that is `share` of the way (0 to 1) from the
    lowest to the highest colour; by WCAG 2.2, one of them always has 4.5:1."""
    low, high = (
        [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in TILE_COLOURS[theme]
    )
    mixed = [start + share * (end - start) for start, end in zip(low, high, strict=True)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mixed]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#FFFFFF"


def sparkline(values: Sequence[float], words: str, colour: str) -> str:
    """A line over its area, as HTML; it fills the width that there is, and has a gap where there is
    no value (NaN). A value between two gaps is a dash, which is as long as a step.

    Streamlit's own charts in a metric say nothing to a screen reader.
    """
    known = [value for value in values if not math.isnan(value)]
    low, span = min(known), (max(known) - min(known)) or 1.0
    step = 100 / (len(values) - 1)
    parts = []
    for has, run in groupby(enumerate(values), key=lambda each: not math.isnan(each[1])):
        if has:
            heights = [(at * step, 30 - 28 * (value - low) / span) for at, value in run]
            if len(heights) == 1:
                ((at, height),) = heights
                heights = [(max(at - step / 2, 0), height), (min(at + step / 2, 100), height)]
            points = " ".join(f"{at:.2f},{height:.2f}" for at, height in heights)
            under = f"{heights[0][0]:.2f},32 {points} {heights[-1][0]:.2f},32"
            parts.append(
                f'<polygon points="{under}" fill="{colour}" fill-opacity="0.12"/>'
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"'
                ' vector-effect="non-scaling-stroke"/>'
            )
    line = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 32" preserveAspectRatio="none">'
        f"{''.join(parts)}</svg>"
    )
    return (
        f'<img src="data:image/svg+xml,{quote(line)}" alt="{escape(words)}"'
        ' style="display:block;width:100%;height:32px">'
    )


def swatch(tier: str) -> str:
    """A square in the tier's colour, as Markdown for a label."""
    square = _svg(f'<rect width="10" height="10" rx="2" fill="{TIER_COLOURS[tier]}"/>')
    return f"![]({square})"


def page_icon() -> str:
    """Three bars in the tiers' colours; a named icon would be fetched from the internet."""
    return _svg(
        "".join(
            f'<rect x="{4 * i}" y="{6 - 3 * i}" width="3" height="{4 + 3 * i}" fill="{colour}"/>'
            for i, colour in enumerate(TIER_COLOURS.values())
        )
    )


def _svg(shapes: str) -> str:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10">{shapes}</svg>'
    return f"data:image/svg+xml,{quote(svg)}"
