"""A server's parameters as the preflight reads them, and what changes one: a statement, on RDS an aws command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.connection import Server

# reset_val is what a new session of our login begins with: the apply worker's and the WAL sender's, which nothing
# pins as our own sessions are.
_PARAMETERS = "SELECT name, setting, reset_val, context = 'postmaster' FROM pg_settings WHERE name = ANY (%s)"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter in its base unit: ``value`` as it holds for us, ``default`` as a session of our login begins.

    ``restart``: it changes only with the server's start.
    """

    name: str
    value: str
    default: str
    restart: bool

    @property
    def number(self) -> int:
        """The value as a number."""
        return int(self.value)


def read(server: Server, names: Sequence[str]) -> Mapping[str, Parameter]:
    """Those of the parameters that the server knows and shows to our login, in one query."""
    rows = server.rows(_PARAMETERS, [list(names)])
    return {
        row[0]: Parameter(name=row[0], value=row[1] or "", default=row[2] or "", restart=row[3])
        for row in rows
    }


def changing(server: Server, parameter: Parameter, value: str) -> str:
    """What a person runs to set the parameter for the whole server, and to have it take effect."""
    rds = server.endpoint.rds
    if rds is not None:
        region = f" --region {rds.region}" if rds.region else ""
        method = "pending-reboot" if parameter.restart else "immediate"
        command = (
            f"aws rds modify-db-parameter-group{region} --db-parameter-group-name GROUP --parameters"
            f" ParameterName={parameter.name},ParameterValue={value},ApplyMethod={method}"
        )
        reboot = f"; aws rds reboot-db-instance{region} --db-instance-identifier {rds.instance}"
        return f"Run, with the instance's own parameter group: {command}{reboot if parameter.restart else ''}"
    statement = sql.SQL("ALTER SYSTEM SET {} = {};").format(
        sql.Identifier(parameter.name), sql.Literal(value)
    )
    then = " and restart the server." if parameter.restart else " SELECT pg_reload_conf();"
    return f"Run on the {server.side.value} as a superuser: {statement.as_string()}{then}"


def for_our_login(server: Server, name: str, value: str) -> str:
    """The statement that sets a parameter for our login in this database alone; it needs no right of others."""
    row = server.row("SELECT current_user::text, current_database()::text")
    assert row is not None
    statement = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {};").format(
        sql.Identifier(row[0]), sql.Identifier(row[1]), sql.Identifier(name), sql.Literal(value)
    )
    return statement.as_string()
