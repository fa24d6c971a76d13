"""The containers' health checks say no when they should; test_services.py shows their yes."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra import health
from infra.embedded.servers import free_port
from tests.platform.compose import INFRA


@contextmanager
def server(status: int) -> Iterator[str]:
    """The port of a server that answers everything with this status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer((health.HOST, 0), Handler) as answering:
        thread = threading.Thread(target=answering.serve_forever, daemon=True)
        thread.start()
        yield str(answering.server_port)
        answering.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "said"), [(200, ""), (404, "404"), (503, "503")])
def test_a_server_is_asked_by_http(status: int, said: str) -> None:
    with server(status) as port:
        answer = health.http(port, "/health")
    assert (said in answer) if said else not answer


def test_who_does_not_answer_is_not_healthy() -> None:
    nobody = str(free_port())
    assert health.http(nobody, "/health").startswith("no answer")
    done = subprocess.run(
        [sys.executable, INFRA / "health.py", "code-server", nobody], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no answer")


def test_a_check_imports_no_more_than_it_asks_with() -> None:
    """Two seconds of CPU, each time, were Dagster's import."""
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    run = [sys.executable, "-c", code, str(INFRA / "health.py")]
    imported = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert not {"dagster", "grpc", "psycopg", "urllib.request", "pandas"} & set(imported)
