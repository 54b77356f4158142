"""Preflight of a login itself: how long its password is good, and how it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres.preflight_parameters import changing, read
from planrunner.postgres.preflight_section import SOURCE, TARGET, Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

_EXPIRY_WHY = (
    "A password past its VALID UNTIL is refused: our next session, and the subscription's after each lost line, could"
    " not log in any more."
)
_MD5_WHY = (
    "PostgreSQL 18 warns of MD5 passwords, later releases are to refuse them, and FIPS machines do already."
)
SOURCE_EXPIRY = Check(
    code="PR0310", section=SOURCE, title="The source's login outlives the migration", why=_EXPIRY_WHY
)
TARGET_EXPIRY = Check(
    code="PR0410", section=TARGET, title="The target's login outlives the migration", why=_EXPIRY_WHY
)
SOURCE_HASHING = Check(
    code="PR0311", section=SOURCE, title="The source stores passwords as SCRAM", why=_MD5_WHY
)
TARGET_HASHING = Check(
    code="PR0411", section=TARGET, title="The target stores passwords as SCRAM", why=_MD5_WHY
)

_VALIDITY = """
SELECT rolname::text, rolvaliduntil::text, extract(epoch FROM rolvaliduntil - clock_timestamp())::float8
FROM pg_roles WHERE rolname = current_user AND isfinite(rolvaliduntil)
"""
_SOON_DAYS = 14


def login(server: Server) -> Iterator[Finding]:
    """The validity of our login's password, and what new passwords are stored as."""
    source = server.side is Side.SOURCE
    if server.endpoint.password is not None:
        yield from _expiry(server, SOURCE_EXPIRY if source else TARGET_EXPIRY)
    hashing = read(server, ["password_encryption"]).get("password_encryption")
    # Before 14 the value could be written in other ways: on meant md5.
    if hashing is not None and hashing.default in {"md5", "on"}:
        side = server.side.value
        yield (SOURCE_HASHING if source else TARGET_HASHING).warned(
            f"The {side} stores new passwords as MD5 (password_encryption is {hashing.default})",
            f"{changing(server, hashing, 'scram-sha-256')} Then give the logins new passwords.",
        )


def _expiry(server: Server, check: Check) -> Iterator[Finding]:
    row = server.row(_VALIDITY)
    if row is None:
        return
    name, until, left = row
    role = sql.Identifier(name)
    days = left / 86400
    if days > _SOON_DAYS:
        yield check.passed(f"Password of {name} is good until {until}")
        return
    statement = sql.SQL("ALTER ROLE {} VALID UNTIL 'infinity';").format(role).as_string()
    remedy = f"Run on the {server.side.value} as an administrator: {statement}"
    if left <= 0:
        yield check.failed(f"Password of {name} has expired ({until})", remedy)
    else:
        yield check.warned(f"Password of {name} expires in {days:.1f} days ({until})", remedy)
