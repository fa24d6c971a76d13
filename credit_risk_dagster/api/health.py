"""Which of the servers that the platform needs answer, and how fast."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import structlog
from dagster import DagsterInstance
from dagster._core.errors import DagsterHomeNotSetError
from pydantic import BaseModel, Field

from credit_risk_dagster.settings import Settings
from resources.broker import Broker
from resources.lake import Lake
from resources.warehouse import WarehouseReader

PATIENCE_SECONDS = 3.0
# Probes may be many, and each question opens connections.
FRESH_SECONDS = 1.0

log = structlog.stdlib.get_logger(__name__)


class DependencyState(BaseModel):
    """How a dependency is."""

    state: Literal["up", "down", "not configured"]
    required: bool = Field(description="whether the API itself needs it")
    latency_ms: float | None = Field(None, description="how long its answer took")
    error: str | None = Field(None, description="kind of error; the log says more")


class Readiness(BaseModel):
    """`ready`: all is up. `degraded`: the API works; something that others need is down.
    `unavailable`: something that the API needs is down (with status 503)."""

    status: Literal["ready", "degraded", "unavailable"]
    dependencies: dict[str, DependencyState]


@dataclass
class Dependency:
    """A server to ask.

    Attributes:
        check: asks it; raises when something is wrong.
        required: whether the API itself needs it.
    """

    name: str
    check: Callable[[], object]
    required: bool = False
    asked_at: float = 0.0
    answer: Future[float] | None = None


class Health:
    """Asks every dependency at the same time. One that hangs is asked once, not by each caller."""

    def __init__(self, settings: Settings, warehouse: WarehouseReader) -> None:
        lake = Lake(
            settings.lake.model_copy(
                update={"max_attempts": 1, "timeout_seconds": PATIENCE_SECONDS}
            )
        )
        self._dependencies = [
            Dependency("broker", Broker(settings.kafka).inspect, required=True),
            Dependency("warehouse", lambda: _ask_warehouse(warehouse), required=True),
            Dependency("lake", lake.check_access),
            Dependency("dagster_storage", _ask_dagster),
        ]
        self._threads = ThreadPoolExecutor(len(self._dependencies), "health")
        self._lock = Lock()

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def readiness(self) -> Readiness:
        """The state of every dependency, at most a second old. Waits for three at most."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        asked = [(dependency, self._ask(dependency)) for dependency in self._dependencies]
        states = {
            dependency.name: _state(dependency, answer, deadline - time.monotonic())
            for dependency, answer in asked
        }
        down = [state for state in states.values() if state.state == "down"]
        if any(state.required for state in down):
            return Readiness(status="unavailable", dependencies=states)
        return Readiness(status="degraded" if down else "ready", dependencies=states)

    def _ask(self, dependency: Dependency) -> Future[float]:
        with self._lock:
            now = time.monotonic()
            answer = dependency.answer
            if answer is None or (answer.done() and now - dependency.asked_at > FRESH_SECONDS):
                dependency.asked_at = now
                answer = dependency.answer = self._threads.submit(_timed, dependency.check)
            return answer


def _timed(check: Callable[[], object]) -> float:
    started = time.perf_counter()
    check()
    return (time.perf_counter() - started) * 1000


def _state(dependency: Dependency, answer: Future[float], seconds: float) -> DependencyState:
    try:
        latency = round(answer.result(timeout=max(seconds, 0)), 1)
    except NotInTime:
        error, why = "NoAnswer", f"no answer within {PATIENCE_SECONDS:g} s"
    except DagsterHomeNotSetError:
        return DependencyState(state="not configured", required=dependency.required)
    except Exception as failed:  # noqa: BLE001 (whatever it is, the dependency does not work)
        error, why = type(failed).__name__, str(failed)
    else:
        return DependencyState(state="up", required=dependency.required, latency_ms=latency)
    log.warning("a dependency is down", dependency=dependency.name, kind=error, error=why)
    return DependencyState(state="down", required=dependency.required, error=error)


def _ask_warehouse(warehouse: WarehouseReader) -> None:
    with warehouse.session() as connection:
        connection.execute("SELECT FROM stream_offsets LIMIT 1")


def _ask_dagster() -> None:
    with DagsterInstance.get() as instance:
        instance.get_daemon_statuses()
