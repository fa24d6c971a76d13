"""The topic as a time series in Dagster's UI: how long it is, and how far scoring is behind.

A sensor of its own, so that reading the oldest waiting event delays no drain run.
"""

import time

import dagster as dg
import msgspec

from assets_src.common import table
from assets_src.scoring import loan_applications
from credit_risk_dagster.domain.words import counted
from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.pipelines.stream_health import Backlog, measure_backlog
from resources.kafka.broker import Broker
from resources.postgres.connection import Warehouse

# Events that wait while nothing moves are observed this often; when none waits, nothing is.
UNMOVED_SECONDS = 3600.0


class _Seen(msgspec.Struct):
    """The last observation: when, and what it saw of each partition. Without it, the next one is
    only made sooner."""

    at: float = 0.0
    partitions: dict[int, tuple[int, int]] = {}


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes the topic once a minute while it moves: end offsets, the events that "
    "wait to be scored, and the age of the oldest of them.",
)
def loan_applications_observed(
    context: dg.SensorEvaluationContext,
    broker: dg.ResourceParam[Broker],
    warehouse: dg.ResourceParam[Warehouse],
) -> dg.SensorResult | dg.SkipReason:
    """One tick: an observation, or the reason why none is made."""
    try:
        found = measure_backlog(broker, warehouse)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    now = time.time()
    last = msgspec.json.decode(context.cursor, type=_Seen) if context.cursor else _Seen()
    waiting = counted(found.events, "event waits", "events wait")
    if found.partitions == last.partitions and (
        not found.events or now - last.at < UNMOVED_SECONDS
    ):
        return dg.SkipReason(f"nothing moved, {waiting}")
    return dg.SensorResult(
        skip_reason=f"observed: {waiting}",
        asset_events=[_observation(found)],
        cursor=msgspec.json.encode(_Seen(now, dict(found.partitions))).decode(),
    )


def _observation(found: Backlog) -> dg.AssetObservation:
    return dg.AssetObservation(
        loan_applications.key,
        metadata={
            "end offsets": sum(end for end, _ in found.partitions.values()),
            "events waiting": found.events,
            "oldest waits (s)": round(found.waited_seconds or 0.0, 1),
            "by partition": table(
                {"partition": partition, "end offset": end, "events waiting": waiting}
                for partition, (end, waiting) in sorted(found.partitions.items())
            ),
        },
    )


defs = dg.Definitions(sensors=[loan_applications_observed])
