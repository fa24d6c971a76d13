"""The containers' health checks: `python infra/health.py CHECK`, one of

    http PORT PATH, code-server PORT, daemon

Dagster's own import Dagster, two seconds of CPU each time; these import what they ask with.
"""

import os
import sys
from collections.abc import Callable

HOST, TIMEOUT_SECONDS = "127.0.0.1", 10
# Those that infra/dagster.yaml needs, and how old their last sign of life may be: they give one
# every half minute.
DAEMONS = (
    "ASSET",
    "BACKFILL",
    "EVENT_LOG_CONSUMER",
    "FRESHNESS_DAEMON",
    "MONITORING",
    "SCHEDULER",
    "SENSOR",
)
ALIVE_SECONDS = 300


def http(port: str, path: str) -> str:
    """Whether a server answers a path with 200; empty when it does."""
    import socket

    try:
        with socket.create_connection((HOST, int(port)), TIMEOUT_SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            answer = connection.makefile("rb").readline().decode().split(maxsplit=1)
    except OSError as error:
        return f"no answer: {error}"
    return "" if answer[1:] and answer[1].startswith("200") else f"{path}: {' '.join(answer)}"


def code_server(port: str) -> str:
    """What `dagster api grpc-health-check` asks."""
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        try:
            request = HealthCheckRequest(service="DagsterApi")
            answer = HealthStub(channel).Check(request, timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            return f"no answer: {error.details()}"
    return "" if answer.status == HealthCheckResponse.SERVING else "it does not serve"


def daemon() -> str:
    """What `dagster-daemon liveness-check` asks: each daemon's last sign of life, in Dagster's
    storage."""
    import psycopg

    query = (
        "SELECT daemon_type FROM daemon_heartbeats"
        " WHERE timestamp > localtimestamp - make_interval(secs => %(seconds)s)"
    )
    url = os.environ["DAGSTER_POSTGRES_URL"]
    try:
        with psycopg.connect(url, connect_timeout=TIMEOUT_SECONDS) as connection:
            alive = {name for (name,) in connection.execute(query, {"seconds": ALIVE_SECONDS})}
    except psycopg.Error as error:
        return f"Dagster's storage: {error}".strip()
    missing = sorted(set(DAEMONS) - alive)
    return f"no sign of life: {', '.join(missing)}" if missing else ""


def main() -> None:
    """Exit with 0, or with a line that says why not."""
    checks: dict[str, Callable[..., str]] = {
        "http": http,
        "code-server": code_server,
        "daemon": daemon,
    }
    sys.exit(checks[sys.argv[1]](*sys.argv[2:]) or None)


if __name__ == "__main__":
    main()
