"""Which entries of a schema dump are made on the target; the others stay behind, told as decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication.providers import of_provider

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.replication.relations import Omitted

# Up to 15 membership lets a login act as a role; since 16 the grant says so by itself (SET).
_ASSUMABLE = """
SELECT rolname::text FROM pg_roles
WHERE pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'MEMBER' ELSE 'SET' END)
"""
# By what the catalogue says of them: in the words of a list a name may say anything.
_NOT_THEIRS = """
SELECT t.tableoid::bigint, t.oid::bigint FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'planrunner'
UNION ALL SELECT d.tableoid::bigint, d.oid::bigint FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
WHERE r.rolname = 'rdsadmin'
"""


def assumable(target: Server) -> frozenset[str]:
    """The roles of the target that our login may act as, and so give objects to."""
    return frozenset(str(row[0]) for row in target.rows(_ASSUMABLE))


class Restorable:
    """Tells of an entry of ``pg_restore --list`` whether it is made on the target.

    What the plan's filters omit is not, nor what only a superuser may make, where the login is none.
    """

    def __init__(self, source: Server, target: Server, omitted: Omitted) -> None:
        self._entries = omitted.entries
        self._comments = tuple(f" {key.comment_tag} " for key in omitted.foreign_keys)
        self._not_theirs = frozenset((int(row[0]), int(row[1])) for row in source.rows(_NOT_THEIRS))
        self._superuser = target.identity().superuser
        self._roles = assumable(target)

    def __call__(self, line: str) -> bool:
        """True when the entry of this line is made."""
        # number; oid of the catalogue, oid in it, then type, schema, name and owner in words
        catalogue, oid, described = line.split(";", 1)[1].split(None, 2)
        about = described.removeprefix("COMMENT - ")
        if int(oid) in self._entries or (int(catalogue), int(oid)) in self._not_theirs:
            return False
        if of_provider(about):
            return False
        if about.startswith("EVENT TRIGGER"):
            return self._superuser
        if described.startswith("SCHEMA - public "):
            # The schema is there; the entry is about its owner alone.
            return described.removeprefix("SCHEMA - public ") in self._roles
        return not (described.startswith("COMMENT ") and any(tag in described for tag in self._comments))
