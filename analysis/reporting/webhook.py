"""Alerts to a webhook of the user's. Its URL is a secret: no log and no file shows it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from analysis.reporting.bounded import within

log = logging.getLogger(__name__)

LIMIT = 5.0  # seconds that it has to answer in


def check_url(url: str) -> str:
    """The URL, if it is one that can be posted to.

    Raises:
        ValueError: it is not; without the URL itself.
    """
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        well = False
    if not well or not url.isprintable() or " " in url:
        raise ValueError("the webhook of alerts is no http:// or https:// address (not shown here)")
    return url


def from_environment(name: str) -> str:
    """The URL that an environment variable holds; a configuration, which is written, names it only.

    Raises:
        ValueError: there is no such variable, or what it holds is no address.
    """
    if not name.isidentifier():
        raise ValueError(
            "alerts.webhook is the name of an environment variable that holds the address, which "
            "is a secret: HEADLAB_WEBHOOK=https://... and alerts.webhook=HEADLAB_WEBHOOK"
        )
    if name not in os.environ:
        raise ValueError(f"alerts.webhook: there is no environment variable {name}")
    return check_url(os.environ[name])


def send(url: str, content: Mapping[str, Any]) -> None:
    """POST a value as JSON; what fails is a warning that names the host only. Never raises."""
    try:
        within(2 * LIMIT, lambda: _post(url, content), "the webhook")
    except Exception as error:
        log.warning("the webhook at %s got no alert: %s", urlsplit(url).hostname, _reason(error))


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *how: Any) -> None:
        """Alerts go where the user says, and nowhere else."""


def _post(url: str, content: Mapping[str, Any]) -> None:
    data = json.dumps(content, allow_nan=False).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "headlab"}
    request = Request(url, data, headers, method="POST")
    with build_opener(_NoRedirect).open(request, timeout=LIMIT):
        pass


def _reason(error: Exception) -> str:
    """What went wrong, of errors whose words can't hold the URL."""
    if isinstance(error, HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, URLError):
        return type(error.reason).__name__ if not isinstance(error.reason, str) else "no answer"
    return str(error) if isinstance(error, TimeoutError) else type(error).__name__
