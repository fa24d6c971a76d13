"""Links from the assets in Dagster's UI to the code that makes them, and its version."""

import re
import subprocess
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import dagster as dg

from credit_risk_dagster.settings import PROJECT_ROOT

# No host with a port: its web address is not to be guessed.
_HOST = r"[\w.-]*git(?:hub|lab)[\w.-]*"
_REMOTE = re.compile(
    rf"(?:(?:https?://(?:[^@/]+@)?|ssh://git@)({_HOST})/|git@({_HOST}):)([\w./~-]+?)(?:\.git)?/?"
)


def linked(*assets: dg.AssetsDefinition) -> Sequence[dg.AssetsDefinition]:
    """The same, each with the place of its code: file and line on this machine, or, in a clone of a
    repository on GitHub or GitLab, their page there."""
    found = dg.with_source_code_references([asset for asset in assets if asset.is_executable])
    found = [*(asset for asset in assets if not asset.is_executable), *found]
    if where := repository():
        url, revision = where
        found = dg.link_code_references_to_git(
            found,
            git_url=url,
            git_branch=revision,
            file_path_mapping=dg.AnchorBasedFilePathMapping(
                PROJECT_ROOT / "pyproject.toml", "pyproject.toml"
            ),
        )
    return [asset for asset in found if isinstance(asset, dg.AssetsDefinition)]


@cache
def code_version(*modules: str) -> str:
    """The version of what these modules of ours decide: it changes with their code, and with
    nothing else. Of a package, all its modules count."""
    found = sha256()
    for module in modules:
        spec = find_spec(module)
        place = Path((spec and spec.origin) or "")
        for file in sorted(place.parent.rglob("*.py")) if place.stem == "__init__" else [place]:
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


def written_in(file: str) -> dict[str, dg.CodeReferencesMetadataValue]:
    """Metadata of an asset that no function makes."""
    place = dg.LocalFileCodeReference(file_path=file)
    return {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[place])}


@cache
def repository() -> tuple[str, str] | None:
    """Web address and revision of this clone, without what the remote's address has of
    credentials; None where git does not say."""
    if not (PROJECT_ROOT / ".git").exists():
        return None
    try:
        if remote := _REMOTE.fullmatch(_git("remote", "get-url", "origin")):
            return f"https://{remote[1] or remote[2]}/{remote[3]}", _git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):  # no git, no remote, no commit, not ours to read
        return None
    return None


def _git(*arguments: str) -> str:
    return subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607 (from the PATH, as everywhere)
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=5,
    ).stdout.strip()
