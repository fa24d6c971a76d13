"""`make images-check`: the images built, and the compose file's services at work in containers.

Needs Docker, or Podman as root. Builds both targets of infra/Dockerfile, starts the services of
infra/docker-compose.yml, passes events, stops and kills containers under load, and counts. Where
the images of Postgres, the broker and S3 cannot be pulled, servers of wheels have their names.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from credit_risk_dagster.settings import PROJECT_ROOT
from tests.images.composition import (
    STAND_IN,
    Composition,
    Stop,
    Unhealthy,
)
from tests.images.engine import (
    Engine,
    EngineError,
    alone_with_one_cgroup,
    base_image,
    find_engine,
    make_base,
)
from tests.platform.compose import INFRA, OURS
from tests.platform.waiting import wait_until

DOCKERFILE = INFRA / "Dockerfile"
HERE = Path(__file__).parent
STAND_IN_DOCKERFILE = HERE / "stand_in.Dockerfile"
STAND_IN_FILES = [
    HERE / "stand_in.py",
    *(PROJECT_ROOT / name for name in ("pyproject.toml", "requirements.lock")),
]
IMAGES = {"runtime": f"{OURS}:local", "runs": f"{OURS}-runs:local", "demo": f"{OURS}-demo:local"}
SERVERS = ("postgres", "redpanda", "seaweedfs")
STAYING = ("dagster-code", "dagster-webserver", "dagster-daemon", "api", "dashboard")
EVENTS, RATE = 2_000, 100
SIZES_GB = {"runtime": 1.2, "demo": 1.2, "runs": 1.35}
MEMORY_SHARE, PATIENCE_SECONDS = 0.7, 240
PARTS = """
cd /venv/lib/python3*/site-packages
du -sm /venv /app | awk '{printf "%s %s\\n", $2, $1}'
find / -xdev -name '*.pyc' -printf '%s\\n' | awk '{n += $1} END {print ".pyc " int(n / 1048576)}'
du -sm -- * | sort -rn | head -12 | awk '{printf "%s %s\\n", $2, $1}'
"""


class Report:
    """What is printed, and what of it is wrong."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def title(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def line(self, what: str, value: object, *, right: bool = True) -> None:
        """A line; what is not right fails the check."""
        print(f"  {what:<42} {value}{'' if right else '   <- WRONG'}", flush=True)
        if not right:
            self.wrong.append(f"{what}: {value}")


def main() -> int:
    """Check, and tell; returns the exit code."""
    engine = find_engine()
    if engine is None:
        print("left out: neither Docker nor, as root, Podman works here")
        return 0
    if engine.is_podman:
        alone_with_one_cgroup([sys.executable, "-m", "tests.images", *sys.argv[1:]])
    report = Report()
    commit = _output("git", "describe", "--always", "--dirty")
    report.title(f"images of {commit}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, by {engine.name}")
    try:
        build(engine, report)
        with Composition(engine, images_of_servers(engine, report)) as composition:
            check(composition, report)
    except (AssertionError, EngineError, Unhealthy) as error:
        report.line("it ended", error, right=False)
    report.title("wrong: " + "; ".join(report.wrong) if report.wrong else "all is as it should be")
    return 1 if report.wrong else 0


def build(engine: Engine, report: Report) -> None:
    """The targets, and of what their size is."""
    report.title("build")
    base = base_image(DOCKERFILE)
    if not engine.has(base):
        make_base(engine, base)
        report.line(base, "cannot be pulled: Debian's bookworm and its Python in its place")
    report.line(base, f"{engine.size(base) / 1e9:.2f} GB")
    for target, tag in IMAGES.items():
        seconds = engine.build(tag, DOCKERFILE, PROJECT_ROOT, target)
        size = engine.size(tag) / 1e9
        report.line(tag, f"{size:.2f} GB, {seconds:.0f} s", right=size <= SIZES_GB[target])
    parts = engine("run", "--rm", *engine.limits, IMAGES["runs"], "sh", "-c", PARTS)
    for name, megabytes in (line.split() for line in parts.splitlines()):
        report.line(f"  {name}", f"{megabytes} MB")


def images_of_servers(engine: Engine, report: Report) -> dict[str, str]:
    """Stand-ins for the servers whose images cannot be pulled."""
    services = Composition(engine, {}).services
    wanted = {services[name]["image"] for name in SERVERS}
    absent = {image for image in wanted if not engine.has(image)}
    missing = [name for name, service in services.items() if service["image"] in absent]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            for file in (*STAND_IN_FILES, PROJECT_ROOT / ".venv" / "bin" / "uv"):
                shutil.copy(file, folder)
            engine.build(STAND_IN, STAND_IN_DOCKERFILE, Path(folder))
        report.line(", ".join(missing), "cannot be pulled: servers of wheels in their place")
    return dict.fromkeys(missing, STAND_IN)


def check(composition: Composition, report: Report) -> None:
    """Everything that is seen of containers at work."""
    report.title("start: seconds until done or healthy")
    for name in (*STAYING, "backup"):
        report.line(name, f"{composition.up(name):.0f} s with what it waits for")
    report.title(f"{EVENTS:,} events")
    composition.once("producer", "--rate", "0", "--max", str(EVENTS))
    began = time.monotonic()
    wait_for(composition, EVENTS)
    report.line("committed after", f"{time.monotonic() - began:.0f} s")
    under_load(composition, report)
    each_container(composition, report)
    exactly_once(composition, report)
    report.title("stop: exit code, seconds")
    for name in reversed(STAYING):
        told(report, name, composition.stop(name))


def under_load(composition: Composition, report: Report) -> None:
    """Containers are stopped and killed while events come."""
    report.title(f"under {RATE} events/s")
    composition.up("producer", "--rate", str(RATE))
    wait_for_more(composition)
    worked, refused = failed(composition)
    stopped = composition.stop("dagster-code")
    told(report, "dagster-code, loaded, stopped", stopped)
    worked, refused = (n - m for n, m in zip(failed(composition), (worked, refused), strict=True))
    report.line("  runs that worked, and failed by it", worked, right=not worked)
    report.line("  runs that it refused to start", f"{refused}; the sensor asks again")
    report.line("  healthy again", f"{composition.restart('dagster-code'):.0f} s")
    wait_for_more(composition)
    for name in ("dagster-code", "postgres", "dagster-daemon"):
        composition.kill(name)
        seconds = composition.restart(name)
        wait_for_more(composition)
        report.line(f"{name}, killed, healthy again", f"{seconds:.0f} s, and commits go on")
    told(report, "producer, stopped", composition.stop("producer"))


def told(report: Report, name: str, stop: Stop) -> None:
    """A stop: by itself, within its time."""
    report.line(name, f"exit {stop.code}, {stop.seconds:.1f} s", right=stop.code in (0, 143))


def each_container(composition: Composition, report: Report) -> None:
    """User, root, memory and the cost of the health check."""
    report.title("containers: user, read-only root, peak of memory, kills for memory, health check")
    for name in (*SERVERS, *STAYING, "backup"):
        cost = f", {health_cost(composition, name):.2f} s of CPU" if name in STAYING else ""
        composition.note_memory(name)
        memory = composition.memory[name]
        user = composition.run(name, "id", "-u")
        writable = composition.engine.works(
            *("exec", "--user", "0", f"credit-risk-check-{name}", "touch", "/root-is-writable")
        )
        killed = memory.kills or composition.state(name)["OOMKilled"]
        report.line(
            name,
            f"user {user}, root {'WRITABLE' if writable else 'read-only'}, "
            f"{memory.peak >> 20} of {memory.limit >> 20} MiB, {int(killed)} killed{cost}",
            right=user != "0"
            and not writable
            and not killed
            and memory.peak < MEMORY_SHARE * memory.limit,
        )


def health_cost(composition: Composition, name: str) -> float:
    """Seconds of CPU of one health check, in a container with Python."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime)"
    )
    printed = composition.run(name, "python", "-c", code, *composition.health(name))
    return float(printed.splitlines()[-1])


def exactly_once(composition: Composition, report: Report) -> None:
    """Each offset of the topic is stored once."""
    report.title("counts")
    ends = sent(composition)
    wait_for(composition, ends)
    ((rows, different),) = composition.psql(
        "credit_risk",
        'SELECT count(*), count(DISTINCT (source_id, partition, "offset")) FROM ('
        'SELECT source_id, partition, "offset" FROM credit_risk.scored_applications UNION ALL '
        'SELECT source_id, partition, "offset" FROM credit_risk.rejected_events) AS stored',
    )
    report.line("events in the topic", f"{ends:,}")
    report.line("stored", f"{int(rows):,}", right=int(rows) == ends)
    report.line("stored twice", int(rows) - int(different), right=rows == different)
    for status, count in composition.psql(
        "dagster", "SELECT status, count(*) FROM runs GROUP BY 1"
    ):
        report.line(f"runs {status}", count)


def sent(composition: Composition) -> int:
    """Events in the topic."""
    code = (
        "from credit_risk_dagster.settings import KafkaSettings;"
        "from resources.kafka.broker import Broker;"
        "print(sum(end for _, end in Broker(KafkaSettings()).inspect().offsets.values()))"
    )
    return int(composition.run("dagster-code", "python", "-c", code))


def committed(composition: Composition) -> int:
    """Offsets that are committed."""
    query = "SELECT coalesce(sum(next_offset - first_offset), 0) FROM credit_risk.stream_offsets"
    return int(composition.psql("credit_risk", query)[0][0])


def wait_for(composition: Composition, events: int) -> None:
    """Wait until so many offsets are committed."""
    what = f"{events} events are committed"
    wait_until(lambda: committed(composition) >= events, PATIENCE_SECONDS, what, every=0.5)


def wait_for_more(composition: Composition) -> None:
    """Wait until commits go on."""
    wait_for(composition, committed(composition) + 5 * RATE)


def failed(composition: Composition) -> tuple[int, int]:
    """Runs that failed when they had worked, and runs that never did."""
    ((worked, refused),) = composition.psql(
        "dagster",
        "SELECT count(start_time), count(*) - count(start_time) FROM runs WHERE status = 'FAILURE'",
    )
    return int(worked), int(refused)


def _output(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=PROJECT_ROOT
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
