"""The dashboards' files: generated from the code, and read back as what Grafana would ask."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARDS = Path(__file__).parent / "dashboards"


def generated() -> dict[str, str]:
    """File name to content of every dashboard."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    from infra.grafana.dashboards import ALL

    built = [make().build() for make in ALL]
    for dashboard in built:
        for number, panel in enumerate(dashboard.panels or [], 1):
            panel.id_val = number
    return {
        f"{dashboard.uid}.json": JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"
        for dashboard in built
    }


@dataclass(frozen=True)
class Query:
    """A query of a panel, as the committed file has it."""

    dashboard: str
    panel: dict[str, Any]
    kind: str
    text: str
    legend: str

    @property
    def name(self) -> str:
        return f"{self.dashboard}: {self.panel['title']}"

    def rendered(self, *, rate_interval: str, start: str, end: str, schema: str) -> str:
        """The query as Grafana would send it, with its variables and macros replaced."""
        text = self.text.replace("$__rate_interval", rate_interval).replace("${schema}", schema)
        text = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 BETWEEN '{start}' AND '{end}'", text)
        assert "$" not in text, f"{self.name}: {text}"  # noqa: S101 (a macro that is unknown here)
        return text


def headings() -> Iterator[tuple[str, str, int]]:
    """Dashboard, title and place (y) of every row of panels."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            if panel["type"] == "row":
                yield dashboard["title"], panel["title"], panel["gridPos"]["y"]


def queries() -> Iterator[Query]:
    """Every query of every panel of the committed files."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(path.read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                kind = target["datasource"]["type"]
                text = target["expr"] if kind == "prometheus" else target["rawSql"]
                legend = target.get("legendFormat", "")
                yield Query(dashboard["title"], panel, kind, text, legend)
