"""A grant to a login as a value: how it is given, recorded in a ledger with what was there before, and revoked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, LiteralString, TypeAlias

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planrunner.model import Json
    from planrunner.postgres.connection import Server


# Grantor, and since PostgreSQL 16 the options: admin, inherit, set.
Membership: TypeAlias = "tuple[str, bool, bool | None, bool | None]"


class Kind(Enum):
    """What is granted; in the order in which grants are taken back."""

    DEFAULT_TABLE = "tables to come"
    DEFAULT_SEQUENCE = "sequences to come"
    TABLE = "table"
    SEQUENCE = "sequence"
    SCHEMA = "schema"
    DATABASE = "database"
    ROLE = "role"
    ATTRIBUTE = "attribute"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One GRANT to ``login``, and its REVOKE. ``names`` are roles, or objects (of ``schema``).

    For what is to come they are the roles that will own it. ``possible``: whoever runs the step may make it.
    ``before`` holds the login's memberships as they were, by grantor: (grantor, admin, inherit, set); ``known`` the
    oids of what the owners had in the schema when they were told what to grant.
    """

    kind: Kind
    names: tuple[str, ...]
    login: str
    schema: str | None = None
    inherit: bool = False
    possible: bool = True
    before: tuple[Membership, ...] = ()
    known: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name under which it is recorded, the same at every attempt."""
        digest = hashlib.sha256("\0".join(self.names).encode()).hexdigest()[:12]
        return f"{self.kind.value} {self.schema or ''} {digest}"

    def give(self) -> sql.Composed:
        """The GRANT."""
        if self.kind is Kind.ATTRIBUTE:
            return sql.SQL("ALTER ROLE {} REPLICATION").format(sql.Identifier(self.login))
        # From 16 on a membership carries its own INHERIT; before that the role's attribute rules.
        with_inherit = sql.SQL(" WITH INHERIT TRUE") if self.inherit else sql.SQL("")
        login = sql.Identifier(self.login)
        return self._whose() + sql.SQL("GRANT {} TO {}{}").format(self._what(), login, with_inherit)

    def take_back(self) -> sql.Composed:
        """The REVOKE."""
        if self.kind is Kind.ATTRIBUTE:
            return sql.SQL("ALTER ROLE {} NOREPLICATION").format(sql.Identifier(self.login))
        return self._whose() + sql.SQL("REVOKE {} FROM {}").format(self._what(), sql.Identifier(self.login))

    def detail(self) -> dict[str, Json]:
        """What a ledger keeps of it."""
        return {
            "kind": self.kind.value,
            "schema": self.schema,
            "names": list(self.names),
            "login": self.login,
            **({"before": [list(row) for row in self.before]} if self.before else {}),
            **({"known": list(self.known)} if self.known else {}),
        }

    @classmethod
    def from_detail(cls, detail: dict[str, Any]) -> Grant:
        """Read back what ``detail`` wrote."""
        return cls(
            kind=Kind(detail["kind"]),
            schema=detail["schema"],
            names=tuple(detail["names"]),
            login=detail["login"],
            before=tuple((r[0], r[1], r[2], r[3]) for r in detail.get("before", ())),
            known=tuple(detail.get("known", ())),
        )

    def of(self, *names: str) -> Grant:
        """The same for some of its names."""
        return replace(self, names=names)

    def _whose(self) -> sql.Composed:
        if self.kind not in TO_COME:
            return sql.Composed([])
        owners = sql.SQL(", ").join(map(sql.Identifier, self.names))
        return sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} ").format(
            owners, sql.Identifier(self.schema or "public")
        )

    def _what(self) -> sql.Composed:
        parts = [sql.Identifier(*([self.schema] if self.schema else []), name) for name in self.names]
        names = sql.SQL(", ").join(parts)
        return sql.SQL(_WHAT[self.kind]).format(names)


# Of what is to come the names are the owners, who stand before it.
_WHAT: dict[Kind, LiteralString] = {
    Kind.DEFAULT_TABLE: "SELECT ON TABLES",
    Kind.DEFAULT_SEQUENCE: "SELECT ON SEQUENCES",
    Kind.TABLE: "SELECT ON TABLE {}",
    Kind.SEQUENCE: "SELECT ON SEQUENCE {}",
    Kind.SCHEMA: "USAGE ON SCHEMA {}",
    Kind.DATABASE: "CREATE ON DATABASE {}",
    Kind.ROLE: "{}",
    Kind.ATTRIBUTE: "{}",
}
# What is granted on the kinds of relation that a role will own.
TO_COME = {Kind.DEFAULT_TABLE: ("r", "p"), Kind.DEFAULT_SEQUENCE: ("S",)}


def give(server: Server, grants: Iterable[Grant]) -> None:
    """Make the grants in one transaction."""
    server.execute(*(grant.give() for grant in grants))
