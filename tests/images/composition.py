"""The services of infra/docker-compose.yml in containers, each with all that the file says of it.

Health checks are asked from here: Podman leaves that to systemd, which a machine need not have.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.images.engine import Engine, EngineError
from tests.platform.compose import INFRA, OURS, document, secrets

NETWORK = "credit-risk-check"
STAND_IN = "credit-risk-stand-in"
HEALTHY_SECONDS = 300.0
# A peak and a kill, by cgroups of version 2 or 1.
MEMORY = (
    "cat /sys/fs/cgroup/memory.peak /sys/fs/cgroup/memory/memory.max_usage_in_bytes 2>/dev/null;"
    "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null;"
    "true"
)


class Unhealthy(Exception):
    """A service did not start, or did not become healthy; the message has its last output."""


@dataclass
class Memory:
    """Of one container, or of all that a service has had."""

    limit: int
    peak: int = 0
    kills: int = 0


@dataclass(frozen=True)
class Stop:
    """How a container ended that was asked to."""

    code: int
    seconds: float


@dataclass
class Composition:
    """The containers, volumes and the network of one check; nothing of them is left afterwards.

    Args:
        images: in place of the file's, by service.
    """

    engine: Engine
    images: dict[str, str]
    secrets: dict[str, str] = field(default_factory=secrets)
    memory: dict[str, Memory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = document(self.secrets)
        self.services: dict[str, dict[str, Any]] = found["services"]
        self.volumes = [f"{NETWORK}-{name}" for name in found["volumes"]]
        self.started: list[str] = []

    def __enter__(self) -> Self:
        self._remove()
        self.engine("network", "create", NETWORK)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for name in self.services:
            with suppress(EngineError):
                self.engine("rm", "--force", "--volumes", container(name))
        with suppress(EngineError):
            self.engine("volume", "rm", "--force", *self.volumes)
        with suppress(EngineError):
            self.engine("network", "rm", NETWORK)

    def up(self, name: str, *more: str) -> float:
        """Start a service after all that it waits for, with more arguments, and wait until it has
        done its work or is healthy; returns the seconds that this took."""
        for other in self.services[name].get("depends_on", {}):
            if other not in self.started:
                self.up(other)
        service = self.services[name]
        self.started.append(name)
        began = time.monotonic()
        self.engine(
            *("run", "--detach", "--name", container(name), *self._flags(name)),
            *(self._image(name), *service["command"], *more),
        )
        self.wait(name)
        return time.monotonic() - began

    def once(self, name: str, *more: str) -> None:
        """Run a service's command, with more arguments, to its end."""
        self.engine(
            *("run", "--rm", *self._flags(name), "--restart", "no"),
            *(self._image(name), *self.services[name]["command"], *more),
        )

    def wait(self, name: str) -> None:
        """Wait until a service that ends has ended well, or one that stays is healthy.

        Raises:
            Unhealthy: not within five minutes.
        """
        test = self.services[name].get("healthcheck", {}).get("test")
        deadline = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < deadline:
            state = self.state(name)
            if not test and state["Status"] == "exited" and state["ExitCode"] == 0:
                return
            if not test and self.services[name]["restart"] == "unless-stopped":
                return  # the producer
            if state["Status"] == "running" and test and self.healthy(name):
                return
            time.sleep(0.5)
        raise Unhealthy(f"{name} {self.state(name)['Status']}: {self.output(name)[-3000:]}")

    def health(self, name: str) -> list[str]:
        """The command of the service's health check; of a stand-in whose image has another, one
        that asks for its port."""
        test: list[str] = self.services[name]["healthcheck"]["test"]
        if self._image(name) == STAND_IN and name in _PORTS:
            connect = f"socket.create_connection(('{name}', {_PORTS[name]}))"
            return ["python", "-c", f"import socket; {connect}"]
        return ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]

    def healthy(self, name: str) -> bool:
        """Ask the service's health check."""
        return self.engine.works("exec", container(name), *self.health(name))

    def state(self, name: str) -> dict[str, Any]:
        """What the engine knows of the container: Status, ExitCode, OOMKilled, ..."""
        found: dict[str, Any] = json.loads(
            self.engine("inspect", "--format", "{{json .State}}", container(name))
        )
        return found

    def output(self, name: str) -> str:
        """What the container has printed last."""
        return self.engine("logs", "--tail", "40", container(name))

    def run(self, name: str, *command: str, user: str = "") -> str:
        """What a command prints that is run in a service's container."""
        as_user = ["--user", user] if user else []
        return self.engine("exec", *as_user, container(name), *command)

    def stop(self, name: str) -> Stop:
        """Ask the container to end, with the time that the file gives it."""
        self.note_memory(name)
        grace = str(self.services[name].get("stop_grace_period", "10s")).removesuffix("s")
        began = time.monotonic()
        self.engine("stop", "--time", grace, container(name))
        return Stop(self.state(name)["ExitCode"], time.monotonic() - began)

    def kill(self, name: str) -> None:
        """End the container at once."""
        self.note_memory(name)
        self.engine("kill", container(name))

    def restart(self, name: str) -> float:
        """Start a container that ended, and wait until it is healthy; returns the seconds."""
        began = time.monotonic()
        self.engine("start", container(name))
        self.wait(name)
        return time.monotonic() - began

    def note_memory(self, name: str) -> None:
        """Remember the container's peak: it is forgotten when the container ends."""
        limit = _bytes(self.services[name]["mem_limit"])
        noted = self.memory.setdefault(name, Memory(limit))
        peak, *events = self.run(name, "sh", "-c", MEMORY).splitlines()
        noted.peak = max(noted.peak, int(peak))
        noted.kills += sum(int(e.split()[1]) for e in events if e.startswith("oom_kill "))

    def psql(self, database: str, query: str) -> list[list[str]]:
        """Rows of a query, as an administrator."""
        password = f"PGPASSWORD={self.secrets['POSTGRES_PASSWORD']}"
        found = self.engine(
            *(
                "exec",
                "--env",
                password,
                container("postgres"),
                "psql",
                "-X",
                "-A",
                "-t",
                "-F",
                "|",
            ),
            *("-h", "127.0.0.1", "-U", "postgres", "-d", database, "-c", query),
        )
        return [line.split("|") for line in found.splitlines()]

    def _image(self, name: str) -> str:
        image: str = self.services[name]["image"]
        return self.images.get(name, image)

    def _flags(self, name: str) -> Iterator[str]:
        """What the file says of a service, in the engine's words."""
        service = dict(self.services[name])
        ours = service["image"].startswith(OURS)
        is_stand_in = self._image(name) == STAND_IN
        yield from ("--network", NETWORK, "--network-alias", name, "--hostname", name)
        for option, key in _LISTS.items():
            for value in service.pop(key, []):
                yield from (option, value)
        for option, key in _VALUES.items():
            if key in service:
                yield from (option, str(service.pop(key)))
        yield from ("--memory", service["mem_limit"], "--memory-swap", service.pop("mem_limit"))
        # Docker refuses more than there are.
        yield from ("--cpus", str(min(float(service.pop("cpus")), os.cpu_count() or 1)))
        yield from ("--env", "CREDIT_RISK_IDLE_SECONDS=5") if ours else ()
        for variable, value in service.pop("environment", {}).items():
            yield from ("--env", f"{variable}={value}")
        for volume in service.pop("volumes", []):
            source, place = volume.split(":", 1)
            at = (INFRA / source).resolve() if source.startswith(".") else f"{NETWORK}-{source}"
            yield from ("--volume", f"{at}:{place}")
        assert service.pop("read_only") is True
        yield "--read-only"
        if self.engine.is_podman:
            yield from ("--read-only-tmpfs=false", *self.engine.limits)
        if service.pop("init", False):
            yield "--init"
            # Docker's is tini, which tells a process group (TINI_KILL_PROCESS_GROUP).
            tini = shutil.which("tini-static")
            yield from ("--init-path", tini) if self.engine.is_podman and tini else ()
        if entry := service.pop("entrypoint", None):
            yield from () if is_stand_in else ("--entrypoint", json.dumps(entry))
        if user := service.pop("user", None):
            yield from () if is_stand_in else ("--user", user)
        left = set(service) - _ELSEWHERE
        assert not left, f"{name}: what does {', '.join(left)} mean to a container?"


_PORTS = {"redpanda": 9092, "seaweedfs": 8333}
_LISTS = {"--cap-drop": "cap_drop", "--security-opt": "security_opt", "--tmpfs": "tmpfs"}
_VALUES = {"--shm-size": "shm_size", "--restart": "restart"}
# Used by other methods, or nothing that a container is started with: ports are not published, so
# that the check does not meet what runs on this machine.
_ELSEWHERE = {
    *("image", "build", "command", "depends_on", "healthcheck", "profiles", "stop_grace_period"),
    *("ports", "expose", "logging", "env_file"),
}


def container(name: str) -> str:
    """The name of a service's container."""
    return f"{NETWORK}-{name}"


def _bytes(limit: str) -> int:
    return int(limit[:-1]) * {"m": 2**20, "g": 2**30}[limit[-1]]
