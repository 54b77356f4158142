"""Posts a notification: the certificate is verified, redirects are not followed, and no message shows the address."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from planrunner.errors import ToolFailed
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # A redirect could lead a token to somebody else.
    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def refused_url(url: str) -> str | None:
    """Why nothing is posted to ``url``; None when it may be. Never quotes it."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        return "this is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return "expected a URL that begins with https://"
    if parts.scheme == "http" and host not in _LOOPBACK:
        return "the URL is not encrypted; http is for this machine only"
    if any(ord(char) <= 32 or ord(char) == 127 for char in url):
        return "the URL holds a space or a control character"
    return None


def place_of(url: str) -> str:
    """Scheme and host of a URL: its path and query may hold a token."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}"


def post(url: str, body: Mapping[str, object], headers: Mapping[str, str], timeout: float) -> None:
    """Post ``body`` as JSON once; ToolFailed with what the other side said, which is no secret of ours."""
    reason = refused_url(url)
    if reason is not None:
        raise ToolFailed(f"nothing was posted: {reason}", remedy="Correct the webhook's url.")
    request = urllib.request.Request(  # noqa: S310  # the scheme was looked at
        url,
        data=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "planrunner", **headers},
        method="POST",
    )
    opener = urllib.request.build_opener(
        urllib.request.HTTPSHandler(context=ssl.create_default_context()), _NoRedirect()
    )
    try:
        failpoint("webhook.before_post")
        with opener.open(request, timeout=timeout):
            pass
    except urllib.error.HTTPError as error:
        with error:
            raise _failed(f"it answered with status {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failed(_words(error)) from None


def _failed(words: str) -> ToolFailed:
    return ToolFailed(
        f"the webhook was not delivered: {words}", remedy="Check its url, and that it is reachable from here."
    )


def _words(error: Exception) -> str:
    """What went wrong, in words that can't hold the URL."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__
