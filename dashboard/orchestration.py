"""What Dagster is doing, from its webserver, and links into its UI and into Grafana."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import requests
import streamlit as st

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DashboardSettings

LOCATION = "credit_risk"  # of workspace.yaml
TIMEOUT_SECONDS = 2.0
RUNS = 20

_QUERY = """
query Dashboard($runs: Int!) {
  runsOrError(limit: $runs) {
    ... on Runs { results { runId jobName status creationTime startTime endTime } }
  }
  repositoriesOrError {
    ... on RepositoryConnection { nodes {
      name
      sensors { name sensorState { ...state } }
      schedules { name scheduleState { ...state } }
    } }
  }
}
fragment state on InstigationState {
  status
  ticks(limit: 1) { timestamp status skipReason error { message } }
}
"""


class DagsterUnavailable(PlatformError):
    """Dagster's webserver does not answer, or not as expected."""


@dataclass(frozen=True)
class Dagster:
    """Dagster at one moment.

    Attributes:
        runs: the newest: `run_id`, `job`, `status`, `started` (time), `seconds` (so far).
        instigators: sensors and schedules: `name`, `kind`, `status`, `tick` (time), `outcome`,
            `why`.
    """

    runs: pd.DataFrame
    instigators: pd.DataFrame


@st.cache_data(ttl=5, show_spinner=False)
def state(zone: str) -> Dagster:
    """The newest runs and each sensor's and schedule's last tick, with times in a zone.

    Raises:
        DagsterUnavailable: the message names the address.
    """
    url = DashboardSettings().dagster_url
    try:
        answer = requests.post(
            f"{url.rstrip('/')}/graphql",
            json={"query": _QUERY, "variables": {"runs": RUNS}},
            timeout=TIMEOUT_SECONDS,
        )
        answer.raise_for_status()
        data = answer.json()["data"]
        runs = [_run(run) for run in data["runsOrError"]["results"]]
        instigators = [
            found
            for repository in data["repositoriesOrError"]["nodes"]
            for found in _instigators(repository)
        ]
    except (requests.RequestException, KeyError, TypeError) as error:
        raise DagsterUnavailable(
            f"Dagster at {url} does not answer as it should ({type(error).__name__}): start it, or "
            "set CREDIT_RISK_DAGSTER_URL"
        ) from error
    state = Dagster(
        pd.DataFrame(runs, columns=["run_id", "job", "status", "started", "seconds"]),
        pd.DataFrame(
            instigators, columns=["name", "kind", "status", "tick", "outcome", "why"]
        ).sort_values(["kind", "name"], ascending=[False, True]),
    )
    for frame, column in ((state.runs, "started"), (state.instigators, "tick")):
        frame[column] = pd.to_datetime(frame[column], unit="s", utc=True).dt.tz_convert(zone)
    return state


def _run(run: dict[str, Any]) -> dict[str, Any]:
    started = run["startTime"]
    ended = run["endTime"] or pd.Timestamp.now(tz="UTC").timestamp()
    return {
        "run_id": run["runId"],
        "job": run["jobName"],
        "status": run["status"].capitalize(),
        "started": started or run["creationTime"],
        "seconds": ended - started if started else float("nan"),
    }


def _instigators(repository: dict[str, Any]) -> list[dict[str, Any]]:
    nothing: dict[str, Any] = {}
    return [
        {
            "name": found["name"],
            "kind": kind,
            "status": found[f"{kind}State"]["status"].capitalize(),
            "tick": tick.get("timestamp"),
            "outcome": tick.get("status", "").capitalize(),
            "why": (tick.get("error") or {}).get("message") or tick.get("skipReason") or "",
        }
        for kind in ("sensor", "schedule")
        for found in repository[f"{kind}s"]
        for tick in [next(iter(found[f"{kind}State"]["ticks"]), nothing)]
    ]


def run_url(run_id: str) -> str:
    """A run, in Dagster's UI."""
    return f"{_root()}/runs/{run_id}"


def job_url(job: str) -> str:
    """Where a job is launched, in Dagster's UI."""
    return f"{_root()}/locations/{LOCATION}/jobs/{job}/playground"


def automation_url(kind: str, name: str) -> str:
    """A sensor or schedule, in Dagster's UI."""
    return f"{_root()}/locations/{LOCATION}/{kind}s/{name}"


def asset_url(asset: str) -> str:
    """An asset, in Dagster's UI."""
    return f"{_root()}/assets/{asset}"


def grafana_url() -> str | None:
    """Grafana, where there is one."""
    return DashboardSettings().grafana_url


def _root() -> str:
    return DashboardSettings().dagster_url.rstrip("/")
