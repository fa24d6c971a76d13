"""`python -m infra.grafana.pictures FOLDER`: the dashboards as pictures, without a Grafana.

Each panel of the committed files is asked as Grafana asks it, of a running Prometheus and warehouse
(DATABASE_URL), and drawn at its place with matplotlib.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from credit_risk_dagster.settings import WarehouseSettings
from infra.grafana.files import Query, headings, queries
from infra.grafana.sources import Series, Sources
from resources.postgres.ledger import Warehouse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PAPER, _INK, _FAINT = "#181b1f", "#d8d9da", "#3a3f45"
_COLORS = {"green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2"}
_LINES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c", "#8ab8ff", "#56a64b"]
_TABLE_ROWS = 6
_LEGENDS = 8
_LEFT = 0.05  # of the width, for the names on an axis


def draw(sources: Sources, folder: Path) -> list[Path]:
    """Draw every dashboard; gives the pictures' files."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    written = []
    for title, of_dashboard in groupby(queries(), key=lambda query: query.dashboard):
        panels = [list(group) for _, group in groupby(of_dashboard, key=lambda q: q.panel["id"])]
        height = max(p[0].panel["gridPos"]["y"] + p[0].panel["gridPos"]["h"] for p in panels)
        figure = plt.figure(figsize=(15, height * 0.36), facecolor=_PAPER)
        for of, heading, y in headings():
            if of == title:
                figure.text(0.01, 1 - (y + 0.6) / height, heading, color=_INK, fontsize=12)
        for panel in panels:
            place = panel[0].panel["gridPos"]
            axes = figure.add_axes(
                (
                    place["x"] / 24 + _LEFT,
                    1 - (place["y"] + place["h"]) / height + 0.9 / height,
                    place["w"] / 24 - _LEFT - 0.01,
                    (place["h"] - 2.4) / height,
                ),
                facecolor=_PAPER,
            )
            _panel(axes, sources, panel)
        path = folder / f"grafana-{title.lower().replace(' ', '-')}.png"
        figure.savefig(path, dpi=80, facecolor=_PAPER)
        plt.close(figure)
        written.append(path)
    return written


def _panel(axes: "Axes", sources: Sources, of_panel: Sequence[Query]) -> None:
    panel = of_panel[0].panel
    axes.set_title(panel["title"], color=_INK, fontsize=10, loc="left", fontweight="bold")
    axes.tick_params(colors=_INK, labelsize=7, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel["type"] == "table":
        _table(axes, sources.rows(of_panel[0]))
        return
    found = [
        (_legend(query.legend, one), one) for query in of_panel for one in sources.series(query)
    ]
    if not found:
        axes.text(0.5, 0.5, "No data", color=_COLORS["red"], ha="center", transform=axes.transAxes)
        return
    defaults = panel["fieldConfig"]["defaults"]
    kind = panel["type"]
    if kind == "stat":
        _stat(axes, found[0][1], defaults)
    elif kind == "bargauge":
        _bars(axes, found, defaults)
    elif kind == "heatmap":
        _heatmap(axes, found)
    else:
        _lines(axes, found, panel)


def _stat(axes: "Axes", one: Series, defaults: dict[str, Any]) -> None:
    value = one.points[-1][1]
    text, color = _value(value, defaults.get("unit", "")), _threshold(value, defaults)
    for mapping in defaults.get("mappings", []):
        if word := mapping["options"].get(f"{value:g}"):
            text, color = word["text"], _COLORS[word["color"]]
    axes.set_facecolor(color)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        *(0.5, 0.45, text),
        ha="center",
        va="center",
        fontsize=17,
        fontweight="bold",
        color="#111",
        transform=axes.transAxes,
    )


def _lines(axes: "Axes", found: list[tuple[str, Series]], panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "")
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    times = sorted({t for _, one in found for t, _ in one.points})
    clock = _clock(times)
    lines = [
        (name, [points.get(t, 0.0 if stacked else float("nan")) for t in times])
        for name, one in found
        for points in [dict(one.points)]
    ]
    colors = [_LINES[i % len(_LINES)] for i in range(len(lines))]
    if stacked:
        values = [value for _, value in lines]
        axes.stackplot(clock, *values, labels=[n for n, _ in lines], colors=colors, alpha=0.75)
    else:
        for color, (name, value) in zip(colors, lines, strict=True):
            axes.plot(clock, value, color=color, linewidth=1.2, label=name)
    if defaults["custom"].get("thresholdsStyle", {}).get("mode") == "line":
        top = max(v for _, value in lines for v in value if v == v)
        for step in defaults["thresholds"]["steps"]:
            # A line far above the data would squeeze it.
            if step["value"] is not None and step["value"] <= 3 * top:
                axes.axhline(step["value"], color=_COLORS[step["color"]], linewidth=0.8, ls="--")
    axes.set_ylim(bottom=0, top=defaults.get("max"))
    axes.grid(color=_FAINT, linewidth=0.4)
    _time_axis(axes)
    axes.yaxis.set_major_formatter(lambda value, _: _value(value, unit))
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[:_LEGENDS],
        names[:_LEGENDS],
        fontsize=6.5,
        loc="upper left",
        labelcolor=_INK,
        facecolor=_PAPER,
        edgecolor=_FAINT,
        ncols=2,
    )


def _bars(axes: "Axes", found: list[tuple[str, Series]], defaults: dict[str, Any]) -> None:
    ordered = sorted(found, key=lambda pair: pair[1].points[-1][1])
    values = [one.points[-1][1] for _, one in ordered]
    axes.barh([n for n, _ in ordered], values, color=[_threshold(v, defaults) for v in values])
    for position, value in enumerate(values):
        axes.text(
            value,
            position,
            f" {_value(value, defaults.get('unit', ''))}",
            color=_INK,
            va="center",
            fontsize=6.5,
        )
    axes.set_xlim(0, max(values) * 1.15 or 1)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=6.5)


def _heatmap(axes: "Axes", found: list[tuple[str, Series]]) -> None:
    import numpy as np

    edges = sorted(found, key=lambda pair: float(pair[1].labels["le"].replace("+Inf", "inf")))
    times = sorted({t for _, one in edges for t, _ in one.points})
    cumulative = np.array([[dict(one.points).get(t, 0.0) for t in times] for _, one in edges])
    density = np.diff(cumulative, axis=0, prepend=0.0).clip(min=0)
    used = np.flatnonzero(density.sum(axis=1))
    first, last = (used[0], used[-1] + 1) if len(used) else (0, len(edges))
    clock = _clock(times)
    axes.pcolormesh(clock, range(last - first), density[first:last], cmap="inferno", shading="auto")
    ticks = list(range(0, last - first, max((last - first) // 6, 1)))
    axes.set_yticks(ticks, [f"≤ {edges[first + at][1].labels['le']} s" for at in ticks])
    _time_axis(axes)


def _table(axes: "Axes", rows: list[dict[str, Any]]) -> None:
    axes.set_axis_off()
    if not rows:
        axes.text(0.5, 0.5, "No data", color=_COLORS["red"], ha="center", transform=axes.transAxes)
        return
    names = list(rows[0])
    cells = [[_cell(row[name]) for name in names] for row in rows[:_TABLE_ROWS]]
    longest = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    grid = axes.table(
        cells,
        colLabels=names,
        loc="upper left",
        cellLoc="left",
        edges="horizontal",
        colWidths=[length / sum(longest) for length in longest],
    )
    grid.auto_set_font_size(False)
    grid.set_fontsize(6.5)
    for cell in grid.get_celld().values():
        cell.set_text_props(color=_INK)
        cell.set_edgecolor(_FAINT)


def _clock(times: Sequence[float]) -> Any:
    import numpy as np

    return (np.array(times) * 1000).astype("datetime64[ms]")


def _time_axis(axes: "Axes") -> None:
    from matplotlib.dates import DateFormatter
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))


def _threshold(value: float, defaults: dict[str, Any]) -> str:
    steps = defaults.get("thresholds", {}).get("steps", [])
    reached = [s["color"] for s in steps if s["value"] is None or value >= s["value"]]
    return _COLORS[reached[-1]] if reached else _COLORS["blue"]


def _value(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.1%}"
    if unit == "bytes":
        return f"{value / 2**20:,.1f} MiB"
    if unit == "s":
        if value >= 86_400:
            return f"{value / 86_400:.1f} d"
        return f"{value / 60:.1f} min" if value >= 120 else f"{value:.3g} s"
    return f"{value:,.4g}" + {"eps": " /s", "cps": " /s"}.get(unit, "")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = "" if value is None else str(value)
    return text if len(text) <= 44 else f"{text[:43]}…"


def _legend(template: str, one: Series) -> str:
    for name, value in one.labels.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def main(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go.", file_okay=False)],
    prometheus: Annotated[str, typer.Option(help="Its address.")] = "http://127.0.0.1:9090",
    minutes: Annotated[float, typer.Option(min=0.5, help="How far back.")] = 30,
    rate_interval: Annotated[str, typer.Option(help="Four scrapes at least.")] = "1m",
) -> None:
    """Draw the dashboards from what Prometheus and the warehouse say now."""
    settings = WarehouseSettings()
    now = time.time()
    sources = Sources(
        *(prometheus, Warehouse(settings), settings.db_schema),
        *(now - 60 * minutes, now, rate_interval),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for path in draw(sources, folder):
        typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
