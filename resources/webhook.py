"""Telling people: a JSON message to a webhook (Slack, Mattermost, Teams, a pager's, one's own)."""

from typing import Any
from urllib.parse import urlsplit

from credit_risk_dagster.errors import PlatformError
from credit_risk_dagster.settings import AlertSettings

_TRIES = 3
_TRY_AGAIN = (429, 500, 502, 503, 504)


class WebhookFailed(PlatformError):
    """The webhook did not take a message. Of its address, which is a secret, the host is told."""


def post(settings: AlertSettings, message: dict[str, Any]) -> bool:
    """Post a message to the webhook; returns whether there is one.

    Args:
        settings: its address, and how long it may take.
        message: `text` for people, which chats show, and whatever machines want.

    Raises:
        WebhookFailed: it did not answer with 2xx, three times.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    if settings.webhook_url is None:
        return False
    url = settings.webhook_url.get_secret_value()
    host = urlsplit(url).hostname
    retry = Retry(
        _TRIES - 1,
        backoff_factor=0.2,
        status_forcelist=_TRY_AGAIN,
        allowed_methods=["POST"],
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.mount(url, HTTPAdapter(max_retries=retry))
        try:
            answer = session.post(
                url, json=message, timeout=settings.timeout_seconds, allow_redirects=False
            )
        except requests.RequestException as error:
            # Its message, and those that it came from, have the whole address.
            raise WebhookFailed(
                f"the alert webhook at {host} does not answer: {type(error).__name__}"
            ) from None
    if not answer.ok or answer.is_redirect:
        raise WebhookFailed(f"the alert webhook at {host} answers {answer.status_code}")
    return True
