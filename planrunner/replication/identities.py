"""Replica identities: tables without one are given one for the length of the migration, and are put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg import sql

from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.replication.choices import Way

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.choices import Choices
    from planrunner.replication.workspace import Workspace

STEP = "identity"
_WORDS = {"d": sql.SQL("DEFAULT"), "n": sql.SQL("NOTHING"), "f": sql.SQL("FULL")}
# What the server takes for USING INDEX: unique at once, of every row, plain columns that are all NOT NULL.
_ELIGIBLE = """
SELECT i.indrelid::bigint, c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY (%s::bigint[]) AND i.indisunique AND i.indimmediate AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (
    SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) k(attnum)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE NOT a.attnotnull)
ORDER BY 1, 2
"""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The identity that a table is given: the index of that name, or FULL."""

    table: Table
    index: str | None

    def statement(self) -> sql.Composed:
        """What gives it to the table."""
        name = table_name(self.table)
        if self.index is None:
            return sql.SQL("ALTER TABLE ONLY {} REPLICA IDENTITY FULL").format(name)
        return sql.SQL("ALTER TABLE ONLY {} REPLICA IDENTITY USING INDEX {}").format(
            name, sql.Identifier(self.index)
        )

    def back(self) -> sql.Composed:
        """What puts the table's present identity back later."""
        table = self.table
        return back({"schema": table.schema, "name": table.name, "was": table.replica_identity})


def table_name(table: Table) -> sql.Identifier:
    """The table's name, schema-qualified and quoted."""
    return sql.Identifier(table.schema, table.name)


def changes(
    source: Server, bare: Sequence[Table], choices: Choices
) -> tuple[tuple[Change, ...], tuple[str, ...]]:
    """The identities that the plan's choices give to tables without one, and what is wrong with the choices."""
    chosen = [(t, choices.choice(t)) for t in bare]
    able = eligible(source, [t for t, c in chosen if c.way is Way.INDEX])
    made: list[Change] = []
    wrong: list[str] = []
    for table, choice in chosen:
        indexes = able.get(table.oid, [])
        if choice.way is Way.FULL:
            made.append(Change(table=table, index=None))
        elif choice.way is Way.INDEX and choice.index is None and len(indexes) == 1:
            made.append(Change(table=table, index=indexes[0]))
        elif choice.way is Way.INDEX and choice.index in indexes:
            made.append(Change(table=table, index=choice.index))
        elif choice.way is Way.INDEX:
            words = ", ".join(indexes) or "none"
            which = f"index {choice.index}" if choice.index else "the one index that is meant"
            wrong.append(
                f"{table.qualified}: {which} can't be its replica identity; unique, whole and of NOT NULL"
                f" columns are: {words}"
            )
    return tuple(made), tuple(wrong)


def eligible(source: Server, tables: Sequence[Table]) -> dict[int, list[str]]:
    """The indexes that the server takes for USING INDEX, by table's oid; in name order."""
    found: dict[int, list[str]] = {}
    for oid, name in source.rows(_ELIGIBLE, [[t.oid for t in tables]]):
        found.setdefault(oid, []).append(name)
    return found


def change(workspace: Workspace, wanted: Sequence[Change]) -> None:
    """Change identities on the source; what each table had before is recorded first."""
    for one in wanted:
        table = one.table
        detail = {"schema": table.schema, "name": table.name, "was": table.replica_identity}
        workspace.done(STEP, table.qualified, detail)
        failpoint("identity.before_change")
        workspace.source.execute(one.statement())
        failpoint("identity.changed")


def restore_statements(workspace: Workspace, side: Side) -> tuple[sql.Composed, ...]:
    """What puts every changed identity back on ``side``; on the target only what is not back there yet."""
    changed = workspace.ledger.effects(STEP).values()
    return tuple(back(detail) for detail in changed if side is Side.SOURCE or not detail.get("target"))


def back(detail: Mapping[str, Any]) -> sql.Composed:
    """What puts back the identity that ``detail`` of the ledger tells of."""
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
        failpoint("identity.before_restore_target")
    failpoint("identity.target_restored")


def restore(workspace: Workspace) -> None:
    """Put the identities back on both sides, and forget them."""
    failpoint("identity.before_restore")
    workspace.source.execute(*restore_statements(workspace, Side.SOURCE))
    failpoint("identity.source_restored")
    workspace.target.execute(*restore_statements(workspace, Side.TARGET))
    failpoint("identity.both_restored")
    workspace.ledger.forget(STEP)
