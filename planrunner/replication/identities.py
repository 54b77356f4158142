"""Replica identities: tables without one get FULL for the length of the migration, and are put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

STEP = "identity"


def table_name(table: Table) -> sql.Identifier:
    """The table's name, schema-qualified and quoted."""
    return sql.Identifier(table.schema, table.name)


def set_full(workspace: Workspace, tables: Sequence[Table]) -> None:
    """Set REPLICA IDENTITY FULL on the source's ``tables``; what each had before is recorded first."""
    for table in tables:
        detail = {"schema": table.schema, "name": table.name, "was": table.replica_identity}
        workspace.done(STEP, table.qualified, detail)
        workspace.source.execute(
            sql.SQL("ALTER TABLE ONLY {} REPLICA IDENTITY FULL").format(table_name(table))
        )


def statement_full(table: Table) -> str:
    """The statement of ``set_full`` for one table, for previews."""
    return sql.SQL("ALTER TABLE ONLY {} REPLICA IDENTITY FULL").format(table_name(table)).as_string()


def restore_statements(workspace: Workspace) -> tuple[sql.Composed, ...]:
    """What puts every changed identity back (an index identity is never changed by us)."""
    words = {"d": sql.SQL("DEFAULT"), "n": sql.SQL("NOTHING"), "i": sql.SQL("DEFAULT")}
    return tuple(
        sql.SQL("ALTER TABLE IF EXISTS ONLY {} REPLICA IDENTITY {}").format(
            sql.Identifier(detail["schema"], detail["name"]), words[detail["was"]]
        )
        for detail in workspace.ledger.effects(STEP).values()
        if detail["was"] in words
    )


def restore(workspace: Workspace) -> None:
    """Put the identities back on both sides, and forget them."""
    statements = restore_statements(workspace)
    servers: tuple[Server, ...] = (workspace.source, workspace.target)
    for server in servers:
        server.execute(*statements)
    workspace.ledger.forget(STEP)
