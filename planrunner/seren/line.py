"""One request to an HTTP API that speaks JSON: verified, bounded in size, waiting for nobody for long, guessing nothing.

What went wrong is told apart by what may have happened there: nothing (``settled``: it was not sent, or was
refused), or nobody knows (it was sent, and no answer came or none that can be read).
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from planrunner.errors import CloudError, UsageError
from planrunner.masking import masked
from planrunner.webhook import place_of, refused_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json, Secret

CONNECT_SECONDS = 10.0
REPLY_SECONDS = 30.0
UNSENT, UNANSWERED, UNREADABLE = "unsent", "unanswered", "unreadable"
TOO_MANY = "HTTP 429"
_LARGEST = 4 << 20
_SHOWN = 600
_REMEDIES = {
    401: "The key is wrong or expired: make a new one at https://console.serendb.com/api-keys; or run here: --local.",
    403: "The key may not do this: make another at https://console.serendb.com/api-keys; or run here: --local.",
    429: "It takes no more jobs or calls now: run again later.",
}
_AWAY = "Run again when it is reachable from here; or run the copy here: --local."


@dataclass(frozen=True, kw_only=True)
class Line:
    """An API at ``base``. ``headers`` hold the key; ``hidden`` are the secrets that no message may repeat."""

    base: str
    headers: Mapping[str, str]
    hidden: Sequence[Secret]
    reply_seconds: float = REPLY_SECONDS

    def ask(self, method: str, path: str, body: Mapping[str, Json] | None = None) -> Mapping[str, Any]:
        """Send it once and return the JSON object of a 2xx answer; CloudError for everything else."""
        what = f"{method} {self.base.rstrip('/')}{path}"
        connection = self._connected(what)
        try:
            status, data = self._exchanged(connection, method, path, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CloudError(
                f"seren: {what}: no answer: {_words(error)}", remedy=_AWAY, code=UNANSWERED
            ) from None
        finally:
            connection.close()
        if not 200 <= status < 300:
            raise self._refusal(what, status, data)
        found = _object(data)
        if found is None:
            raise CloudError(
                f"seren: {what}: it answered {status} with something that is no JSON object",
                remedy=f"Look whether {place_of(self.base)} is SerenAI's API; then run again.",
                code=UNREADABLE,
            )
        return found

    def told(self, text: str) -> str:
        """The other side's words without any secret that was sent there."""
        for secret in self.hidden:
            text = text.replace(secret.reveal(), "***")
        return masked(text)

    def _connected(self, what: str) -> http.client.HTTPConnection:
        reason = refused_url(self.base)
        if reason is not None:
            raise UsageError(f"seren: {reason}", remedy="Correct base or console in the plan's seren block.")
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        connection = (
            http.client.HTTPSConnection(
                host, parts.port, timeout=CONNECT_SECONDS, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=CONNECT_SECONDS)
        )
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            failure = CloudError(f"seren: {what}: not sent: {_words(error)}", remedy=_AWAY, code=UNSENT)
            failure.settled = True
            raise failure from None
        return connection

    def _exchanged(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Json] | None,
    ) -> tuple[int, bytes]:
        connection.sock.settimeout(self.reply_seconds)
        data = None if body is None else json.dumps(body).encode()
        headers = {"User-Agent": "planrunner", "Accept": "application/json", **self.headers}
        if data is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, urlsplit(self.base).path.rstrip("/") + path, body=data, headers=headers)
        reply = connection.getresponse()
        read = reply.read(_LARGEST + 1)
        if len(read) > _LARGEST:
            raise ValueError("the answer is too large")
        return reply.status, read

    def _refusal(self, what: str, status: int, data: bytes) -> CloudError:
        found = _object(data) or {}
        words = str(found.get("error") or found.get("message") or "")
        said = f": {self.told(words)[:_SHOWN]}" if words else ""
        error = CloudError(
            f"seren: {what}: it answered {status}{said}",
            remedy=_REMEDIES.get(status, _AWAY if status >= 500 else None),
            code=f"HTTP {status}",
        )
        # An error of the server's may have come after the work was done.
        error.settled = 400 <= status < 500 and status != 408
        return error


def _object(data: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else None


def _words(error: Exception) -> str:
    """What went wrong, in words that can hold no secret."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
