"""Every asset leads to its code: on this machine, or on the web where git says where."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets_src import source_code
from credit_risk_dagster.definitions import defs


@dg.asset
def made_here() -> None: ...


LINE = made_here.op.compute_fn.decorated_fn.__code__.co_firstlineno  # type: ignore[union-attr]


def place(asset: dg.AssetsDefinition) -> str:
    (linked,) = source_code.linked(asset)
    (spec,) = linked.specs
    (found,) = spec.metadata["dagster/code_references"].code_references
    return str(found.source)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for the project's, with a copy of this file."""
    monkeypatch.setattr(source_code, "PROJECT_ROOT", tmp_path)
    repository = source_code.repository
    repository.cache_clear()
    yield tmp_path
    repository.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def commit(folder: Path, remote: str | None) -> str:
    git(folder, "init", "--quiet")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "first")
    if remote:
        git(folder, "remote", "add", "origin", remote)
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://github.com/lender/credit-risk.git", "https://github.com/lender/credit-risk"),
        ("https://me:s3cret@github.com/lender/risk", "https://github.com/lender/risk"),
        ("git@github.com:lender/risk.git", "https://github.com/lender/risk"),
        ("ssh://git@gitlab.lender.com/a/b/risk.git", "https://gitlab.lender.com/a/b/risk"),
        ("https://git.lender.com/risk.git", None),
        ("https://gitlab.lender.com:8443/risk.git", None),
        ("/srv/github/risk", None),
        (None, None),
    ],
)
def test_the_revision_is_linked_where_it_can_be_seen(
    clone: Path, remote: str | None, url: str | None
) -> None:
    revision = commit(clone, remote)
    assert source_code.repository() == (url and (url, revision))


def test_without_git_the_link_is_to_the_file(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place(made_here) == f"{__file__}:{LINE}"
    git(clone, "init", "--quiet")  # no commit, no remote
    source_code.repository.cache_clear()
    assert place(made_here) == f"{__file__}:{LINE}"
    monkeypatch.setenv("PATH", str(clone))  # no git
    source_code.repository.cache_clear()
    assert place(made_here) == f"{__file__}:{LINE}"


def test_a_clone_links_to_its_page(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = commit(clone, "git@github.com:lender/risk.git")
    monkeypatch.setattr(source_code, "PROJECT_ROOT", Path(__file__).parents[1])
    monkeypatch.setattr(
        source_code, "repository", lambda: ("https://github.com/lender/risk", revision)
    )
    page = f"https://github.com/lender/risk/tree/{revision}/tests/{Path(__file__).name}"
    assert place(made_here) == f"{page}#L{LINE}"


def test_every_asset_leads_to_its_code() -> None:
    for spec in defs.resolve_all_asset_specs():
        (found,) = spec.metadata["dagster/code_references"].code_references
        assert "/assets_src/" in found.source, spec.key


def test_the_version_of_an_asset_changes_with_what_decides_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decides").mkdir()
    for file in ("decides/__init__.py", "decides/rule.py", "other_rule.py"):
        (tmp_path / file).write_text("dti = 30\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = source_code.code_version("decides")
    source_code.code_version.cache_clear()
    (tmp_path / "other_rule.py").write_text("dti = 31\n")
    assert source_code.code_version("decides") == before
    source_code.code_version.cache_clear()
    (tmp_path / "decides" / "rule.py").write_text("dti = 31\n")
    assert source_code.code_version("decides") != before
    assert source_code.code_version("other_rule") != source_code.code_version("decides")
