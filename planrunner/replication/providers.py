"""What a dump of a managed database holds of its provider: its roles as owners and grantees, its extensions' schemas.

RDS makes its superuser ``rdsadmin`` the owner of what only a superuser may make: extensions with their schemas,
event triggers, the schema public before PostgreSQL 15. No other server has that role, nor may its login act as it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server

OTHERS_EXTENSIONS = ("aws_", "rds_tools", "plpgsql")
_ROLE = r"rds\w*"
_OWNER = re.compile(rf"^ALTER [^\n]* OWNER TO (?P<role>{_ROLE});\n", re.MULTILINE)
# Of an entry with grants only one statement; a name in it may hold newlines, and words that look like a grant.
_STATEMENT = re.compile(r'(?:[^";]|"(?:[^"]|"")*")*;\n?')
_GRANT = re.compile(
    rf"\s*(?:ALTER DEFAULT PRIVILEGES .*)?(?:GRANT|REVOKE) .* (?:TO|FROM) (?P<role>{_ROLE})"
    r"(?: WITH GRANT OPTION)?;\n?",
    re.DOTALL,
)
# As pg_restore lists them: SCHEMA - rds_tools rdsadmin, ACL rds_tools FUNCTION f() rdsadmin, …
_SCHEMA = re.compile(
    rf"(?:(?:ACL - )?SCHEMA (?:- )?(?:aws_|rds_tools)\S*|ACL (?:aws_|rds_tools)\S* [^\n]*) {_ROLE}"
)


def of_provider(about: str) -> bool:
    """Whether an entry of ``pg_restore --list``, from its type on, belongs to the provider's own extensions."""
    named = about.removeprefix("EXTENSION ").removeprefix("- ")
    if about.startswith("EXTENSION ") and named.startswith(OTHERS_EXTENSIONS):
        return True
    return _SCHEMA.fullmatch(about) is not None


@dataclass(frozen=True, kw_only=True)
class Provider:
    """The provider's roles as the target has them: ``there``, and those that its login may act as."""

    there: frozenset[str]
    assumable: frozenset[str]

    def cleaned(self, kind: str, owner: str, text: str) -> str:
        """An entry's statements without those that name a role of the provider which the target can't take.

        ``kind`` and ``owner`` are pg_dump's words on it: grants stand in entries of their own, and what looks like
        a statement in another role's entry may be the text of a function.
        """
        if kind.endswith("ACL"):
            return _STATEMENT.sub(self._granting, text)
        if re.fullmatch(_ROLE, owner) is None:
            return text
        return _OWNER.sub(lambda m: m[0] if m["role"] in self.assumable else "", text)

    def _granting(self, statement: re.Match[str]) -> str:
        found = _GRANT.fullmatch(statement[0])
        return statement[0] if found is None or found["role"] in self.there else ""


def provider(target: Server, assumable: frozenset[str]) -> Provider:
    """Look at the target's roles; ``assumable`` are all that its login may act as."""
    rows = target.rows("SELECT rolname::text FROM pg_roles WHERE rolname ~ '^rds'")
    return Provider(there=frozenset(str(row[0]) for row in rows), assumable=assumable)
