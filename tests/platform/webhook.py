"""A webhook that notes what it gets."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """A server on loopback.

    Attributes:
        url: with a secret in it, as webhooks have.
        statuses: what it answers, one after another, the last one for ever.
        posts: the messages that it was sent, whatever it answered.
    """

    url: str
    statuses: list[int]
    posts: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def webhook(*statuses: int) -> Iterator[Webhook]:
    """Run a webhook; it answers 200 unless told otherwise."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.posts.append(json.loads(body))
            status = hook.statuses.pop(0) if len(hook.statuses) > 1 else hook.statuses[0]
            self.send_response(status)
            self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hook = Webhook(
            f"http://127.0.0.1:{server.server_address[1]}/hooks/the-secret", [*statuses] or [200]
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield hook
        finally:
            server.shutdown()
            thread.join()
