"""Asking what Grafana would ask: the panels' queries, of Prometheus and of the warehouse."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.grafana.files import DASHBOARDS
from resources.postgres.connection import Warehouse, fetch_all

_TIMEOUT_SECONDS = 30


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
        assert "$" not in text, f"{self.name}: {text}"
        return text


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


@dataclass(frozen=True)
class Series:
    """A line: its labels, and its points as (Unix time, value)."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Sources:
    """Where the panels' queries go, and for which time.

    Attributes:
        prometheus: its address.
        warehouse: the platform's schema.
        schema: its name.
        start, end: Unix times.
        rate_interval: what $__rate_interval stands for.
    """

    prometheus: str
    warehouse: Warehouse
    schema: str
    start: float
    end: float
    rate_interval: str = "1m"

    def series(self, query: Query) -> list[Series]:
        """The lines of a Prometheus query, without points that are no numbers."""
        step = max((self.end - self.start) / 200, 1.0)
        answer = self._ask(
            "query_range",
            query=self._text(query),
            start=str(self.start),
            end=str(self.end),
            step=f"{step:.3f}",
        )
        found = [
            Series(
                one["metric"], [(t, float(v)) for t, v in one["values"] if v not in ("NaN", "+Inf")]
            )
            for one in answer["result"]
        ]
        return [one for one in found if one.points]

    def rows(self, query: Query) -> list[dict[str, Any]]:
        """The rows of a warehouse query."""
        with self.warehouse.session("panels") as connection:
            return fetch_all(connection, self._text(query))

    def _text(self, query: Query) -> str:
        return query.rendered(
            rate_interval=self.rate_interval,
            start=_iso(self.start),
            end=_iso(self.end),
            schema=self.schema,
        )

    def _ask(self, what: str, **parameters: str) -> Any:
        request = urllib.request.Request(
            f"{self.prometheus}/api/v1/{what}", urllib.parse.urlencode(parameters).encode()
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            return json.load(response)["data"]


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat()
