"""Reports that are a page on S3: where it is, and that it is there."""

from datetime import UTC, datetime

from resources.lake import Lake

CONTENT_TYPE = "text/html; charset=utf-8"


def put_page(lake: Lake, kind: str, end: datetime, html: str) -> str:
    """Put the page of a report that goes up to a time; returns its key,
    `reports/<kind>/dt=<day>/<time>.html`. One of the same time is replaced.

    Raises: what `Lake.put` does.
    """
    end = end.astimezone(UTC)
    key = f"reports/{kind}/dt={end:%Y-%m-%d}/{end:%Y-%m-%dT%H%M%S.%fZ}.html"
    lake.put(key, html.encode(), CONTENT_TYPE)
    return key
