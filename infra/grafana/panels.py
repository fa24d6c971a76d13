"""Pieces of dashboards: panels over Prometheus and over the warehouse, in one look."""

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorOptions
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

PROMETHEUS = DataSourceRef("prometheus", "${prometheus}")
WAREHOUSE = DataSourceRef("postgres", "${warehouse}")

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on, which colour; the first from None."""


class Sql(Dataquery):
    """A query of the warehouse, as Grafana's Postgres datasource takes it."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.ref_id = "A"

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": WAREHOUSE,
            "rawQuery": True,
            "editorMode": "code",
            "format": "table",
            "rawSql": self.sql,
        }


class SqlQuery(Builder[Sql]):
    """Builds `Sql`, as the kit's builders do."""

    def __init__(self, sql: str) -> None:
        self._sql = " ".join(sql.split())

    def build(self) -> Sql:
        return Sql(self._sql)


def series(
    title: str,
    description: str,
    queries: Mapping[str, str],
    unit: str,
    *,
    width: int = 12,
    stacked: bool = False,
    steps: Steps = (),
    top: float | None = None,
) -> timeseries.Panel:
    """Lines over time.

    Args:
        queries: legend (with {{label}}) to PromQL.
        stacked: as areas upon each other.
        steps: thresholds, drawn as lines.
        top: end of the axis.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(25 if stacked else 5)
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if top is not None:
        panel = panel.max(top)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if steps:
        panel = panel.thresholds(thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.LINE)
        )
    for number, (legend, expr) in enumerate(queries.items()):
        panel = panel.with_target(_promql(expr, number).legend_format(legend).range())
    return panel


def number(
    title: str,
    description: str,
    expr: str,
    unit: str,
    steps: Steps,
    *,
    width: int = 3,
    words: Mapping[float, tuple[str, str]] | None = None,
) -> stat.Panel:
    """One figure with its threshold's colour; `words` gives some values a text and a colour."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .span(width)
        .height(4)
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.AREA)
        .thresholds(thresholds(steps))
        .with_target(_promql(expr).range())
    )
    if words:
        options = {
            f"{value:g}": ValueMappingResult(text=text, color=color)
            for value, (text, color) in words.items()
        }
        panel = panel.mappings([ValueMap(options)]).graph_mode(BigValueGraphMode.NONE)
    return panel


def bars(
    title: str,
    description: str,
    expr: str,
    legend: str,
    unit: str,
    steps: Steps,
    *,
    width: int = 12,
) -> bargauge.Panel:
    """A bar for each series, as it is now."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .orientation(VizOrientation.HORIZONTAL)
        .thresholds(thresholds(steps))
        .with_target(_promql(expr).legend_format(legend).instant())
    )


def density(
    title: str, description: str, expr: str, unit: str, *, width: int = 12
) -> heatmap.Panel:
    """A histogram's buckets over time."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .span(width)
        .height(8)
        .unit(unit)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(
            _Built(
                HeatmapColorOptions(
                    mode=HeatmapColorMode.SCHEME, scheme="Oranges", exponent=0.5, steps=64
                )
            )
        )
        .with_target(_promql(expr).legend_format("{{le}}").format(PromQueryFormat.HEATMAP).range())
    )


def rows(title: str, description: str, sql: str, *, width: int = 24) -> table.Panel:
    """A table of the warehouse."""
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(WAREHOUSE)
        .span(width)
        .height(9)
        .with_target(SqlQuery(sql))
    )


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value, color) for value, color in steps])
    )


def _promql(expr: str, number: int = 0) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(" ".join(expr.split()))
    return query.ref_id(chr(ord("A") + number)).datasource(PROMETHEUS)


class _Built(Builder[Any]):
    """Something built already, where the kit wants a builder."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def build(self) -> Any:
        return self._value
