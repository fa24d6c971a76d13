"""libpq's options of every connection, whoever makes it; without a driver's import."""

from typing import Any

# A host that vanished is noticed within half a minute, not in two hours: by the client, when it is
# the server's; by the server, when it is the client's, whose locks are then free.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 10, 5, 3
UNACKNOWLEDGED_MS = 25_000

CLIENT_OPTIONS: dict[str, Any] = {
    "client_encoding": "UTF8",
    "connect_timeout": 5,
    "keepalives_idle": KEEPALIVE_IDLE,
    "keepalives_interval": KEEPALIVE_INTERVAL,
    "keepalives_count": KEEPALIVE_COUNT,
    "tcp_user_timeout": UNACKNOWLEDGED_MS,
}
"""`application_name` is added to them where there is one."""
