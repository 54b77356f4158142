"""Which failures may be gone at the next attempt, by what the server or the cloud said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import (
    CloudError,
    ConnectionFailed,
    Interrupted,
    LeaseLost,
    QueryFailed,
    ServerError,
    StepTimedOut,
)
from planrunner.flow import FailureClass
from planrunner.seren.line import TOO_MANY, UNANSWERED, UNSENT

if TYPE_CHECKING:
    from collections.abc import Iterator

# By SQLSTATE, the precise before the general: a whole code, or the two letters of a class.
_STATES = {
    "40P01": FailureClass.DEADLOCK,
    "55P03": FailureClass.LOCK_TIMEOUT,
    "57P01": FailureClass.CONNECTION,
    "57P02": FailureClass.CONNECTION,
    "57P03": FailureClass.CONNECTION,
    "08": FailureClass.CONNECTION,
    "40": FailureClass.SERIALIZATION,
    "53": FailureClass.RESOURCES,
}
_THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "PriorRequestNotComplete",
        "SlowDown",
        "BandwidthLimitExceeded",
        TOO_MANY,
    }
)


def failure_class(error: BaseException) -> FailureClass | None:
    """The class of a failure, by the error itself or by what it was raised from; None for any other."""
    for link in _chain(error):
        if isinstance(link, LeaseLost | StepTimedOut | Interrupted):
            return None
        if isinstance(link, ServerError):
            return _of_server(link)
        if isinstance(link, CloudError):
            return _of_cloud(link)
    return None


def _of_cloud(error: CloudError) -> FailureClass | None:
    if error.code in {UNSENT, UNANSWERED}:
        return FailureClass.CONNECTION
    return FailureClass.THROTTLING if error.code in _THROTTLED else None


def _of_server(error: ServerError) -> FailureClass | None:
    state = error.sqlstate
    if state is None:
        # libpq gives no code for a line that is cut or a host that does not answer.
        broken = isinstance(error, ConnectionFailed | QueryFailed)
        return FailureClass.CONNECTION if broken else None
    return _STATES.get(state) or _STATES.get(state[:2])


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
