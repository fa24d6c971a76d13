"""infra/docker-compose.yml without containers: the commands of its services, in the environment
that it gives them, on the embedded servers in place of the images of Redpanda, Postgres and S3.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from credit_risk_dagster.settings import PROJECT_ROOT
from infra import make_env
from infra.embedded.servers import HOST, Server, free_port
from infra.embedded.stack import Stack
from tests.platform.running import Platform
from tests.platform.waiting import wait_until

INFRA = PROJECT_ROOT / "infra"
OURS = "credit-risk-platform"
HEALTHY_SECONDS = 120.0


@dataclass(frozen=True)
class Service:
    """A service of the compose file that runs this project's code, as the file has it."""

    name: str
    image: str
    command: list[str]
    environment: dict[str, str]
    port: int
    health: list[str]
    after: dict[str, str]

    @property
    def once(self) -> bool:
        """Whether it does something and ends."""
        return not self.health and self.name != "producer"


def secrets() -> dict[str, str]:
    """The variables of a fresh `.env`."""
    lines = re.findall(r"^([A-Z0-9_]+)=(.*)$", make_env.content(), re.MULTILINE)
    return dict(lines)


def document(variables: Mapping[str, str]) -> dict[str, Any]:
    """The compose file, with its variables put in.

    Raises:
        LookupError: a variable that it insists on is missing, with what the file says about it.
    """
    return {name: _interpolated(value, variables) for name, value in _file().items()}


@cache
def _file() -> dict[str, Any]:
    text = (INFRA / "docker-compose.yml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def services(variables: Mapping[str, str]) -> dict[str, Service]:
    """The services that run this project's code, each after those that it waits for."""
    ours = {
        name: Service(
            name,
            service["image"],
            service["command"],
            service.get("environment", {}),
            _port(service),
            service.get("healthcheck", {}).get("test", ["CMD"])[1:],
            {other: wait["condition"] for other, wait in service.get("depends_on", {}).items()},
        )
        for name, service in document(variables)["services"].items()
        if service["image"].startswith(OURS)
    }
    ordered: dict[str, Service] = {}
    while ours:
        ready = [s for s in ours.values() if not set(s.after) & set(ours)]
        assert ready, f"{', '.join(ours)} wait for each other"
        ordered |= {service.name: ours.pop(service.name) for service in ready}
    return ordered


class Composed(Platform):
    """The services of the compose file between a stack's servers.

    Args:
        stack: its servers, with the roles in Postgres.
        settings: further variables, as of infra/settings.env.
    """

    def __init__(self, stack: Stack, settings: dict[str, str]) -> None:
        # As a user that may make the tables of Dagster's storage.
        dagster_url = stack.postgres.uri("dagster").replace("postgres@", "dagster@", 1)
        super().__init__(stack, {"DAGSTER_POSTGRES_URL": dagster_url})
        self.log = stack.logs / "dagster-webserver.log"
        self.secrets = secrets()
        self.composed = services(self.secrets)
        self.servers = stack.servers
        self._settings = settings
        self._ports = {s.port: free_port() for s in self.composed.values() if s.port}
        self.dagster_home = Path(stack.environment()["DAGSTER_HOME"])
        self._app = stack.state / "app"

    @property
    def dagster(self) -> Server:
        return self.servers["dagster-webserver"]

    def start(self) -> None:
        """Start every service, when those that it waits for are done or healthy."""
        _link_application(self._app)
        for service in self.composed.values():
            if service.once:
                self.run(service)
            elif service.name != "producer":
                self.start_service(service.name)

    def start_service(self, name: str) -> None:
        """Start a service that stays, as at first or again."""
        service = self.composed[name]
        for other, condition in service.after.items():
            if condition == "service_healthy" and other in self.servers:
                self.wait_until_healthy(other)
        self.stack.serve(
            name,
            self.command(service.command),
            self._ports.get(service.port, 0),
            environment=self.variables(service),
            directory=self._app,
        )

    def run(self, service: Service, *more: str) -> str:
        """Run a service that ends, with more arguments; returns what it prints."""
        done = self._call([*self.command(service.command), *more], self.variables(service))
        assert done.returncode == 0, f"{service.name}: {done.stderr}"
        return done.stdout

    def wait_until_healthy(self, name: str) -> None:
        """Wait until the service's own health check passes."""
        service = self.composed[name]
        command, environment = self.command(service.health), self.variables(service)
        wait_until(
            lambda: self._call(command, environment).returncode == 0,
            HEALTHY_SECONDS,
            f"{name} is healthy; its log is {self.stack.logs / name}.log",
        )

    def command(self, words: list[str]) -> list[str]:
        """A command of the compose file with this machine's program, addresses and ports."""
        program = Path(sys.executable).parent / words[0]
        local = [self._local_text(word) for word in words[1:]]
        return [str(program if program.exists() else words[0]), *local]

    def variables(self, service: Service) -> dict[str, str]:
        """The service's variables, with this machine's addresses in them, and the image's."""
        given = {name: self._local_text(value) for name, value in service.environment.items()}
        return {
            **self._settings,
            **given,
            "DAGSTER_HOME": str(self.dagster_home),
            "PYTHONPATH": str(Path(__file__).parent / "image"),
            "ABSENT_MODULES": " ".join(absent_modules(service.image)),
        }

    def _call(
        self, command: list[str], environment: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            env={**os.environ, **environment},
            cwd=self._app,
            capture_output=True,
            text=True,
            timeout=HEALTHY_SECONDS,
        )

    def _local_text(self, text: str) -> str:
        """The text with the addresses of containers replaced by those of this machine."""
        if text.isdigit():
            return str(self._ports.get(int(text), text))
        if found := re.fullmatch(r"postgresql://([^@]+)@postgres:5432/(\w+)", text):
            account, database = found.groups()
            return self.stack.postgres.uri(database).replace("postgres@", f"{account}@", 1)
        for port, local in self._ports.items():
            text = text.replace(f"{HOST}:{port}", f"{HOST}:{local}")
        return (
            text.replace("redpanda:9092", self.stack.broker.bootstrap_servers)
            .replace("http://seaweedfs:8333", self.stack.s3.endpoint_url)
            .replace("http://dagster-webserver:3000", f"http://{HOST}:{self._ports[3000]}")
            .replace("dagster-code", HOST)
            .replace("0.0.0.0", HOST)
        )


@cache
def absent_modules(image: str) -> list[str]:
    """Top-level modules that are installed here, and not in the image."""
    there = image_distributions(image)
    return sorted(
        module
        for module, distributions in packages_distributions().items()
        if there.isdisjoint(map(canonicalize_name, distributions))
    )


def image_distributions(image: str) -> set[str]:
    """What the image has: this project with the extras that its Dockerfile installs, and all that
    these need."""
    wanted: set[tuple[str, str]] = set()
    waiting = [(OURS, extra) for extra in ("", *image_extras(image))]
    while waiting:
        name, extra = waiting.pop()
        wanted.add((name, extra))
        for line in requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                also = ((canonicalize_name(needed.name), extra) for extra in ("", *needed.extras))
                waiting += set(also) - wanted
    return {name for name, _ in wanted}


def image_extras(image: str) -> list[str]:
    """The extras that the target of the Dockerfile installs which makes the image."""
    target = image.partition(":")[0].removeprefix(OURS).removeprefix("-") or "runtime"
    (stage,) = re.findall(
        rf"^FROM base AS {target}$((?:\n.+)*)",
        (INFRA / "Dockerfile").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return re.findall(r"--extra (\S+)", stage)


def image_files() -> Iterator[str]:
    """What the build of the image copies from the project's root."""
    for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines():
        if line.startswith("!"):
            yield line[1:]


def _link_application(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name in image_files():
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(PROJECT_ROOT / name)


def _port(service: Mapping[str, Any]) -> int:
    published = [entry.split(":")[-1] for entry in service.get("ports", [])]
    return int((published or service.get("expose") or ["0"])[0])


def _interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def variable(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, colon, operator, rest = found.groups()
        given = variables.get(name)
        if given is not None and (given or not colon):
            return given
        if operator == "?":
            raise LookupError(f"{name}: {rest}")
        return rest or ""

    return re.sub(r"\$\$|\$\{(\w+)(?:(:?)([-?])([^}]*))?\}", variable, value)
