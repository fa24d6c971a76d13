"""Configuration that decides: validated YAML documents, identified by name and content hash."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

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

    def content(self) -> dict[str, Any]:
        """The content as plain mappings, lists and scalars."""
        return self.model_dump(mode="json")

    @property
    def document(self) -> str:
        """The content as canonical JSON: equal contents have equal documents."""
        return json.dumps(self.content(), sort_keys=True, separators=(",", ":"))

    @property
    def yaml(self) -> str:
        """The content as a file that can be loaded again."""
        text: str = yaml.safe_dump(self.content(), sort_keys=False)
        return text

    @property
    def content_hash(self) -> str:
        """SHA-256 of the canonical document, in hexadecimal."""
        return hashlib.sha256(self.document.encode()).hexdigest()

    @property
    def version(self) -> str:
        """Name and short hash, for people: `lendingclub-v1@1a2b3c4d5e6f`."""
        return f"{self.name}@{self.content_hash[:12]}"


Where = tuple[str | int, ...]


class Problems(ValueError):
    """What a validator found wrong, each with where it is below the validator's own place."""

    def __init__(self, found: Sequence[tuple[Where, str]]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = found


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
    text = read_text(path, what, error_type)
    return validate_document(
        parse_content(text, str(path), what, error_type), str(path), kind, what, error_type
    )


def read_text(path: Path, what: str, error_type: type[PlatformError]) -> str:
    """The text of a document; otherwise as `load_document`."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"{what} {path} cannot be read: {error}") from error


def parse_content(text: str, origin: str, what: str, error_type: type[PlatformError]) -> object:
    """What a document contains, as plain mappings, lists and scalars.

    Args:
        text: YAML (JSON is YAML too).
        origin: where it comes from, for messages.
        what, error_type: as of `load_document`.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-13-45
        raise error_type(f"{what} {origin} is not YAML: {' '.join(str(error).split())}") from error


def validate_document(
    content: object, origin: str, kind: type[D], what: str, error_type: type[PlatformError]
) -> D:
    """Validate what a document contains.

    Args:
        origin, kind, what, error_type: as of `parse_content` and `load_document`.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, where)) or 'document'}: {message}"
            for where, message in problems(error, what)
        )
        raise error_type(f"{what} {origin} is not valid: {wrong}") from error


def problems(error: ValidationError, what: str) -> Iterator[tuple[Where, str]]:
    """What is wrong, with where it is and what to do."""
    for problem in error.errors():
        found = problem.get("ctx", {}).get("error")
        if isinstance(found, Problems):
            yield from (((*problem["loc"], *where), message) for where, message in found.found)
        else:
            yield problem["loc"], _advice(problem, what)


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
