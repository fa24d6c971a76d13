"""What S3 can answer when it is slow, busy or unwilling, over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import LakeSettings
from resources.lake import Lake, LakeRefused, LakeUnavailable


@contextmanager
def answering(*answers: tuple[int, str]) -> Iterator[Lake]:
    """A server that gives these answers in turn, the last one for ever; and a lake there."""
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, code = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            body = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()
            self.send_response(status)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body) if status != 200 else 0))
            self.end_headers()
            if status != 200:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Lake(
            LakeSettings(
                AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{server.server_port}",
                S3_MAX_ATTEMPTS=3,
                S3_TIMEOUT_SECONDS=1,
            )
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_a_throttled_request_is_tried_again() -> None:
    with answering((503, "SlowDown"), (500, "InternalError"), (200, "")) as lake:
        assert lake.put("k", b"v", "text/plain").etag == "e"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((503, "SlowDown"), LakeUnavailable, r"storing k failed 3 times, last with SlowDown: so"),
        ((403, "AccessDenied"), LakeRefused, r"refused, AccessDenied: .*lack the right"),
        ((400, "ExpiredToken"), LakeRefused, r"refused, ExpiredToken: .*have expired: renew them"),
        ((403, "SignatureDoesNotMatch"), LakeRefused, r"correct AWS_SECRET_ACCESS_KEY"),
        ((400, "BadDigest"), LakeRefused, r"storing k was refused, BadDigest: so it is$"),
    ],
)
def test_an_answer_is_one_clear_line(
    answer: tuple[int, str], kind: type[PlatformError], message: str
) -> None:
    with answering(answer) as lake, pytest.raises(kind, match=message) as raised:
        lake.put("k", b"v", "text/plain")
    assert "\n" not in str(raised.value)
