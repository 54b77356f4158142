"""What actions need of a login, by the words that previews show and grant scripts are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.model import Side

if TYPE_CHECKING:
    from collections.abc import Iterable

CREATE = "CREATE on the database"
OWNERSHIP = "the owner's rights on the tables"
READING = "USAGE on the schemas, SELECT on the tables and sequences"
REPLICATION = "REPLICATION, on RDS membership in rds_replication"
SUBSCRIBING = "membership in pg_create_subscription, before PostgreSQL 16 SUPERUSER"
ROLES = "CREATEROLE"
ACTING_AS = "membership in the roles that own objects"
DATABASE = "ownership of the database"
SILENCING = "SET on parameter session_replication_role"
GIVING_ROLES = "ADMIN OPTION on the roles, before PostgreSQL 16 CREATEROLE"
GIVING_ACCESS = "the owner's rights on what is granted"
CONFIGURING = "SUPERUSER, or since PostgreSQL 15 ALTER SYSTEM on the parameters that are set"
# What a person does: the master user on RDS, elsewhere a superuser or the owners.
BY_OTHERS = "the master user on RDS, elsewhere a superuser or the owners"
# Of statements that the plan itself brings along.
STATEMENTS = "the rights that the plan's own statements need"
MAKING_LOGINS = "CREATEROLE, for the subscription's own login"
FREEZING = "EXECUTE on the functions that pause, resume or promote a standby"
STATISTICS = "ownership of the tables, since PostgreSQL 17 MAINTAIN"

GRANTABLE = (CREATE, OWNERSHIP, READING, REPLICATION, SUBSCRIBING, ROLES, ACTING_AS, DATABASE)
KNOWN = frozenset(
    {
        *GRANTABLE,
        SILENCING,
        GIVING_ROLES,
        GIVING_ACCESS,
        CONFIGURING,
        BY_OTHERS,
        STATEMENTS,
        STATISTICS,
        MAKING_LOGINS,
        FREEZING,
    }
)


def on(side: Side, *needs: str) -> tuple[str, ...]:
    """The needs of a side that is not the action's own: ``target: CREATE on the database``."""
    return tuple(f"{side.value}: {need}" for need in needs)


def sided(where: Side, needs: Iterable[str]) -> frozenset[tuple[Side, str]]:
    """The needs of an action with their sides; IAM actions are AWS's."""
    return frozenset(_sided(where, need) for need in needs)


def _sided(where: Side, need: str) -> tuple[Side, str]:
    for side in (Side.SOURCE, Side.TARGET, Side.REPLICA, Side.AWS):
        if need.startswith(f"{side.value}: "):
            return side, need.removeprefix(f"{side.value}: ")
    return where, need
