"""Which entries of a schema dump the target's login may create: the others stay behind, told as decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication.names import TRUNCATE_TRIGGER

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.postgres.connection import Server

OTHERS_EXTENSIONS = ("aws_", "rds_tools", "plpgsql")
# Up to 15 membership lets a login act as a role; since 16 the grant says so by itself (SET).
_ASSUMABLE = """
SELECT rolname::text FROM pg_roles
WHERE pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
"""


def assumable(target: Server) -> frozenset[str]:
    """The roles of the target that our login may act as, and so give objects to."""
    return frozenset(str(row[0]) for row in target.rows(_ASSUMABLE))


def judge(target: Server) -> Callable[[str], bool]:
    """Tells of an entry of ``pg_restore --list`` (``TYPE SCHEMA NAME OWNER``) whether it is to be restored."""
    superuser = target.identity().superuser
    roles = assumable(target)

    def restorable(described: str) -> bool:
        if described.startswith("TRIGGER ") and f" {TRUNCATE_TRIGGER} " in described:
            return False
        if " rdsadmin" in described and described.startswith("DEFAULT ACL"):
            return False
        if described.startswith("EVENT TRIGGER"):
            return superuser
        if described.startswith("SCHEMA - public "):
            # The schema is there; the entry is about its owner alone.
            return described.removeprefix("SCHEMA - public ") in roles
        for prefix in ("EXTENSION - ", "COMMENT - EXTENSION "):
            if described.startswith(prefix):
                return not described.removeprefix(prefix).startswith(OTHERS_EXTENSIONS)
        return True

    return restorable
