"""Why a client has no access: which of the settings, of the broker's listeners or rights it is."""

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from kafka.errors import (
    IllegalSaslStateError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import KafkaSettings
from resources.kafka.errors import BrokerRefused, BrokerUnavailable, in_words

_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Attempt:
    """A connection that failed.

    Attributes:
        address: host:port.
        node: the broker's number, when it is an address that the cluster itself gave.
        was_open: whether it was made, and ended at a request.
    """

    address: str
    node: int | None
    was_open: bool
    error: BaseException


def explain(settings: KafkaSettings, attempts: Sequence[Attempt]) -> PlatformError | None:
    """The error that the newest failures amount to; None when they say nothing of access."""
    for attempt in reversed(attempts):
        if refusal := _refusal(settings, attempt):
            return BrokerRefused(f"Kafka broker at {attempt.address} answers, but {refusal}")
    bootstrap = settings.bootstrap_servers.split(",")
    for attempt in reversed(attempts):
        if attempt.node is not None and not attempt.was_open and attempt.address not in bootstrap:
            return BrokerUnavailable(
                settings.bootstrap_servers,
                f"it advertises {attempt.address} (node {attempt.node}), which this machine does "
                f"not reach ({in_words(attempt.error)}): that broker is down, or its "
                "`advertised.listeners` (Redpanda: `advertised_kafka_api`) must name an address "
                "that clients reach",
                answers=True,
            )
    return None


def _refusal(settings: KafkaSettings, attempt: Attempt) -> str | None:
    error, protocol = attempt.error, settings.security_protocol
    said = " ".join(str(error).split())
    if isinstance(error, SaslAuthenticationFailedError):
        return (
            f"does not let user {settings.sasl_username!r} in by {settings.sasl_mechanism}: no "
            "such user, or another password (KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD)"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"has no {settings.sasl_mechanism} on that listener (KAFKA_SASL_MECHANISM)"
    if isinstance(error, IllegalSaslStateError):
        return (
            "its listener asks nobody to sign in, so no SASL protocol fits "
            f"(KAFKA_SECURITY_PROTOCOL is {protocol})"
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        if "mismatch" in said:
            return (
                "its certificate is for another host: use the name that it has, or set "
                "KAFKA_SSL_CHECK_HOSTNAME=false"
            )
        return (
            "its certificate is not signed by the authority that is trusted here: KAFKA_SSL_CAFILE "
            f"({settings.ssl_cafile or 'not set: those of the system'})"
        )
    if "ALERT" in said and "CERTIFICATE" in said:
        return (
            "it does not take the client's certificate, or asks for one (KAFKA_SSL_CERTFILE, "
            "KAFKA_SSL_KEYFILE)"
        )
    if protocol.endswith("SSL"):
        plain = ("WRONG_VERSION_NUMBER", "EOF occurred", "RECORD_LAYER", "HTTP_REQUEST")
        if "Handshake failed" in said and any(sign in said for sign in plain):
            return f"its listener does not speak TLS (KAFKA_SECURITY_PROTOCOL is {protocol})"
    elif not any(sign in said for sign in ("ECONN", "EHOST", "DNS", "Connection timed out")):
        if _speaks_tls(attempt.address):
            return f"its listener speaks TLS (KAFKA_SECURITY_PROTOCOL is {protocol})"
        if attempt.was_open and protocol == "PLAINTEXT" and attempt.node is None:
            return (
                "its listener ends the connection at the first question: it asks who one is "
                "(KAFKA_SECURITY_PROTOCOL is PLAINTEXT, not SASL_PLAINTEXT)"
            )
    return None


def _speaks_tls(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with (
        suppress(OSError),
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS) as plain,
        anyone.wrap_socket(plain, server_hostname=host),
    ):
        return True
    return False
