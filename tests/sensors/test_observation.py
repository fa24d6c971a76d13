"""The topic is observed while it moves, and an idle one fills no storage."""

import dagster as dg
import pytest

from credit_risk_dagster.settings import KafkaSettings, Settings
from resources.configurable import resources
from sensors import observation
from sensors.observation import loan_applications_observed
from tests.platform.pipeline import Pipeline, good_event


def tick(
    instance: dg.DagsterInstance, settings: Settings, cursor: str | None
) -> tuple[dict[str, object], str | None, str]:
    """What one tick observed, the cursor that it left, and what it says."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, resources=resources(lambda: settings)
    )
    found = loan_applications_observed.evaluate_tick(context)
    assert not found.run_requests
    metadata: dict[str, object] = {}
    for event in found.asset_events:
        assert isinstance(event, dg.AssetObservation)
        assert event.asset_key == dg.AssetKey("loan_applications")
        metadata = {name: value.value for name, value in event.metadata.items()}
    return metadata, found.cursor, found.skip_message or ""


def test_a_topic_that_moves_is_observed(
    pipeline: Pipeline,
    instance: dg.DagsterInstance,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline.send([good_event(i) for i in range(3)], partition=1)
    seen, cursor, said = tick(instance, settings, None)
    assert said == "observed: 3 events wait"
    assert (seen["end offsets"], seen["events waiting"]) == (3, 3)
    age = seen["oldest waits (s)"]
    assert isinstance(age, float)
    assert 0 <= age < 60
    by_partition = seen["by partition"]
    assert isinstance(by_partition, dg.TableMetadataValue)
    assert by_partition.records[1].data == {
        "partition": 1,
        "end offset": 3,
        "events waiting": 3,
    }

    # Events wait and nothing moves: not again for an hour.
    seen, cursor, said = tick(instance, settings, cursor)
    assert (seen, said) == ({}, "nothing moved, 3 events wait")
    with monkeypatch.context() as patch:
        patch.setattr(observation, "UNMOVED_SECONDS", 0.0)
        seen, cursor, _ = tick(instance, settings, cursor)
    assert seen["events waiting"] == 3

    pipeline.drain()
    seen, cursor, _ = tick(instance, settings, cursor)
    assert (seen["end offsets"], seen["events waiting"], seen["oldest waits (s)"]) == (3, 0, 0.0)
    # All is scored: an idle topic is not observed, however long.
    monkeypatch.setattr(observation, "UNMOVED_SECONDS", 0.0)
    assert tick(instance, settings, cursor)[0] == {}
    # A lost cursor costs one observation.
    seen, _, _ = tick(instance, settings, None)
    assert seen["end offsets"] == 3


def test_a_broker_that_is_away_is_a_reason(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    settings.kafka = KafkaSettings(bootstrap_servers="127.0.0.1:9", timeout_ms=500)
    assert tick(instance, settings, None)[2].startswith("Kafka broker at 127.0.0.1:9 does not")
