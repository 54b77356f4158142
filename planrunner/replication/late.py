"""Tables that are copied whole inside the cutover's pause: no stream carries them.

The copy is one transaction on the target, and may be done again after a pause that was rolled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication import copy
from planrunner.replication.identities import table_name
from planrunner.replication.units import Unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.inside import Inside
    from planrunner.replication.workspace import Workspace

_TRIGGERS = """
SELECT n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled::text FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest(%s::text[], %s::text[]) wanted(schema, name) ON wanted.schema = n.nspname AND wanted.name = c.relname
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
"""
_ENABLED = {"O": sql.SQL("ENABLE"), "A": sql.SQL("ENABLE ALWAYS"), "R": sql.SQL("ENABLE REPLICA")}


def referenced(source: Server, tables: Sequence[Table]) -> tuple[str, ...]:
    """Those that a foreign key points to: emptied and filled at the cutover, they would break it meanwhile."""
    rows = source.rows(
        "SELECT DISTINCT format('%%s by %%s', confrelid::regclass, conrelid::regclass) FROM pg_constraint"
        " WHERE contype = 'f' AND confrelid = ANY (%s::bigint[]) ORDER BY 1",
        [[t.oid for t in tables]],
    )
    return tuple(str(row[0]) for row in rows)


def bring(workspace: Workspace, fenced: Inside, tables: Sequence[Table], *, timeout: float) -> dict[str, int]:
    """Copy ``tables`` whole, replacing what the target has; tells how many tables, rows and bytes.

    Nobody may write to them on the source meanwhile; the session that keeps them from it reads them. ``timeout`` in
    seconds bounds each statement.
    """
    rows = size = 0
    with fenced.reading(timeout) as reader, workspace.writing() as writer:
        writer.execute("SELECT set_config('statement_timeout', %s, true)", [str(int(timeout * 1000))])
        enabling = _silence(writer, tables)
        writer.execute(emptying(tables))
        for table in tables:
            taken, moved = _copy(workspace.source, reader, writer, Unit(table=table))
            rows, size = rows + taken, size + moved
        for statement in enabling:
            writer.execute(statement)
        failpoint("late.before_commit")
    failpoint("late.copied")
    return {"tables": len(tables), "rows": rows, "bytes": size}


def emptying(tables: Sequence[Table]) -> sql.Composed:
    """What empties the target's tables before they are filled."""
    return sql.SQL("TRUNCATE ONLY {}").format(
        sql.SQL(", ONLY ").join([table_name(table) for table in tables])
    )


def _silence(writer: Session, tables: Sequence[Table]) -> list[sql.Composed]:
    """Disable the tables' own triggers, which fired on the source; returns what makes each as it was."""
    names = [[t.schema for t in tables], [t.name for t in tables]]
    found = writer.execute(_TRIGGERS, names).fetchall()
    for schema, table in sorted({(row[0], row[1]) for row in found}):
        writer.execute(
            sql.SQL("ALTER TABLE ONLY {} DISABLE TRIGGER USER").format(sql.Identifier(schema, table))
        )
    return [
        sql.SQL("ALTER TABLE ONLY {} {} TRIGGER {}").format(
            sql.Identifier(schema, table), _ENABLED[state], sql.Identifier(name)
        )
        for schema, table, name, state in found
    ]


def _copy(server: Server, reader: Session, writer: Session, unit: Unit) -> tuple[int, int]:
    size = 0
    with reader.cursor() as source, writer.cursor() as target:
        with source.copy(copy.outgoing(unit)) as read, target.copy(copy.incoming(unit)) as write:
            for data in server.telling(read):
                write.write(data)
                size += len(data)
        # End of stream is not success: both servers must count the same rows.
        if source.rowcount != target.rowcount:
            raise StepFailed(
                f"{unit.table.qualified}: the source sent {source.rowcount} rows, the target took {target.rowcount};"
                " nothing of it was kept"
            )
        return target.rowcount, size
