"""A host that loses its network: in a network namespace whose link goes down, for whoever may make
one (root, in CI's machine or here)."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from pydantic import SecretStr

from credit_risk_dagster.settings import PROJECT_ROOT, WarehouseSettings
from infra.embedded.servers import Postgres
from resources.postgres.connection import Warehouse
from resources.postgres.lanes import lock_partitions

NAME = "lost-host"
SERVER, CLIENT = "198.18.213.1", "198.18.213.2"  # RFC 2544: of no network
NOTICED_SECONDS = 25.0
RUN = """
import sys, threading
from resources.postgres.lanes import lock_partitions
from resources.postgres.session_settings import open_session
connection = open_session(sys.argv[1], schema="public")
lock_partitions(connection, 1, [0], 1)
print("it has its lane", flush=True)
threading.Event().wait()
"""


def ip(*command: str) -> None:
    subprocess.run(["ip", *command], check=True, capture_output=True)


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network with one host besides this one."""
    try:
        if shutil.which("ip") is None:
            pytest.skip("ip is not installed: apt-get install iproute2")
        ip("netns", "add", NAME)
    except subprocess.CalledProcessError:
        pytest.skip("this user may not make a network namespace")
    try:
        ip("link", "add", NAME, "type", "veth", "peer", "name", "eth0", "netns", NAME)
        ip("address", "add", f"{SERVER}/30", "dev", NAME)
        ip("link", "set", NAME, "up")
        ip("-n", NAME, "address", "add", f"{CLIENT}/30", "dev", "eth0")
        ip("-n", NAME, "link", "set", "eth0", "up")
        yield NAME
    finally:
        ip("netns", "delete", NAME)  # and its end of the link, and so the other one


@pytest.fixture
def server(namespace: str) -> Iterator[Postgres]:
    """Postgres, where that host finds it."""
    assert namespace
    with TemporaryDirectory(prefix="credit-risk-") as folder, Postgres(Path(folder)) as server:
        with psycopg.connect(server.uri("postgres"), autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET listen_addresses = '{SERVER}'".encode())
        with (server.data_dir / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {CLIENT}/32 trust\n")
        server.restart()
        yield server


@pytest.mark.slow
@pytest.mark.usefixtures("own_servers")
def test_a_lost_host_frees_its_lane_in_half_a_minute(server: Postgres) -> None:
    url = f"postgresql://postgres@{SERVER}:5432/postgres"
    command = ["ip", "netns", "exec", NAME, sys.executable, "-c", RUN, url]
    settings = WarehouseSettings(
        DATABASE_URL=SecretStr(server.uri("postgres")), CREDIT_RISK_SCHEMA="public"
    )
    with (
        subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE) as lost,
        Warehouse(settings).connect() as successor,
    ):
        try:
            assert lost.stdout is not None
            assert lost.stdout.readline() == b"it has its lane\n"
            started = time.monotonic()
            ip("link", "set", NAME, "down")
            lock_partitions(successor, 1, [0], NOTICED_SECONDS + 10)
            seconds = time.monotonic() - started
            print(f"the lane is free after {seconds:.1f} s")
            assert seconds > 1  # it was not free before
        finally:
            lost.kill()
