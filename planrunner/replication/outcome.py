"""Finds out how a transaction ended whose session broke: whoever asks too early is told less than will be true.

A COMMIT whose sender has lost the line may still be under way on the server. So its session is ended there first, and
waited for; then what it left is all it will ever leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from planrunner.errors import LeaseLost, QueryFailed, ServerError
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server

    T = TypeVar("T")

PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
_LOOK_SECONDS = 0.1
# A prepared or synchronous commit may take its time; one that hangs for longer is for a person to look at.
_LOOKS = 100
_END = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid = %s AND usename = current_user AND application_name = %s"
)


def broke(error: Exception) -> bool:
    """True when it was the line or the session that failed, not the statement."""
    if isinstance(error, LeaseLost) or not isinstance(error, ServerError):
        return False
    if isinstance(error, QueryFailed):
        # No SQLSTATE: the session broke; 08 connection, 57P ended by an administrator or a crash, 25P03 for its silence.
        return error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "25P03"))
    return True


def ended(server: Server, clock: Clock, pid: int) -> bool:
    """End our session ``pid``, and wait until it is gone; False when it would not go. ServerError as of a query."""
    failpoint("outcome.before_end")
    for _ in range(_LOOKS):
        if not server.rows(_END, [pid, server.name]):
            return True
        clock.sleep(_LOOK_SECONDS)
    return False


def persistently(ask: Callable[[], T], clock: Clock, *, patience: float = PATIENCE_SECONDS) -> T:
    """What ``ask`` returns; asked again while the line is broken. The last error after ``patience`` seconds."""
    give_up = clock.monotonic() + patience
    while True:
        try:
            return ask()
        except ServerError as error:
            if not broke(error) or clock.monotonic() > give_up:
                raise
        clock.sleep(_PAUSE_SECONDS)
