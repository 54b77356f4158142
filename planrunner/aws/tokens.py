"""Keeps the token of a session out of everything that is shown: AWS repeats a request whose signature it rejects."""

from __future__ import annotations

from typing import Any

from planrunner.masking import hush_secret

_HEADER = "X-Amz-Security-Token"


def discreet(client: Any) -> Any:
    """The client; the token that goes with a call of it is masked in all texts from then on, AWS's own words too."""

    def hush(request: Any, **_: Any) -> None:
        token = request.headers.get(_HEADER)
        if token:
            hush_secret(token.decode() if isinstance(token, bytes) else token)

    # Only there is it known which token is used: credentials are found and renewed by the call itself.
    client.meta.events.register("before-send", hush)
    return client
