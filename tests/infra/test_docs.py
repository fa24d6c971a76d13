"""What the documents name is there: links, paths, tests, commands, settings, metrics, pictures."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from credit_risk_dagster.cli.main import app
from credit_risk_dagster.settings import PROJECT_ROOT
from infra.configuration_reference import FILE, groups, page
from tests.test_settings import GROUPS

DOCUMENTS = [
    path for pattern in ("*.md", "docs/**/*.md") for path in sorted(PROJECT_ROOT.glob(pattern))
]
PICTURES = PROJECT_ROOT / "docs" / "images"
# Files that the reader makes.
READERS_OWN = ("infra/.env", "infra/settings.env", ".streamlit/secrets.toml")
COMMANDS = get_command(app)
every_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT))
)


@cache
def text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def code(document: Path) -> list[str]:
    """What is set as code: spans of a line, and the lines of blocks."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text(document), re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^ *```.*?^ *```", "", text(document), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)] + lines


def test_the_readme_is_read_in_one_go() -> None:
    assert len(text(PROJECT_ROOT / "README.md").splitlines()) <= 150


def test_the_configuration_reference_is_that_of_the_settings() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "run make docs"
    assert groups() == list(GROUPS)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_linked_from_the_index() -> None:
    folder = PROJECT_ROOT / "docs"
    for index in (folder / "README.md", folder / "decisions" / "README.md"):
        linked = set(re.findall(r"\]\(([^)#\s]+)\)", text(index)))
        pages = {page.name for page in index.parent.glob("*.md")} - {"README.md"}
        assert pages <= linked, f"{index} leads not to {pages - linked}"


def test_every_picture_is_on_a_page() -> None:
    shown = {
        (document.parent / link).resolve()
        for document in DOCUMENTS
        for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text(document))
    }
    assert set(PICTURES.iterdir()) == shown


@every_document
def test_paths_exist(document: Path) -> None:
    """Below the project's root, or the package that most of them are in."""
    roots = [PROJECT_ROOT, PROJECT_ROOT / "credit_risk_dagster"]
    folders = {folder.name for root in roots for folder in root.iterdir() if folder.is_dir()}
    for span in code(document):
        path, _, test = span.partition("::")
        if not re.fullmatch(r"[\w.-]+/[\w./-]*", path) or path.split("/")[0] not in folders:
            continue
        found = [root / path for root in roots if (root / path).exists()]
        assert found or path in READERS_OWN, f"{path} is not there"
        if test:
            assert f"def {test}(" in text(found[0]), f"{path} has no {test}"


def test_the_layers_are_those_of_the_linter() -> None:
    settings = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if "layers" in c)
    page = text(PROJECT_ROOT / "docs" / "architecture.md")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    told = [set(re.findall(r"`([\w/]+?)(?:/|\.py)`", row)) for row in rows]
    held = [set(layer.replace(".", "/").split(" | ")) for layer in contract["layers"]]
    assert told == held


@every_document
def test_targets_of_make_exist(document: Path) -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for line in code(document):
        for target in re.findall(r"^make ([a-z-]+)", line):
            assert target in targets, line


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words of a line name, and the words after its name."""
    command: Any = COMMANDS
    while commands := getattr(command, "commands", None):
        if not words or not re.fullmatch(r"[a-z-]+", words[0]):
            break
        assert words[0] in commands, f"there is no command {words[0]}"
        command, words = commands[words[0]], words[1:]
    return command, words


@every_document
def test_commands_and_their_options_exist(document: Path) -> None:
    for line in code(document):
        for words in re.findall(r"(?:^|[;|] *)credit-risk ([^#;|]*)", line):
            command, rest = command_of(words.split())
            options = {spelling for option in command.params for spelling in option.opts}
            named = set(re.findall(r"(?<![\w-])--[a-z-]+", " ".join(rest)))
            assert named <= options | {"--help"}, line


@cache
def variables() -> frozenset[str]:
    """Every variable that the platform, its containers or its pods know."""
    files = [PROJECT_ROOT / ".env.example", FILE, *(PROJECT_ROOT / "infra").rglob("*")]
    known = (".example", ".md", ".yml", ".yaml", ".py", ".sql")
    return frozenset(
        name
        for file in files
        if file.name.endswith(known)
        for name in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", file.read_text("utf-8"))
    )


@every_document
def test_settings_exist(document: Path) -> None:
    prefixes = "CREDIT_RISK|KAFKA|S3|AWS|DAGSTER|DASHBOARD|DATABASE|POSTGRES|GRAFANA|PROMETHEUS"
    for line in code(document):
        for name in re.findall(rf"\b(?:{prefixes})_[A-Z0-9_]+\*?", line):
            if name.endswith("*"):
                assert any(known.startswith(name[:-1]) for known in variables()), name
            else:
                assert name in variables(), name


@every_document
def test_metrics_exist(document: Path) -> None:
    folder = PROJECT_ROOT / "credit_risk_dagster" / "api" / "metrics"
    source = "".join(file.read_text("utf-8") for file in folder.glob("*.py"))
    roles = (PROJECT_ROOT / "infra" / "postgres" / "roles.sql").read_text("utf-8")
    for line in code(document):
        for name in re.findall(r"^credit_risk_([a-z_]+)(?:\{[a-z_,]+\})?$", line):
            role = f"credit_risk_{name} " in roles
            assert role or any(part in source for part in _spellings(name)), name


def _spellings(name: str) -> Iterator[str]:
    """How the source may spell a metric: prometheus_client adds `_total`, loops add prefixes."""
    yield f'"{name}"'
    yield f'"{name.removesuffix("_total")}"'
    yield f'"{name.removeprefix("model_")}"'
    yield f'"{name.removesuffix("_up")}"'


def test_a_table_is_one_table() -> None:
    """A blank line inside a table ends it, and what follows is shown as text."""
    for document in DOCUMENTS:
        for block in re.split(r"\n\s*\n", text(document)):
            lines = block.strip().splitlines()
            rows = [line for line in lines if line.startswith("|")]
            if rows and lines[0].startswith("|"):
                assert re.fullmatch(r"[|\s:-]+", lines[1] if len(lines) > 1 else ""), (
                    f"{document.name}: {lines[0]} begins no table"
                )
