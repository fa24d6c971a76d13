"""Reports that are a page on S3, and a line to the webhook."""

import logging
from datetime import UTC, datetime

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import AlertSettings
from resources.lake import Lake
from resources.webhook import post

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


def put_and_tell(
    lake: Lake,
    alert: AlertSettings,
    report: str,
    kind: str,
    end: datetime,
    html: str,
    line: str,
    log: logging.Logger,
) -> dict[str, str]:
    """Put the page of a report, and tell the webhook the line and where the page is. What does not
    take the one is noted, and the other is done all the same.

    Args:
        report: the webhook's `kind`.
        kind: as of `put_page`.

    Returns:
        `page`, its key, and `webhook`, or why there is none.
    """
    noted = {}
    try:
        noted["page"] = put_page(lake, kind, end, html)
    except PlatformError as error:
        log.warning("no page: %s", error)
        noted["page"] = f"none: {error}"
    text = f"{line}. Page: {noted['page']}"
    try:
        told = post(alert, {"text": text, "kind": report, "page": noted["page"]})
        noted["webhook"] = "told" if told else "CREDIT_RISK_ALERT_WEBHOOK_URL is not set"
    except PlatformError as error:
        log.warning("%s", error)
        noted["webhook"] = str(error)
    return noted
