"""Preflight of a server's log: whether a password would be written there when a subscription is created."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Mark
from planrunner.postgres import quiet
from planrunner.postgres.preflight_section import TARGET, Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Endpoint, Finding
    from planrunner.postgres.connection import Server

RECORDED = Check(
    code="PR0490",
    section=TARGET,
    title="The source's password stays out of the target's log",
    why="CREATE SUBSCRIPTION holds the password in plain text; a server that logs statements keeps it in its log, for"
    " everybody who may read logs.",
    mend="Grant the login the settings that keep this one statement out of the log, as the finding writes it, or change"
    " the password once the migration is over.",
    can=(Mark.WARN,),
)


def recorded_password(subscriber: Server, dialled: Endpoint, check: Check = RECORDED) -> Iterator[Finding]:
    """A warning when ``subscriber`` logs CREATE SUBSCRIPTION, which holds the password of ``dialled``."""
    if dialled.password is None and not dialled.rds_iam:
        return
    found = quiet.telling(subscriber)
    if not found:
        return
    login = sql.Identifier(str(subscriber.value("SELECT current_user::text"))).as_string()
    named = ", ".join(f"{name} = {value}" for name, value in found)
    side = subscriber.side.value
    statements = " ".join(f"GRANT SET ON PARAMETER {name} TO {login};" for name, _ in found)
    if subscriber.version() < 150000:
        statements = " ".join(f"ALTER ROLE {login} SET {name} = {_off(name)};" for name, _ in found)
    yield check.warned(
        f"The {dialled.side.value}'s password will stand in the {side}'s log when the subscription is created: {named}",
        f"Let our login keep this one statement out. Run on the {side} as a superuser: {statements}"
        f" Or change the {dialled.side.value}'s password once the migration is over.",
    )


def _off(name: str) -> str:
    return {"log_statement": "'none'", "pgaudit.log": "'none'"}.get(name, "-1" if "duration" in name else "0")
