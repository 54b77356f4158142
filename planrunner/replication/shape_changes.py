"""How two shapes of the source differ, each difference with the statement that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres.catalog import parted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.shape import ColumnShape, Shape, TableShape


class Kind(Enum):
    """What became different, of which side."""

    TABLE_ADDED = "table_added"
    TABLE_DROPPED = "table_dropped"
    TABLE_REPLACED = "table_replaced"
    TABLE_RENAMED = "table_renamed"
    COLUMN_ADDED = "column_added"
    COLUMN_DROPPED = "column_dropped"
    COLUMN_RENAMED = "column_renamed"
    COLUMN_CHANGED = "column_changed"
    KEY_CHANGED = "key_changed"
    ENUM_CHANGED = "enum_changed"


# Replication goes on without what is no more; the target needs it until it has applied what came before.
CARRIED_ON = frozenset({Kind.TABLE_DROPPED, Kind.COLUMN_DROPPED})


@dataclass(frozen=True, kw_only=True)
class Change:
    """One difference of the source's shape since the copy began.

    ``subject`` is the table or type (``schema.name``) as it is called now, ``formerly`` as it was. ``do``
    is what to execute on the target, ``undo`` what takes the change back on the source where it can be.
    """

    kind: Kind
    subject: str
    formerly: str
    text: str
    do: str
    undo: str | None = None


def changes(before: Shape, now: Shape) -> tuple[Change, ...]:
    """Every difference between two shapes of one server, tables in name order."""
    found: list[Change] = []
    fresh = {table.qualified: table for oid, table in now.tables.items() if oid not in before.tables}
    for oid, table in before.tables.items():
        if oid in now.tables:
            found += _table_changes(table, now.tables[oid])
        elif table.qualified in fresh:
            found.append(_replaced(fresh.pop(table.qualified)))
        else:
            found.append(_dropped(table))
    found += [_added(table) for table in fresh.values()]
    for name, labels in before.enums.items():
        if name in now.enums and now.enums[name] != labels:
            found.append(_enum_changed(name, labels, now.enums[name]))
    return tuple(sorted(found, key=lambda change: (change.subject, change.text)))


def _statement(template: sql.SQL, *names: sql.Composable) -> str:
    return template.format(*names).as_string()


def _named(table: TableShape) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def _dropped(table: TableShape) -> Change:
    return Change(
        kind=Kind.TABLE_DROPPED,
        subject=table.qualified,
        formerly=table.qualified,
        text=f"table {table.qualified} was dropped after the copy began",
        do=_statement(sql.SQL("DROP TABLE {};"), _named(table)),
    )


def _added(table: TableShape) -> Change:
    return Change(
        kind=Kind.TABLE_ADDED,
        subject=table.qualified,
        formerly=table.qualified,
        text=f"table {table.qualified} was created after the copy began; its rows are not followed",
        do=f"CREATE TABLE {_named(table).as_string()} … as on the source;",
        undo=_statement(sql.SQL("DROP TABLE {};"), _named(table)),
    )


def _replaced(table: TableShape) -> Change:
    return Change(
        kind=Kind.TABLE_REPLACED,
        subject=table.qualified,
        formerly=table.qualified,
        text=f"table {table.qualified} was dropped and created anew after the copy began; its rows are not followed",
        do=f"DROP TABLE {_named(table).as_string()}; CREATE TABLE {_named(table).as_string()} … as on the source;",
    )


def _table_changes(before: TableShape, now: TableShape) -> Iterator[Change]:
    if before.qualified != now.qualified:
        yield Change(
            kind=Kind.TABLE_RENAMED,
            subject=now.qualified,
            formerly=before.qualified,
            text=f"table {before.qualified} was renamed to {now.qualified} after the copy began",
            do=_moved(before, now),
            undo=_moved(now, before),
        )
    for number, column in before.columns.items():
        if number not in now.columns:
            yield _column_dropped(now, column)
        elif column != now.columns[number]:
            yield from _column_changes(now, column, now.columns[number])
    for number, column in now.columns.items():
        if number not in before.columns:
            yield _column_added(now, column)
    if _identity(before) != _identity(now):
        yield _key_changed(before, now)


def _moved(before: TableShape, now: TableShape) -> str:
    moves: list[str] = []
    if before.schema != now.schema:
        template = sql.SQL("ALTER TABLE {} SET SCHEMA {};")
        moves.append(_statement(template, _named(before), sql.Identifier(now.schema)))
    if before.name != now.name:
        there = sql.Identifier(now.schema, before.name)
        moves.append(_statement(sql.SQL("ALTER TABLE {} RENAME TO {};"), there, sql.Identifier(now.name)))
    return " ".join(moves)


def _column_added(table: TableShape, column: ColumnShape) -> Change:
    needed = " NOT NULL" if column.not_null else ""
    made = " GENERATED ALWAYS AS (…) STORED" if column.generated else ""
    lead = _statement(sql.SQL("ALTER TABLE {} ADD COLUMN {} "), _named(table), sql.Identifier(column.name))
    return Change(
        kind=Kind.COLUMN_ADDED,
        subject=table.qualified,
        formerly=table.qualified,
        text=f"table {table.qualified}: column {column.name} {column.type}{needed} was added after the copy began",
        do=f"{lead}{column.type}{made}{needed}; (with the same DEFAULT as on the source)",
        undo=_statement(
            sql.SQL("ALTER TABLE {} DROP COLUMN {};"), _named(table), sql.Identifier(column.name)
        ),
    )


def _column_dropped(table: TableShape, column: ColumnShape) -> Change:
    return Change(
        kind=Kind.COLUMN_DROPPED,
        subject=table.qualified,
        formerly=table.qualified,
        text=f"table {table.qualified}: column {column.name} {column.type} was dropped after the copy began",
        do=_statement(sql.SQL("ALTER TABLE {} DROP COLUMN {};"), _named(table), sql.Identifier(column.name)),
    )


def _column_changes(table: TableShape, before: ColumnShape, now: ColumnShape) -> Iterator[Change]:
    if before.name != now.name:
        rename = sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {};")
        was, called = sql.Identifier(before.name), sql.Identifier(now.name)
        yield Change(
            kind=Kind.COLUMN_RENAMED,
            subject=table.qualified,
            formerly=table.qualified,
            text=f"table {table.qualified}: column {before.name} was renamed to {now.name} after the copy began",
            do=_statement(rename, _named(table), was, called),
            undo=_statement(rename, _named(table), called, was),
        )
    alter = _statement(sql.SQL("ALTER TABLE {} ALTER COLUMN {} "), _named(table), sql.Identifier(now.name))
    subject, place = table.qualified, f"table {table.qualified}: column {now.name}"
    if before.type != now.type:
        yield Change(
            kind=Kind.COLUMN_CHANGED,
            subject=subject,
            formerly=subject,
            text=f"{place} was {before.type} when the copy began and is {now.type} now",
            do=f"{alter}TYPE {now.type};",
            undo=f"{alter}TYPE {before.type};",
        )
    if before.not_null != now.not_null:
        to_set, to_drop = f"{alter}SET NOT NULL;", f"{alter}DROP NOT NULL;"
        yield Change(
            kind=Kind.COLUMN_CHANGED,
            subject=subject,
            formerly=subject,
            text=f"{place} became {'NOT NULL' if now.not_null else 'nullable'} after the copy began",
            do=to_set if now.not_null else to_drop,
            undo=to_drop if now.not_null else to_set,
        )
    if before.generated != now.generated:
        yield Change(
            kind=Kind.COLUMN_CHANGED,
            subject=subject,
            formerly=subject,
            text=f"{place} {'became' if now.generated else 'is no longer'} generated after the copy began",
            do=f"{alter}… the same as on the source;",
        )


def _identity(table: TableShape) -> tuple[str, tuple[int, ...]]:
    # By number: a renamed key column is the same key.
    numbers = {column.name: number for number, column in table.columns.items()}
    return table.identity, tuple(numbers.get(name, 0) for name in table.key)


def _key_changed(before: TableShape, now: TableShape) -> Change:
    add = sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({});")
    columns = sql.SQL(", ").join(map(sql.Identifier, before.key))
    return Change(
        kind=Kind.KEY_CHANGED,
        subject=now.qualified,
        formerly=before.qualified,
        text=f"table {now.qualified}: its replica identity was {_told(before)} when the copy began and is"
        f" {_told(now)} now",
        do="the same change of the key as on the source;",
        undo=_statement(add, _named(now), columns) if before.identity == "d" and before.key else None,
    )


def _told(table: TableShape) -> str:
    columns = f"({', '.join(table.key)})"
    words = {"f": "the full row", "n": "nothing", "i": f"the index on {columns}"}
    return words.get(table.identity, f"the primary key {columns}" if table.key else "no primary key")


def _enum_changed(name: str, before: tuple[str, ...], now: tuple[str, ...]) -> Change:
    type_name = sql.Identifier(*parted(name))
    fresh = [label for label in now if label not in before]
    add = sql.SQL("ALTER TYPE {} ADD VALUE {};")
    return Change(
        kind=Kind.ENUM_CHANGED,
        subject=name,
        formerly=name,
        text=f"type {name}: its labels were {', '.join(before)} when the copy began and are {', '.join(now)} now",
        do=" ".join(_statement(add, type_name, sql.Literal(label)) for label in fresh)
        or f"the same change of type {name} as on the source;",
    )
