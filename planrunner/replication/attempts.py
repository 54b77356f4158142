"""Statements that may be refused without harm to the transaction around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors

if TYPE_CHECKING:
    from psycopg import sql

    from planrunner.postgres.connection import Session

# The login may not, the server does not know it, or it can't be set there: nothing that trying again mends.
_REFUSALS = (
    errors.InsufficientPrivilege,
    errors.UndefinedObject,
    errors.InvalidParameterValue,
    errors.CantChangeRuntimeParam,
    errors.InvalidGrantOperation,
    errors.InvalidGrantor,
    errors.FeatureNotSupported,
    errors.InvalidName,
)


def attempted(session: Session, statement: sql.Composed) -> str | None:
    """Execute ``statement`` in a savepoint; why the server refused it, None when it did not."""
    try:
        with session.transaction():
            session.execute(statement)
    except _REFUSALS as error:
        return error.diag.message_primary or str(error)
    return None
