"""Which of the servers that the platform needs answer, and how fast."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

from dagster import DagsterInstance
from pydantic import BaseModel, Field

from credit_risk_dagster.api.question import Question, Unanswered
from credit_risk_dagster.settings import Settings
from resources.dagster_internals import DagsterHomeNotSetError
from resources.kafka.broker import Broker
from resources.lake import Lake
from resources.postgres.connection import WarehouseReader

PATIENCE_SECONDS = 3.0
# Probes may be many, and each question opens connections.
FRESH_SECONDS = 1.0

# Connects to a server; the value of the context asks it, and raises when something is wrong.
Connect = Callable[[], AbstractContextManager[Callable[[], object]]]


class DependencyState(BaseModel):
    """How a dependency is."""

    state: Literal["up", "down", "not configured"] = Field(examples=["up"])
    required: bool = Field(description="whether the API itself needs it", examples=[True])
    latency_ms: float | None = Field(None, description="how long its answer took", examples=[4.2])
    error: str | None = Field(None, description="kind of error; the log says more", examples=[None])


class Readiness(BaseModel):
    """`ready`: all is up. `degraded`: the API works; something that others need is down.
    `unavailable`: something that the API needs is down (with status 503)."""

    status: Literal["ready", "degraded", "unavailable"]
    dependencies: dict[str, DependencyState]


class Health:
    """Asks every dependency at the same time, and waits for none longer than three seconds."""

    def __init__(self, settings: Settings, warehouse: WarehouseReader) -> None:
        lake = Lake(
            settings.lake.model_copy(
                update={"max_attempts": 1, "timeout_seconds": PATIENCE_SECONDS}
            )
        )
        checks: dict[str, tuple[Connect, bool]] = {
            "broker": (lambda: nullcontext(Broker(settings.kafka).inspect), True),
            "warehouse": (lambda: nullcontext(partial(_ask_warehouse, warehouse)), True),
            "lake": (lambda: nullcontext(lake.check_access), False),
            "dagster_storage": (_dagster, False),
        }
        self._questions = {
            name: (required, _question(name, connect))
            for name, (connect, required) in checks.items()
        }

    def readiness(self) -> Readiness:
        """The state of every dependency, at most a second old."""
        asked = {
            name: (required, question.ask())
            for name, (required, question) in self._questions.items()
        }
        states = {name: _state(required, answer) for name, (required, answer) in asked.items()}
        down = [state for state in states.values() if state.state == "down"]
        if any(state.required for state in down):
            return Readiness(status="unavailable", dependencies=states)
        return Readiness(status="degraded" if down else "ready", dependencies=states)


def _question(name: str, connect: Connect) -> Question[float]:
    @contextmanager
    def timed() -> Iterator[Callable[[], float]]:
        with connect() as check:

            def ask() -> float:
                started = time.perf_counter()
                check()
                return (time.perf_counter() - started) * 1000

            yield ask

    return Question(name, timed, timeout=PATIENCE_SECONDS, fresh_for=FRESH_SECONDS)


def _state(required: bool, answer: Callable[[], float]) -> DependencyState:
    try:
        latency = answer()
    except Unanswered as error:
        if isinstance(error.__cause__, DagsterHomeNotSetError):
            return DependencyState(state="not configured", required=required)
        # The message names hosts: it is for the log.
        return DependencyState(
            state="down", required=required, error=type(error.__cause__).__name__
        )
    return DependencyState(state="up", required=required, latency_ms=round(latency, 1))


def _ask_warehouse(warehouse: WarehouseReader) -> None:
    with warehouse.session() as connection:
        connection.execute("SELECT FROM stream_offsets LIMIT 1")


@contextmanager
def _dagster() -> Iterator[Callable[[], object]]:
    with DagsterInstance.get() as instance:
        yield instance.get_daemon_statuses
