"""What the API can do now: which of the servers that the platform needs answer, and how fast."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
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
    needed_for: list[str] = Field(
        description="what the API cannot do without it", examples=[["submit"]]
    )
    latency_ms: float | None = Field(None, description="how long its answer took", examples=[4.2])
    error: str | None = Field(None, description="kind of error; the log says more", examples=[None])


class Capability(StrEnum):
    """What the API does for others."""

    score = "score"
    submit = "submit"
    read = "read"


# To score needs only what this process has: an outage of a server must not take it away.
_NEEDS = {Capability.score: None, Capability.submit: "broker", Capability.read: "warehouse"}


class Readiness(BaseModel):
    """`ready`: all is up. `degraded`: some server is down; `capabilities` says what works all the
    same. `unavailable`: what was asked for does not work (with status 503)."""

    status: Literal["ready", "degraded", "unavailable"]
    capabilities: dict[Capability, bool]
    dependencies: dict[str, DependencyState]


class Health:
    """Asks every dependency at the same time, and waits for none longer than three seconds."""

    def __init__(self, settings: Settings, warehouse: WarehouseReader) -> None:
        lake = Lake(
            settings.lake.model_copy(
                update={"max_attempts": 1, "timeout_seconds": PATIENCE_SECONDS}
            )
        )
        checks: dict[str, Connect] = {
            "broker": lambda: nullcontext(Broker(settings.kafka).inspect),
            "warehouse": lambda: nullcontext(partial(_ask_warehouse, warehouse)),
            "lake": lambda: nullcontext(lake.check_access),
            "dagster_storage": _dagster,
        }
        self._questions = {name: _question(name, connect) for name, connect in checks.items()}

    def close(self) -> None:
        """Close the connections."""
        for question in self._questions.values():
            question.close()

    def readiness(self, wanted: Capability | None = None) -> Readiness:
        """The state of every dependency, at most a second old; `unavailable` when the wanted
        capability is, if there is one."""
        asked = {name: question.ask() for name, question in self._questions.items()}
        states = {name: _state(name, answer) for name, answer in asked.items()}
        down = {name for name, state in states.items() if state.state == "down"}
        able = {capability: need not in down for capability, need in _NEEDS.items()}
        if wanted and not able[wanted]:
            status: Literal["ready", "degraded", "unavailable"] = "unavailable"
        else:
            status = "degraded" if down else "ready"
        return Readiness(status=status, capabilities=able, dependencies=states)


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


def _state(name: str, answer: Callable[[], float]) -> DependencyState:
    needed_for = [capability.value for capability, need in _NEEDS.items() if need == name]
    try:
        latency = answer()
    except Unanswered as error:
        if isinstance(error.__cause__, DagsterHomeNotSetError):
            return DependencyState(state="not configured", needed_for=needed_for)
        # The message names hosts: it is for the log.
        return DependencyState(
            state="down", needed_for=needed_for, error=type(error.__cause__).__name__
        )
    return DependencyState(state="up", needed_for=needed_for, latency_ms=round(latency, 1))


def _ask_warehouse(warehouse: WarehouseReader) -> None:
    with warehouse.session() as connection:
        connection.execute("SELECT FROM stream_offsets LIMIT 1")


@contextmanager
def _dagster() -> Iterator[Callable[[], object]]:
    with DagsterInstance.get() as instance:
        yield instance.get_daemon_statuses
