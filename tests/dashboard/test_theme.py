"""Contrast by the formulas of WCAG 2.2, in light and in dark."""

import tomllib

import pytest

from credit_risk_dagster.settings import PROJECT_ROOT
from dashboard.theme import CHART_TEXT, TIER_COLOURS

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
@pytest.mark.parametrize("tier", TIER_COLOURS)
def test_tiers_stand_out_from_the_background(name: str, tier: str) -> None:
    assert contrast(TIER_COLOURS[tier], THEMES[name]["backgroundColor"]) >= 3
