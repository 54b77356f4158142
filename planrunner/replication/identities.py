"""Replica identities: tables without one are given one for the length of the migration, and are put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from planrunner.model import Side

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.workspace import Workspace

STEP = "identity"
_WORDS = {"d": sql.SQL("DEFAULT"), "n": sql.SQL("NOTHING"), "f": sql.SQL("FULL")}


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


def restore_statements(workspace: Workspace, side: Side) -> tuple[sql.Composed, ...]:
    """What puts every changed identity back on ``side``; on the target only what is not back there yet."""
    changed = workspace.ledger.effects(STEP).values()
    return tuple(_back(detail) for detail in changed if side is Side.SOURCE or not detail.get("target"))


def _back(detail: Mapping[str, Any]) -> sql.Composed:
    # An identity that was an index is only replaced where that index is gone: DEFAULT is what it amounts to.
    return sql.SQL("ALTER TABLE IF EXISTS ONLY {} REPLICA IDENTITY {}").format(
        sql.Identifier(detail["schema"], detail["name"]), _WORDS.get(detail["was"], _WORDS["d"])
    )


def restore_target(workspace: Workspace) -> None:
    """Put the identities back on the target, in one transaction with the note that they are."""
    statements = restore_statements(workspace, Side.TARGET)
    changed = workspace.ledger.effects(STEP)
    with workspace.writing() as session:
        for statement in statements:
            session.execute(statement)
        for name, detail in changed.items():
            workspace.ledger.record_effect(session, STEP, name, {**detail, "target": True})


def restore(workspace: Workspace) -> None:
    """Put the identities back on both sides, and forget them."""
    workspace.source.execute(*restore_statements(workspace, Side.SOURCE))
    workspace.target.execute(*restore_statements(workspace, Side.TARGET))
    workspace.ledger.forget(STEP)
