"""Rules of the house: files and functions that one can read, and private names in one place."""

import ast
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest

from credit_risk_dagster.settings import PROJECT_ROOT

ROOTS = ("credit_risk_dagster", "assets_src", "sensors", "resources", "dashboard", "infra")
FILE_LINES, FUNCTION_LINES = 500, 60
# What is longer, and why. A migration is frozen: who installed it has it as it is.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
FROZEN = "resources/postgres/migrations/versions"
# Where a library is taken by names that it does not promise to keep. An upper bound on it goes with
# each, so that its next version is met on purpose.
PRIVATE: dict[str, tuple[str | tuple[str, ...], str]] = {
    "dagster": ("dagster._", "resources/dagster_internals.py"),
    "kafka-python": (("kafka.net", "kafka.consumer.fetcher"), "resources/kafka/client.py"),
}


@cache
def modules() -> dict[str, ast.Module]:
    """The product's files, parsed."""
    return {
        str(path.relative_to(PROJECT_ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for root in ROOTS
        for path in sorted((PROJECT_ROOT / root).rglob("*.py"))
    }


def long_functions() -> Iterator[str]:
    for file, module in modules().items():
        if file.startswith(FROZEN):
            continue
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                if (node.end_lineno or first) - first + 1 > FUNCTION_LINES:
                    yield f"{file}::{node.name}"


def test_a_file_can_be_read() -> None:
    long = {f for f in modules() if len((PROJECT_ROOT / f).read_text().splitlines()) > FILE_LINES}
    assert long == LONG_FILES.keys()


def test_a_function_can_be_read() -> None:
    assert set(long_functions()) == LONG_FUNCTIONS.keys()


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("library", PRIVATE)
def test_private_names_of_a_library_stand_in_one_file(library: str) -> None:
    names, place = PRIVATE[library]
    found = {
        file
        for file, module in modules().items()
        if any(name.startswith(names) for name in imported(module))
    }
    assert found == {place}
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = (
        line for line in project["dependencies"] if line.startswith((f"{library}>", f"{library}["))
    )
    assert "<" in needed, f"{needed}: its private names need an upper bound"
