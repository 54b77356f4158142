"""Passwords that are rotated while we work: a refused one is looked up anew, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from planrunner.errors import StepBlocked, ToolFailed
from planrunner.postgres.causes import WRONG_PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from planrunner.model import Secret
    from planrunner.postgres.connection import Server

T = TypeVar("T")


def refuses_password(error: psycopg.Error) -> bool:
    """True when the server did not take the password (SQLSTATE 28P01)."""
    # libpq tells no SQLSTATE of a refused connection, only the server's words.
    return error.sqlstate == "28P01" or WRONG_PASSWORD.fits(str(error))


def with_password(server: Server, attempt: Callable[[Secret | None], T]) -> T:
    """What ``attempt`` makes of the server's password; where a child is refused it is tried once more, read anew."""
    secret = server.password()
    try:
        return attempt(secret)
    except ToolFailed as error:
        if secret is None or not WRONG_PASSWORD.fits(error.message):
            raise
    return attempt(server.password())


def lasting_password(server: Server) -> Secret | None:
    """The password for a subscription to keep; StepBlocked for a login by tokens, which last 15 minutes."""
    if server.endpoint.rds_iam:
        side = server.side.value
        raise StepBlocked(
            f"{side}: a subscription can't log in with an IAM token: it lasts 15 minutes",
            remedy=f"Give connections.{side}.password a lasting password's reference: {{secret: …}} instead of rds_iam.",
        )
    return server.password()
