"""Cursors: where a page ends, opaque to whoever sends one back."""

import base64
import binascii
from typing import Annotated

import msgspec
from fastapi import Query

from credit_risk_dagster.api.problems import ApiError
from resources.postgres.applications import NEWEST, Place

Cursor = Annotated[
    str | None,
    Query(
        pattern=r"^[A-Za-z0-9_-]+$",
        max_length=200,
        description="`next` of the page before; leave it out for the first page",
    ),
]
Limit = Annotated[int, Query(ge=1, le=500, description="most rows of a page")]


def encode(place: Place | None) -> str | None:
    """The cursor of a place; None stays None."""
    if place is None:
        return None
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode(cursor: str | None) -> Place:
    """The place of a cursor.

    Raises:
        ApiError: 422, it is not one of ours.
    """
    if cursor is None:
        return NEWEST
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(text, type=Place)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise ApiError(422, "the cursor is not the `next` of a page") from error
