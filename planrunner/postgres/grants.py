"""A grant to a login as a value: given, recorded in a ledger, taken back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from psycopg import errors, sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planrunner.model import Json
    from planrunner.postgres.connection import Server


class Kind(Enum):
    """What is granted; in the order in which grants are taken back."""

    TABLE = "table"
    SEQUENCE = "sequence"
    SCHEMA = "schema"
    DATABASE = "database"
    ROLE = "role"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One GRANT to ``login``, and its REVOKE. ``names`` are roles, or objects (of ``schema``).

    ``possible``: the login itself may make it.
    """

    kind: Kind
    names: tuple[str, ...]
    login: str
    schema: str | None = None
    inherit: bool = False
    possible: bool = True

    @property
    def key(self) -> str:
        """A name under which it is recorded, the same at every attempt."""
        digest = hashlib.sha256("\0".join(self.names).encode()).hexdigest()[:12]
        return f"{self.kind.value} {self.schema or ''} {digest}"

    def give(self) -> sql.Composed:
        """The GRANT."""
        # From 16 on a membership carries its own INHERIT; before that the role's attribute rules.
        with_inherit = sql.SQL(" WITH INHERIT TRUE") if self.inherit else sql.SQL("")
        login = sql.Identifier(self.login)
        return sql.SQL("GRANT {} TO {}{}").format(self._what(), login, with_inherit)

    def take_back(self) -> sql.Composed:
        """The REVOKE."""
        return sql.SQL("REVOKE {} FROM {}").format(self._what(), sql.Identifier(self.login))

    def detail(self) -> dict[str, Json]:
        """What a ledger keeps of it."""
        return {
            "kind": self.kind.value,
            "schema": self.schema,
            "names": list(self.names),
            "login": self.login,
        }

    @classmethod
    def from_detail(cls, detail: dict[str, Any]) -> Grant:
        """Read back what ``detail`` wrote."""
        return cls(
            kind=Kind(detail["kind"]),
            schema=detail["schema"],
            names=tuple(detail["names"]),
            login=detail["login"],
        )

    def _what(self) -> sql.Composed:
        parts = [sql.Identifier(*([self.schema] if self.schema else []), name) for name in self.names]
        names = sql.SQL(", ").join(parts)
        match self.kind:
            case Kind.ROLE:
                return names
            case Kind.DATABASE:
                return sql.SQL("CREATE ON DATABASE {}").format(names)
            case Kind.SCHEMA:
                return sql.SQL("USAGE ON SCHEMA {}").format(names)
            case Kind.TABLE:
                return sql.SQL("SELECT ON TABLE {}").format(names)
            case Kind.SEQUENCE:
                return sql.SQL("SELECT ON SEQUENCE {}").format(names)


def give(server: Server, grants: Iterable[Grant]) -> None:
    """Make the grants in one transaction."""
    server.execute(*(grant.give() for grant in grants))


def take_back(server: Server, grants: Iterable[Grant]) -> None:
    """Revoke the grants in one transaction, memberships last; objects that are gone need no revoke."""
    kinds = list(Kind)
    with server.transaction() as session:
        for grant in sorted(grants, key=lambda g: kinds.index(g.kind)):
            try:
                with session.transaction():
                    session.execute(grant.take_back())
            except (errors.UndefinedTable, errors.UndefinedObject, errors.InvalidSchemaName):
                continue
