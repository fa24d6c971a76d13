"""The map of tiles, drawn."""

import re

import pytest
import vl_convert

from dashboard.charts.stream import state_map


@pytest.mark.parametrize("values", [(None, None), (0.2, None), (0.1, 0.3)])
def test_each_state_is_read_aloud_and_no_layer_without_a_name(
    values: tuple[float | None, ...],
) -> None:
    """A layer of tiles that all are hatched has no marks, and so nothing to be called by."""
    spec = state_map("Watchlist share", "%", "light")
    drawn = spec if isinstance(spec, dict) else spec.to_dict()
    rows = [
        {"state": state, "column": at, "row": 0, "value": value, "few": value is None}
        | {"text": "few", "ink": "#000", "applications": 3}
        for at, (state, value) in enumerate(zip(("CA", "NY"), values, strict=True))
    ]
    svg = vl_convert.vegalite_to_svg(drawn | {"data": {"values": rows}})
    unnamed = [
        mark
        for mark in re.findall(r'<\w+ [^>]*role="graphics-symbol"[^>]*>', svg)
        if "aria-label" not in mark
    ]
    assert unnamed == []
    assert [name in svg for name in ("State: CA", "State: NY")] == [True, True]
