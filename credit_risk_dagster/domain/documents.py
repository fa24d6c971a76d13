"""Configuration that decides: validated YAML documents, identified by name and content hash."""

import hashlib
import json
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from credit_risk_dagster.errors import PlatformError


class Document(BaseModel):
    """A part of a document: no unknown fields, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NamedDocument(Document):
    """A whole document."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")

    @property
    def document(self) -> str:
        """The content as canonical JSON: equal contents have equal documents."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def yaml(self) -> str:
        """The content as a file that can be loaded again."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text

    @property
    def content_hash(self) -> str:
        """SHA-256 of the canonical document, in hexadecimal."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    @property
    def version(self) -> str:
        """Name and short hash, for people: `lendingclub-v1@1a2b3c4d5e6f`."""
        return f"{self.name}@{self.content_hash[:12]}"


D = TypeVar("D", bound=NamedDocument)


def load_document(path: Path, kind: type[D], what: str, error_type: type[PlatformError]) -> D:
    """Read and validate a document.

    Args:
        path: the YAML file.
        kind: what it must be.
        what: its name in messages.
        error_type: raised, with a message that names the file, the field and the fix, when the file
            is missing, is not YAML, or a field is missing, unknown or impossible.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"{what} {path} cannot be read: {error}") from error
    return parse_document(text, str(path), kind, what, error_type)


def parse_document(
    text: str, origin: str, kind: type[D], what: str, error_type: type[PlatformError]
) -> D:
    """Validate a document.

    Args:
        text: YAML (JSON is YAML too).
        origin: where it comes from, for messages.
        kind, what, error_type: as of `load_document`.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45
        raise error_type(f"{what} {origin} is not YAML: {' '.join(str(error).split())}") from error
    return validate_document(content, origin, kind, what, error_type)


def validate_document(
    content: object, origin: str, kind: type[D], what: str, error_type: type[PlatformError]
) -> D:
    """Validate what a document contains, as plain mappings, lists and scalars.

    Args:
        origin, kind, what, error_type: as of `parse_document`.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'document'}: {_advice(problem, what)}"
            for problem in error.errors()
        )
        raise error_type(f"{what} {origin} is not valid: {problems}") from error


_ADVICE = {
    "missing": "is missing, add it",
    "model_type": "must be a mapping of fields to values",
    "tuple_type": "must be a list of three numbers",
    "too_long": "must be a list of three numbers",
    "list_type": "must be a list",
}


def _advice(problem: ErrorDetails, what: str) -> str:
    if problem["type"] == "extra_forbidden":
        article = "an" if what[0] in "aeiou" else "a"
        return f"is no field of {article} {what}, correct its name or remove it"
    return _ADVICE.get(problem["type"], problem["msg"].removeprefix("Value error, "))
