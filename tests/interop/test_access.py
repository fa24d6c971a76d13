"""Who may not in, and where a client is sent: one line that says which of the settings it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from credit_risk_dagster.api.metrics.stream import TopicWatch, stream_metrics
from credit_risk_dagster.api.question import Question
from credit_risk_dagster.base_settings import SettingInvalid
from credit_risk_dagster.pipelines.loans import builtin_loans
from credit_risk_dagster.pipelines.producer import produce
from credit_risk_dagster.settings import KafkaSettings
from infra.embedded.servers import HOST, free_port
from resources.kafka.broker import Broker
from resources.kafka.errors import BrokerRefused, BrokerUnavailable, TopicMissing
from resources.kafka.topics import ensure_topic
from tests.interop.conftest import COMMITTED, SENT, RecordProperty
from tests.interop.kafka import USERS, Kafka
from tests.platform.pipeline import Pipeline, good_event, send

ALICE = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_username": "alice",
    "sasl_password": USERS["alice"],
}


def settings(broker: Kafka, listener: str, **options: Any) -> KafkaSettings:
    return KafkaSettings(
        bootstrap_servers=broker.address(listener), topic="loans", timeout_ms=1_000, **options
    )


@pytest.mark.parametrize(
    ("listener", "options", "said"),
    [
        ("SASL_PLAINTEXT", {"sasl_password": "hush"}, "does not let user 'alice' in by SCRAM-SHA-"),
        ("SASL_PLAINTEXT", {"sasl_username": "eve"}, "let user 'eve' in .*another password"),
        (
            "SASL_PLAINTEXT",
            {"sasl_mechanism": "PLAIN", "sasl_password": "hush"},
            "does not let user 'alice' in by PLAIN: no such user, or another password",
        ),
        ("PLAINTEXT", {}, "asks nobody to sign in.*KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT"),
        ("SASL_SSL", {}, "speaks TLS .KAFKA_SECURITY_PROTOCOL is SASL_PLAINTEXT"),
        ("SASL_PLAINTEXT", {"security_protocol": "SASL_SSL"}, "listener does not speak TLS"),
    ],
)
def test_who_does_not_sign_in_is_told_why(
    broker: Kafka, listener: str, options: dict[str, str], said: str
) -> None:
    refused(settings(broker, listener, **{**ALICE, **options}), said)


def test_a_listener_that_asks_who_one_is(broker: Kafka) -> None:
    refused(settings(broker, "SASL_PLAINTEXT"), "asks who one is .*SASL_PLAINTEXT")


@pytest.mark.parametrize("listener", ["SSL", "SASL_SSL"])
def test_a_listener_that_speaks_tls(broker: Kafka, listener: str) -> None:
    refused(settings(broker, listener), "speaks TLS .KAFKA_SECURITY_PROTOCOL is PLAINTEXT")


def test_certificates(broker: Kafka) -> None:
    known = broker.certificates
    tls = {"security_protocol": "SSL"}
    refused(settings(broker, "SSL", **tls), "not signed by .*KAFKA_SSL_CAFILE .not set")
    refused(settings(broker, "SSL", **tls, ssl_cafile=known.other_ca), "KAFKA_SSL_CAFILE .*other")
    refused(settings(broker, "SSL", **tls, ssl_cafile=known.ca), "asks for one .KAFKA_SSL_CERTFILE")
    mutual = {"ssl_certfile": known.client, "ssl_keyfile": known.client_key}
    with pytest.raises(BrokerRefused, match="Describe and Read"):  # in, and without rights
        Broker(settings(broker, "SSL", **tls, ssl_cafile=known.ca, **mutual)).inspect()


def test_a_client_certificate_that_nobody_takes(broker: Kafka, tmp_path: Path) -> None:
    known = broker.certificates
    tls = {"security_protocol": "SSL", "ssl_cafile": known.ca, "ssl_keyfile": known.client_key}
    foreign = {**tls, "ssl_certfile": known.other_client}
    refused(settings(broker, "SSL", **foreign), "take the client's certificate.*KAFKA_SSL_CERTFILE")
    for wrong in (
        {"ssl_certfile": known.client, "ssl_keyfile": known.server},  # of another certificate
        {"ssl_certfile": known.client_key},
        {"ssl_certfile": known.client, "ssl_keyfile": None},
    ):
        with pytest.raises(SettingInvalid, match=r"KAFKA_SSL_CERTFILE") as told:
            Broker(settings(broker, "SSL", **{**tls, **wrong})).inspect()
        assert "\n" not in str(told.value)


def test_mutual_tls(broker: Kafka, pipeline: Pipeline, record_property: RecordProperty) -> None:
    """Sent, scored and created by a client that is known by its certificate alone."""
    known = broker.certificates
    mutual = settings(
        *(broker, "SSL"),
        security_protocol="SSL",
        ssl_cafile=known.ca,
        ssl_certfile=known.client,
        ssl_keyfile=known.client_key,
    ).model_copy(update={"topic": pipeline.kafka.topic})
    rights = (ACLOperation.DESCRIBE, ACLOperation.READ, ACLOperation.WRITE)
    with granted(broker, mutual.topic, *rights, principal="User:CN=client"):
        by_client = Pipeline(mutual, pipeline.warehouse)
        by_client.send([good_event(i) for i in range(100)])
        produced = produce(mutual, builtin_loans()[:50])
        report = by_client.drain()
    record_property(SENT, 100 + produced.acknowledged)
    record_property(COMMITTED, report.scored + report.rejected)
    assert report.scored + report.rejected == 150
    assert by_client.unreconciled() == 0


def refused(settings: KafkaSettings, said: str) -> None:
    started = time.monotonic()
    with pytest.raises(
        BrokerRefused, match=f"Kafka broker at {HOST}:.* answers, but .*{said}"
    ) as e:
        Broker(settings).inspect()
    assert "hush" not in str(e.value)
    assert "\n" not in str(e.value)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("password", ["hush", ALICE["sasl_password"]])
def test_a_broker_that_refuses_is_not_down(broker: Kafka, password: str) -> None:
    """Of a wrong password it is known when the scrape connects, of a missing right when it asks."""
    access = {**ALICE, "sasl_password": password}
    watch = TopicWatch(settings(broker, "SASL_PLAINTEXT", **access))
    question = Question("the broker", watch.connect, timeout=30)
    for _ in range(4):
        told = question.ask_for_the_last()()
        assert told.up
        assert told.answer
        assert told.answer.refused
    found = {m.name: m.samples[0].value for m in stream_metrics(None, told) if m.samples}
    assert found["credit_risk_broker_refuses"] == 1
    assert found["credit_risk_topic_missing"] == 0


def test_an_advertised_address_that_nobody_resolves(broker: Kafka) -> None:
    with pytest.raises(
        BrokerUnavailable,
        match=rf"broker at {broker.address('MISNAMED')} answers, but it advertises "
        r"kafka.internal.invalid:9092 \(node 1\).*advertised.listeners",
    ):
        Broker(settings(broker, "MISNAMED")).inspect()


def test_nobody_there(broker: Kafka) -> None:
    nowhere = KafkaSettings(bootstrap_servers=f"{HOST}:{free_port()}", timeout_ms=500)
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        Broker(nowhere).inspect()


@contextmanager
def granted(
    broker: Kafka, topic: str, *operations: ACLOperation, principal: str = "User:alice"
) -> Iterator[None]:
    """Rights of alice, or of somebody else, on a topic."""
    acls = [
        ACL(
            principal=principal,
            host="*",
            operation=operation,
            permission_type=ACLPermissionType.ALLOW,
            resource_pattern=ResourcePattern(ResourceType.TOPIC, topic),
        )
        for operation in operations
    ]
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        admin.create_acls(acls)
        yield
        admin.delete_acls(acls)
    finally:
        admin.close()


CI = ("SASL_SSL", "SCRAM-SHA-512")
PROTOCOLS, MECHANISMS = ["SASL_PLAINTEXT", "SASL_SSL"], ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@pytest.mark.parametrize(
    ("protocol", "mechanism"),
    [
        pair if pair == CI else pytest.param(*pair, marks=pytest.mark.long)
        for pair in product(PROTOCOLS, MECHANISMS)
    ],
)
def test_rights(
    broker: Kafka, kafka_settings: KafkaSettings, protocol: str, mechanism: str
) -> None:
    send(kafka_settings, [good_event(1)])
    ca = broker.certificates.ca if protocol == "SASL_SSL" else None
    access = {**ALICE, "security_protocol": protocol, "sasl_mechanism": mechanism, "ssl_cafile": ca}
    alice = settings(broker, protocol, **access).model_copy(update={"topic": kafka_settings.topic})
    lacking = pytest.raises(BrokerRefused, match=r"user 'alice' may not use topic .* Describe and")
    with lacking:
        Broker(alice).inspect()
    with granted(broker, alice.topic, ACLOperation.DESCRIBE), lacking:
        Broker(alice).inspect()
    with granted(broker, alice.topic, ACLOperation.DESCRIBE, ACLOperation.READ):
        assert Broker(alice).inspect().end(0) == 1
    with granted(broker, "other", ACLOperation.DESCRIBE):
        other = alice.model_copy(update={"topic": "other"})
        with pytest.raises(TopicMissing, match="topic other does not exist"):
            Broker(other).inspect()
        told = pytest.raises(BrokerRefused, match="user 'alice' may not")
        with told as error:
            ensure_topic(other)
        assert len(str(error.value)) < 250
