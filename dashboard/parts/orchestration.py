"""What Dagster is doing, from its webserver, and links into its UI and into Grafana."""

import time
from dataclasses import dataclass
from typing import Any

import pandas as pd
import requests
import streamlit as st

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import DashboardSettings

LOCATION = "credit_risk"  # of workspace.yaml
# Who is not there is known at once. Who is there may be slow: the states of twenty sensors and
# schedules take Dagster a tenth of a second, and three on a core that it shares with all the rest.
CONNECT_SECONDS, ANSWER_SECONDS = 2.0, 8.0
QUIET_SECONDS = 30.0
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
  # Without `statuses` Dagster 1.13 leaves out ticks of another code server than the first one.
  ticks(limit: 1, statuses: [SKIPPED, SUCCESS, FAILURE]) {
    timestamp status skipReason error { message }
  }
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
    data = _ask(_QUERY, runs=RUNS)
    runs = [_run(run) for run in data["runsOrError"]["results"]]
    instigators = [
        found
        for repository in data["repositoriesOrError"]["nodes"]
        for found in _instigators(repository)
    ]
    state = Dagster(
        pd.DataFrame(runs, columns=["run_id", "job", "status", "started", "seconds"]),
        pd.DataFrame(
            instigators, columns=["name", "kind", "status", "tick", "outcome", "why"]
        ).sort_values(["kind", "name"], ascending=[False, True]),
    )
    for frame, column in ((state.runs, "started"), (state.instigators, "tick")):
        frame[column] = pd.to_datetime(frame[column], unit="s", utc=True).dt.tz_convert(zone)
    return state


_CHECKS = """
query Checks {
  assetNodes {
    assetKey { path }
    assetChecksOrError { ... on AssetChecks { checks {
      name
      description
      executionForLatestMaterialization {
        runId status timestamp evaluation { severity description }
      }
    } } }
  }
}
"""
_CHECK_STATES = {
    "FAILED": "Failed",
    "EXECUTION_FAILED": "Could not run",
    "IN_PROGRESS": "Running",
    "SKIPPED": "Skipped",
    "SUCCEEDED": "Passed",
}
_NEVER, _WARNING = "Not run yet", "Warning"
CHECK_STATES = ("Failed", "Could not run", _WARNING, "Running", "Skipped", _NEVER, "Passed")
"""Every state of a check, the one to act on first."""


@st.cache_data(ttl=10, show_spinner=False)
def checks(zone: str) -> pd.DataFrame:
    """Every asset check, those to act on first: `asset`, `check`, `state` (one of `CHECK_STATES`),
    `at` (time in the zone), `found`, `to_do`, `run_id`.

    Raises:
        DagsterUnavailable: the message names the address.
    """
    found = [
        _check(node["assetKey"]["path"][-1], check)
        for node in _ask(_CHECKS)["assetNodes"]
        for check in node["assetChecksOrError"].get("checks", ())
    ]
    frame = pd.DataFrame(
        found, columns=["asset", "check", "state", "at", "found", "to_do", "run_id"]
    )
    frame["at"] = pd.to_datetime(frame["at"], unit="s", utc=True).dt.tz_convert(zone)
    order = frame["state"].map(CHECK_STATES.index)
    return frame.assign(order=order).sort_values(["order", "asset", "check"]).drop(columns="order")


def _check(asset: str, check: dict[str, Any]) -> dict[str, Any]:
    nothing: dict[str, Any] = {}
    last = check["executionForLatestMaterialization"] or nothing
    evaluation = last.get("evaluation") or nothing
    state = _CHECK_STATES.get(last.get("status", ""), _NEVER)
    if state == "Failed" and evaluation.get("severity") == "WARN":
        state = _WARNING
    return {
        "asset": asset,
        "check": check["name"],
        "state": state,
        "at": last.get("timestamp"),
        "found": evaluation.get("description") or "",
        "to_do": check["description"] or "",
        "run_id": last.get("runId"),
    }


def _ask(query: str, **variables: Any) -> dict[str, Any]:
    """What Dagster's webserver answers to a GraphQL query.

    Raises:
        DagsterUnavailable: the message names the address.
    """
    settings = DashboardSettings()
    url = settings.dagster_internal_url or settings.dagster_url
    if time.monotonic() < _quiet().get(url, 0.0):
        raise _unavailable(url, f"asked again within {QUIET_SECONDS:g} s")
    try:
        answer = requests.post(
            f"{url.rstrip('/')}/graphql",
            json={"query": query, "variables": variables},
            timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
        )
        answer.raise_for_status()
        data: dict[str, Any] = dict(answer.json()["data"])  # null, with errors beside it
    except (requests.RequestException, KeyError, TypeError) as error:
        _quiet()[url] = time.monotonic() + QUIET_SECONDS
        raise _unavailable(url, type(error).__name__) from error
    return data


def _unavailable(url: str, why: str) -> DagsterUnavailable:
    return DagsterUnavailable(
        f"Dagster at {url} does not answer as it should ({why}): start it, or set "
        "CREDIT_RISK_DAGSTER_URL"
    )


@st.cache_resource
def _quiet() -> dict[str, float]:
    """Until when an address that did not answer is left alone: each page would wait for it."""
    return {}


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
