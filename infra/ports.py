"""`make up`, before it starts anything: which port of infra/docker-compose.yml somebody else has.

    python infra/ports.py [SERVICE ...]     services that run already, and so have their ports

Needs nothing but Python.
"""

import os
import re
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

FOLDER = Path(__file__).parent
HOST = "127.0.0.1"
_SERVICE = re.compile(r"^  ([\w-]+):\n((?:    .*\n|\n)+)", re.MULTILINE)
_PORT = re.compile(rf'"{HOST}:\$\{{(\w+):-(\d+)\}}:\d+"')
_PROFILE = re.compile(r"^    profiles: \[(\w+)\]$", re.MULTILINE)


def published(compose: str, variables: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    """Service, variable and port, for each port that the compose file publishes."""
    profiles = variables.get("COMPOSE_PROFILES", "").split(",")
    for service, lines in _SERVICE.findall(compose):
        if all(profile in profiles for profile in _PROFILE.findall(lines)):
            for variable, default in _PORT.findall(lines):
                yield service, variable, int(variables.get(variable) or default)


def taken(compose: str, variables: Mapping[str, str], running: Collection[str]) -> list[str]:
    """A line for each port that a service cannot have, because somebody has it, or another service
    shall. Those that run have theirs."""
    lines = []
    with ExitStack() as kept:
        for service, variable, port in published(compose, variables):
            if service in running:
                continue
            probe = kept.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen()
            except OSError as error:
                why = os.strerror(error.errno or 0).lower()
                lines.append(f"{service}: port {port}: {why}; set {variable} in infra/.env")
    return lines


def main() -> None:
    """Exit with the lines, if there are any."""
    env = FOLDER / ".env"
    text = env.read_text(encoding="utf-8") if env.exists() else ""
    variables = {**dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)), **os.environ}
    compose = (FOLDER / "docker-compose.yml").read_text(encoding="utf-8")
    sys.exit("\n".join(taken(compose, variables, sys.argv[1:])) or None)


if __name__ == "__main__":
    main()
