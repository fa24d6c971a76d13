"""The offset sensor: compares the broker's offsets with the committed ones, and keeps a run on
every lane that has a backlog. It holds no state that matters.
"""

import time
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import dagster as dg
import psycopg

from assets_src.scoring import LANE_TAG, RECONCILIATION, score_applications
from credit_risk_dagster.domain.lanes import lane_of
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.status import StreamState, stream_state
from credit_risk_dagster.settings import DrainSettings, Settings
from resources.kafka.broker import Broker
from resources.kafka.errors import TopicReplaced
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import connected_runs
from resources.postgres.ledger import Ledger

# A run that starts for so many times longer than CREDIT_RISK_RUN_START_SECONDS is taken for gone. A
# machine that is busy takes longer, and runs that are requested meanwhile make it busier. (A run
# that dies while it starts is failed by its code server at once.)
START_PATIENCE = 4
# Runs that fail before they commit anything are started again less and less often.
FRUITLESS_RUNS = 3
LONGEST_PAUSE_SECONDS = 300.0


UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
FINISHED = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
]


class RunState(Enum):
    """What a lane's unfinished run is doing, by the lock of its own and the ledger."""

    STARTING = "is starting"
    LIVE = "drains"
    GONE = "is gone"


@dataclass(frozen=True)
class LaneRun:
    """An unfinished run of a lane; session_seconds since its first commit, None before that."""

    run_id: str
    state: RunState
    session_seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """Whether to request a run for a lane, and why (not)."""

    request: bool
    why: str


def plan_lane(
    backlog: int, runs: Iterable[LaneRun], session_seconds: float, start_seconds: float
) -> Plan:
    """Decide for one lane whose sessions last so long and whose runs take so long to start.

    A run that is gone does not count: its connection, and with it its lock on the lane, ended,
    whatever Dagster knows of it yet.
    """
    present = [run for run in runs if run.state is not RunState.GONE]
    if len(present) > 1:
        names = " and ".join(f"run {run.run_id[:8]}" for run in present)
        return Plan(False, f"{names} share it")
    if not present:
        if backlog > 0:
            return Plan(True, f"{backlog:,} new event{'' if backlog == 1 else 's'}")
        return Plan(False, "no new events")
    (run,) = present
    if run.session_seconds is None or session_seconds == 0:
        return Plan(False, f"run {run.run_id[:8]} {run.state.value}")
    left = session_seconds - run.session_seconds
    if left <= start_seconds:
        return Plan(True, f"successor of run {run.run_id[:8]}, which has {max(left, 0):.0f} s left")
    return Plan(False, f"run {run.run_id[:8]} drains, {left:.0f} s left, {backlog:,} events behind")


def backlog_by_lane(stream: StreamState, lanes: int) -> dict[int, int]:
    """Offsets that are not committed, by lane."""
    backlog = dict.fromkeys(range(lanes), 0)
    for partition, waiting in stream.waiting().items():
        backlog[lane_of(partition, lanes)] += waiting
    return backlog


def pause_after_failures(fruitless: int, seconds_since: float) -> float:
    """Seconds still to wait after so many fruitless runs in a row, the last one so long ago."""
    if fruitless < FRUITLESS_RUNS:
        return 0.0
    pause = min(10.0 * 2 ** (fruitless - FRUITLESS_RUNS), LONGEST_PAUSE_SECONDS)
    return max(0.0, pause - seconds_since)


@dg.sensor(
    name="loan_applications_offsets",
    job=score_applications,
    minimum_interval_seconds=1,  # every round of the daemon, which makes one every five seconds
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests a drain run for each lane with new events, and its successor before its "
    "session ends.",
)
def loan_applications_offsets(
    context: dg.SensorEvaluationContext,
    settings: dg.ResourceParam[Settings],
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.SensorResult | dg.SkipReason:
    """One tick: a run request for each lane that needs a run, or the reason why none does."""
    try:
        with broker.watch() as watch, warehouse.session() as connection:
            stream = stream_state(watch, connection)
            plans = _plan_lanes(context.instance, stream, connection, settings.drain)
    except TopicReplaced as error:
        return _report_replaced(context, error)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    requests = [
        dg.RunRequest(
            run_config={"ops": {"score_stream": {"config": {"lane": lane}}}},
            tags={
                LANE_TAG: str(lane),
                "credit_risk/why": plan.why,
                # Run monitoring ends a run that hangs; a healthy one is far below this.
                "dagster/max_runtime": str(round(3 * settings.drain.session_seconds + 300)),
            },
        )
        for lane, plan in plans.items()
        if plan.request
    ]
    if not requests:
        return dg.SkipReason("; ".join(f"lane {lane}: {plan.why}" for lane, plan in plans.items()))
    for lane, plan in plans.items():
        context.log.info("lane %d: %s", lane, plan.why)
    return dg.SensorResult(run_requests=requests, cursor="")


def _plan_lanes(
    instance: dg.DagsterInstance,
    stream: StreamState,
    connection: psycopg.Connection[Any],
    settings: DrainSettings,
) -> dict[int, Plan]:
    ledger = Ledger(connection)
    backlog = backlog_by_lane(stream, settings.lanes)
    unfinished = instance.get_run_records(
        dg.RunsFilter(job_name=score_applications.name, statuses=UNFINISHED)
    )
    run_ids = [record.dagster_run.run_id for record in unfinished]
    connected, worked = connected_runs(connection, run_ids), ledger.session_seconds(run_ids)
    plans = {}
    for lane in range(settings.lanes):
        runs = [
            _lane_run(record, connected, worked, settings.run_start_seconds)
            for record in unfinished
            if record.dagster_run.tags.get(LANE_TAG, "0") == str(lane)
        ]
        plan = plan_lane(backlog[lane], runs, settings.session_seconds, settings.run_start_seconds)
        if held := _held_back(stream, lane, settings.lanes):
            plan = replace(plan, why=f"{plan.why}; {held}")
        if plan.request and (pause := _pause(instance, ledger, lane)):
            plan = Plan(
                False,
                f"{plan.why}, but the last runs failed before they committed anything: see their "
                f"errors. Next try in {pause:.0f} s",
            )
        plans[lane] = plan
    return plans


def _held_back(stream: StreamState, lane: int, lanes: int) -> str:
    """What of the lane no run can read yet, and why."""
    return "; ".join(
        f"partition {partition}: {transaction}"
        for partition, transaction in sorted(stream.topic.open_transactions.items())
        if lane_of(partition, lanes) == lane
    )


def _lane_run(
    record: dg.RunRecord, connected: Container[str], worked: dict[str, float], start_seconds: float
) -> LaneRun:
    run_id = record.dagster_run.run_id
    session_seconds = worked.get(run_id)
    age = time.time() - record.create_timestamp.timestamp()
    if run_id in connected:
        state = RunState.LIVE
    elif session_seconds is None and age < START_PATIENCE * start_seconds:
        state = RunState.STARTING
    else:
        state = RunState.GONE
    return LaneRun(run_id, state, session_seconds)


def _pause(instance: dg.DagsterInstance, ledger: Ledger, lane: int) -> float:
    """Seconds to wait because the lane's last runs failed without committing anything."""
    finished = instance.get_run_records(
        dg.RunsFilter(
            job_name=score_applications.name, statuses=FINISHED, tags={LANE_TAG: str(lane)}
        ),
        limit=FRUITLESS_RUNS + 6,
    )
    worked = ledger.session_seconds([record.dagster_run.run_id for record in finished])
    fruitless = 0
    for record in finished:
        run = record.dagster_run
        if run.status is not dg.DagsterRunStatus.FAILURE or run.run_id in worked:
            break
        fruitless += 1
    if not fruitless:
        return 0.0
    return pause_after_failures(fruitless, time.time() - (finished[0].end_time or 0.0))


def _report_replaced(
    context: dg.SensorEvaluationContext, error: TopicReplaced
) -> dg.SensorResult | dg.SkipReason:
    """Fail the reconciliation check, once for each incident, and request nothing."""
    message = str(error)
    if context.cursor == message:
        return dg.SkipReason(message)
    evaluation = dg.AssetCheckEvaluation(
        asset_key=RECONCILIATION.asset_key,
        check_name=RECONCILIATION.name,
        passed=False,
        description=message,
    )
    return dg.SensorResult(skip_reason=message, asset_events=[evaluation], cursor=message)


defs = dg.Definitions(sensors=[loan_applications_offsets])
