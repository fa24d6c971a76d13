"""The same fixtures as everywhere, on Apache Kafka instead of the embedded broker."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tests.interop import kafka
from tests.interop.kafka import Kafka

SENT, COMMITTED = "sent", "committed"

RecordProperty = Callable[[str, object], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.interop)


@pytest.fixture(scope="session")
def _jars() -> None:
    try:
        kafka.jars()
    except kafka.NoKafka as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def broker(_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Apache Kafka in KRaft mode, one broker."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture
def cluster(_jars: None, own_servers: None, tmp_path: Path) -> Iterator[list[Kafka]]:
    """Three of them, of this test alone."""
    with kafka.cluster(tmp_path) as brokers:
        yield brokers


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The table of `make interop`: what was sent, what became of it, and how long it took."""
    rows = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            told = dict(report.user_properties)
            if report.when == "call" and "tests/interop" in report.nodeid:
                case = report.nodeid.split("::", 1)[1].removeprefix("test_").replace("_", " ")
                rows.append((case[:72], told.get(SENT, ""), told.get(COMMITTED, outcome), report))
    if not rows:
        return
    width = max(len(case) for case, *_ in rows)
    terminalreporter.section(f"Apache Kafka {kafka.VERSION}")
    terminalreporter.write_line(f"{'case':{width}}  {'sent':>34}  {'committed':>34}  seconds")
    for case, sent, committed, report in rows:
        terminalreporter.write_line(
            f"{case:{width}}  {sent!s:>34}  {committed!s:>34}  {report.duration:7.1f}"
        )
