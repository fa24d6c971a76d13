"""The documents say what is."""

import re
from pathlib import Path

import pytest

from credit_risk_dagster.settings import PROJECT_ROOT
from infra.configuration_reference import FILE, groups, page
from tests.test_settings import GROUPS

DOCUMENTS = [
    path for pattern in ("*.md", "docs/**/*.md") for path in sorted(PROJECT_ROOT.glob(pattern))
]


def test_the_configuration_reference_is_that_of_the_settings() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "run make docs"
    assert groups() == list(GROUPS)


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    assert links
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_paths_that_are_named_exist() -> None:
    folders = "infra|tests|docs|domain|dashboard|resources"
    the_readers_own = ("infra/settings.env",)
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for path in re.findall(rf"`((?:{folders})/[\w/.-]+)`", text):
            root = "credit_risk_dagster" if path.startswith("domain/") else ""
            if path not in the_readers_own:
                assert (PROJECT_ROOT / root / path).exists(), f"{document.name} names {path}"
