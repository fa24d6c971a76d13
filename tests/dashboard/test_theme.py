"""Contrast by the formulas of WCAG 2.2, in light and in dark."""

import tomllib
from itertools import combinations
from math import dist, nan
from urllib.parse import unquote

import pytest

from credit_risk_dagster.settings import PROJECT_ROOT
from dashboard.charts.theme import (
    CHART_TEXT,
    NEUTRAL,
    SERIES_COLOURS,
    TIER_COLOURS,
    TILE_COLOURS,
    sparkline,
    tile_ink,
)

THEMES = tomllib.loads((PROJECT_ROOT / ".streamlit" / "config.toml").read_text())["theme"]


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_has_contrast(name: str) -> None:
    theme = THEMES[name]
    assert contrast(CHART_TEXT[name], theme["backgroundColor"]) >= 4.5
    assert contrast(theme["grayTextColor"], theme["grayBackgroundColor"]) >= 4.5
    assert contrast(theme["primaryColor"], theme["backgroundColor"]) >= 4.5
    for background in ("backgroundColor", "secondaryBackgroundColor"):
        assert contrast(theme["textColor"], theme[background]) >= 7


@pytest.mark.parametrize("name", ["light", "dark"])
@pytest.mark.parametrize("colour", sorted({*TIER_COLOURS.values(), *SERIES_COLOURS, NEUTRAL}))
def test_marks_stand_out_from_the_background(name: str, colour: str) -> None:
    assert contrast(colour, THEMES[name]["backgroundColor"]) >= 3


@pytest.mark.parametrize("kind", TILE_COLOURS)
def test_letters_stand_out_on_every_tile(kind: str) -> None:
    low, high = ([int(c[at : at + 2], 16) for at in (1, 3, 5)] for c in TILE_COLOURS[kind])
    for percent in range(101):
        mixed = [
            round(start + percent / 100 * (end - start))
            for start, end in zip(low, high, strict=True)
        ]
        tile = "#{:02X}{:02X}{:02X}".format(*mixed)
        assert contrast(tile_ink(percent / 100, kind), tile) >= 4.5


def seen(colour: str, matrix: tuple[tuple[float, float, float], ...]) -> tuple[float, ...]:
    """A colour as somebody sees it who lacks one kind of cone, in linear RGB."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return tuple(sum(w * c for w, c in zip(row, linear, strict=True)) for row in matrix)


# Full dichromacy, by Machado, Oliveira and Fernandes (2009).
BLINDNESS = {
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_tiers_are_told_apart_with_every_colour_blindness(kind: str) -> None:
    colours = [seen(colour, BLINDNESS[kind]) for colour in TIER_COLOURS.values()]
    for one, other in combinations(colours, 2):
        assert dist(one, other) > 0.12


def test_a_sparkline_has_gaps_and_begins_where_something_is_known() -> None:
    """It began at an invented 0 %, and went on through an outage."""
    drawn = unquote(sparkline([nan, 2.0, 3.0, nan, nan, 1.0, nan], "Course of x", "#000000"))
    assert drawn.count("<polyline") == 2
    first, second = (part.partition('"')[0] for part in drawn.split('<polyline points="')[1:])
    assert [point.partition(",")[0] for point in first.split()] == ["16.67", "33.33"]
    assert len({point.partition(",")[2] for point in second.split()}) == 1  # a dash
    assert "nan" not in drawn
