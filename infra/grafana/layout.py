"""What the dashboards have in common: variables, links, rows of panels.

Queries take the maximum over the API's replicas (`max by`), each of which tells the same.
Thresholds are those of the alerts and of the objectives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DynamicConfigValue,
    VariableOption,
)

from infra.grafana.panels import BLUE, GREEN, Steps

Panel = Any  # a builder of any kind of panel

_TAG = "credit-risk"
ANY: Steps = [(None, BLUE)]


def zero_or(color: str) -> Steps:
    """Green at zero, else that color."""
    return [(None, GREEN), (1, color)]


def assembled(
    board: dashboard.Dashboard, rows: Mapping[str, Sequence[Panel]]
) -> dashboard.Dashboard:
    """A dashboard with its rows of panels, by title."""
    for title, panels in rows.items():
        board.with_row(dashboard.Row(title))
        for panel in panels:
            board.with_panel(panel)
    return board


def new_dashboard(uid: str, title: str, description: str) -> dashboard.Dashboard:
    """A dashboard without panels."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([_TAG])
        .timezone("browser")
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .editable()
        .variables(
            [
                _datasource("prometheus", "Prometheus", "credit-risk-prometheus"),
                _datasource("warehouse", "Warehouse", "credit-risk-warehouse", "postgres"),
                dashboard.ConstantVariable("schema").label("Schema").value("credit_risk"),
                _address("dagster_url", "Dagster", "http://127.0.0.1:3000"),
                _address("dashboard_url", "Dashboard", "http://127.0.0.1:8501"),
            ]
        )
        .links(
            [
                dashboard.DashboardLink("Credit risk")
                .type(DashboardLinkType.DASHBOARDS)
                .tags([_TAG])
                .keep_time(True)
                .include_vars(True),
                _link("Dagster", "${dagster_url}/overview/activity/timeline", "Runs and sensors"),
                _link("Dashboard", "${dashboard_url}", "What the credit-risk team looks at"),
            ]
        )
    )


def _datasource(
    name: str, label: str, uid: str, kind: str | None = None
) -> dashboard.DatasourceVariable:
    return (
        dashboard.DatasourceVariable(name)
        .label(label)
        .type(kind or name)
        .current(VariableOption(selected=True, text=label, value=uid))
    )


def _address(name: str, label: str, url: str) -> dashboard.TextBoxVariable:
    return (
        dashboard.TextBoxVariable(name)
        .label(f"Address of {label}")
        .default_value(url)
        .current(VariableOption(selected=True, text=url, value=url))
    )


def _link(title: str, url: str, tooltip: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(title)
        .type(DashboardLinkType.LINK)
        .url(url)
        .tooltip(tooltip)
        .icon("external link")
        .target_blank(True)
    )


def run_link() -> list[DynamicConfigValue]:
    """Leads from a run's id to the run in Dagster."""
    return [
        DynamicConfigValue(
            "links",
            [
                {
                    "title": "The run in Dagster",
                    "url": "${dagster_url}/runs/${__value.raw}",
                    "targetBlank": True,
                }
            ],
        )
    ]
