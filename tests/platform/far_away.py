"""Postgres at a distance: each byte takes its time there and back, and round trips are counted."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from psycopg.conninfo import conninfo_to_dict

_CHUNK_BYTES = 2**20


@dataclass
class Distance:
    """What lies between.

    Attributes:
        url: of the same database, at its other end.
        seconds: that a byte takes there and back.
        round_trips: how often a client spoke after the server had.
    """

    url: str
    seconds: float
    round_trips: int = 0


@contextmanager
def far_away(url: str, seconds: float = 0.0) -> Iterator[Distance]:
    """A server on a Unix socket, at such a distance."""
    distance = Distance(url, seconds)
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        at = conninfo_to_dict(url)
        socket = f"{at['host']}/.s.PGSQL.{at['port']}"
        async with asyncio.TaskGroup() as connections:

            def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connections.create_task(_connect(distance, socket, reader, writer))

            server = await asyncio.start_server(connect, "127.0.0.1", limit=_CHUNK_BYTES)
            host, port = server.sockets[0].getsockname()
            parts = urlsplit(url)
            place = f"{parts.username}@{host}:{port}"
            distance.url = urlunsplit((parts.scheme, place, parts.path, "", ""))
            ready.set()
            await over.wait()
            server.close()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()], name="far away")
    thread.start()
    ready.wait()
    try:
        yield distance
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


async def _connect(
    distance: Distance,
    socket: str,
    client: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
) -> None:
    server, to_server = await asyncio.open_unix_connection(socket, limit=_CHUNK_BYTES)
    server_spoke = True

    def asked() -> None:
        nonlocal server_spoke
        distance.round_trips += server_spoke
        server_spoke = False

    def answered() -> None:
        nonlocal server_spoke
        server_spoke = True

    await asyncio.gather(
        _carry(client, to_server, distance.seconds / 2, asked),
        _carry(server, to_client, distance.seconds / 2, answered),
    )


async def _carry(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter,
    seconds: float,
    told: Callable[[], None],
) -> None:
    """Carry all that comes, so much later; many chunks may be under way."""
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
    loop = asyncio.get_running_loop()

    async def send() -> None:
        while True:
            at, chunk = await under_way.get()
            await asyncio.sleep(at - loop.time())
            if not chunk:
                target.close()
                return
            target.write(chunk)
            await target.drain()

    async with asyncio.TaskGroup() as both:
        both.create_task(send())
        try:
            while chunk := await source.read(_CHUNK_BYTES):
                told()
                await under_way.put((loop.time() + seconds, chunk))
        finally:
            await under_way.put((loop.time() + seconds, b""))
