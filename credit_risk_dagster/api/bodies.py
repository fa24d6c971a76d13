"""Bodies of requests: their documentation, and taking them apart.

The domain decides what can be scored, from the bytes as they came. So bodies are no models: only
what is JSON at all, and of which kind, is decided here.
"""

from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from credit_risk_dagster.api.problems import ApiError

_Model = TypeVar("_Model", bound=BaseModel)

EXAMPLE: dict[str, Any] = {
    "id": "127000001",
    "loan_amnt": 28000,
    "term": " 60 months",
    "int_rate": "14.07%",
    "annual_inc": 90000,
    "dti": 38.01,
    "revol_util": "81.2%",
    "delinq_2yrs": 1,
    "inq_last_6mths": 2,
    "earliest_cr_line": "Aug-2001",
    "issue_d": "Mar-2018",
    "emp_length": "3 years",
    "purpose": "debt_consolidation",
    "grade": "C",
    "addr_state": "NJ",
    "home_ownership": "MORTGAGE",
}

_NUMBER: dict[str, Any] = {"type": ["number", "string"]}
_MAYBE_NUMBER: dict[str, Any] = {"type": ["number", "string", "null"]}
_MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}

_DESCRIPTION = """A LendingClub row under its own column names, as it comes: "13.56%", " 36 months",
"10+ years", "n/a" and null are understood. Other columns are ignored."""

ANY_APPLICATION: dict[str, Any] = {"type": "object", "description": _DESCRIPTION}

APPLICATION: dict[str, Any] = {
    **ANY_APPLICATION,
    "required": ["id", "loan_amnt", "annual_inc", "dti", "int_rate", "earliest_cr_line"],
    "properties": {
        "id": {"type": ["string", "number"], "description": "the loan; the key of the event"},
        "loan_amnt": {**_NUMBER, "description": "USD"},
        "annual_inc": {**_NUMBER, "description": "USD"},
        "dti": {**_NUMBER, "description": "percent; -1, 999 and 9999 are unknown"},
        "int_rate": {**_NUMBER, "description": "percent"},
        "earliest_cr_line": {"type": "string", "description": "month, such as Aug-2001"},
        "revol_util": {**_MAYBE_NUMBER, "description": "percent"},
        "delinq_2yrs": _MAYBE_NUMBER,
        "inq_last_6mths": _MAYBE_NUMBER,
        "term": _MAYBE_NUMBER,
        "emp_length": _MAYBE_NUMBER,
        "issue_d": {**_MAYBE_TEXT, "description": "month of the application, such as Mar-2018"},
        "event_time": {**_MAYBE_TEXT, "description": "ISO 8601; now, when it is missing"},
        "purpose": _MAYBE_TEXT,
        "grade": _MAYBE_TEXT,
        "addr_state": _MAYBE_TEXT,
        "home_ownership": _MAYBE_TEXT,
    },
}

LIST: dict[str, Any] = {
    "type": "array",
    "items": {},
    "description": "applications, each answered in order",
}

ONE = {"one": {"summary": "One application", "value": EXAMPLE}}
SEVERAL = {
    "several": {"summary": "A list", "value": [EXAMPLE, {"id": "127000002", "loan_amnt": "n/a"}]}
}


def documented(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """The part of an operation's documentation that is about its body."""
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


def fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object, their values as they were written.

    Raises:
        ApiError: 400, it is no JSON; 422, it is no object.
    """
    return _parse(body, dict[str, msgspec.Raw])


def applications(body: bytes) -> list[bytes] | None:
    """The elements of a JSON list, as they were written; None when it is an object.

    Raises:
        ApiError: 400, it is no JSON; 422, it is neither.
    """
    if body.lstrip().startswith(b"["):
        return [bytes(value) for value in _parse(body, list[msgspec.Raw])]
    fields(body)
    return None


def objects(body: bytes) -> list[dict[str, Any]]:
    """The objects of a JSON list, or the one that it is.

    Raises:
        ApiError: 400, it is no JSON; 422, it is neither.
    """
    found = _parse(body, dict[str, Any] | list[dict[str, Any]])
    return found if isinstance(found, list) else [found]


def read(model: type[_Model], body: bytes) -> _Model:
    """A body as a model of it.

    Raises:
        ApiError: 400, it is no JSON; 422, it is another.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        status = 400 if first["type"] == "json_invalid" else 422
        where = ".".join(map(str, first["loc"]))
        raise ApiError(status, f"{where}: {first['msg']}" if where else first["msg"]) from error


def _parse(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(422, "each is a JSON object") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is no JSON: {error}") from error
