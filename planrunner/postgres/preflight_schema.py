"""Preflight of what the source holds: its tables, and what logical replication does not carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Fix, Side
from planrunner.postgres import catalog
from planrunner.postgres.catalog import qualified
from planrunner.postgres.preflight_identity import identities
from planrunner.postgres.preflight_remedy import run_on, texts
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_section import Needs

TABLES = Check(
    code="PR0601", section=SCHEMA, title="what the source holds", why="So much is copied and then followed."
)
UNLOGGED = Check(
    code="PR0608",
    section=SCHEMA,
    title="unlogged tables",
    why="What is written to them is not in the WAL, and so in no replication stream.",
)
UNLOGGED_SEQUENCES = Check(
    code="PR0609",
    section=SCHEMA,
    title="unlogged sequences",
    why="After a crash of the source they begin again: keys would be handed out twice. PostgreSQL before 15 has none,"
    " so the schema does not restore there.",
)
LARGE_OBJECTS = Check(
    code="PR0610",
    section=SCHEMA,
    title="large objects",
    why="Logical replication carries the rows of tables, no large objects.",
)
FOREIGN_TABLES = Check(
    code="PR0611",
    section=SCHEMA,
    title="foreign tables",
    why="Their definitions come along; their rows lie on another server, which the target must reach, too.",
)
MATERIALIZED_VIEWS = Check(
    code="PR0612",
    section=SCHEMA,
    title="materialized views",
    why="They are made anew on the target from its own rows, and filled again at the cutover.",
)
EVENT_TRIGGERS = Check(
    code="PR0613",
    section=SCHEMA,
    title="event triggers of the source",
    why="Only a superuser can make them on the target. On the source they fire for what the migration makes there"
    " (publications, a schema of its own), and may refuse it.",
)
TARGET_EVENT_TRIGGERS = Check(
    code="PR0614",
    section=SCHEMA,
    title="event triggers of the target",
    why="They fire for every statement of the schema that is restored, and may refuse or change it.",
)

# Lists of (schema, name): what a user made, without what came with an extension.
_OBJECTS = """
SELECT c.relkind::text, n.nspname::text, c.relname::text, c.relispopulated,
       CASE c.relkind WHEN 'm' THEN pg_total_relation_size(c.oid) ELSE 0 END::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE (c.relkind IN ('f', 'm') OR c.relkind = 'S' AND c.relpersistence = 'u')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
  AND NOT EXISTS (SELECT FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid AND t.relpersistence = 'u'
                  WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
ORDER BY 2, 3
"""
_OTHERS = """
SELECT (SELECT count(*) FROM pg_largeobject_metadata), pg_total_relation_size('pg_largeobject')
"""
_EVENT_TRIGGERS = """
SELECT evtname::text, evtevent::text, evtenabled::text FROM pg_event_trigger e WHERE NOT EXISTS (
  SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')
ORDER BY 1
"""


def contents(source: Server, needs: Needs) -> Iterator[Finding]:
    """Tables, their replica identity, and everything that logical replication does not carry."""
    tables = needs.carried(catalog.tables(source))
    stored = [t for t in tables if not t.partitioned]
    size = human_bytes(sum(t.bytes for t in stored))
    yield TABLES.passed(f"{counted(len(tables), 'table')}, {size} with indexes")
    if not needs.polled:
        yield from identities(source, stored, needs)
    yield from _unlogged([t for t in stored if t.unlogged], needs)
    gone = needs.left_out(source)
    objects = [row for row in source.rows(_OBJECTS) if (row[1], row[2]) not in gone]
    kinds = {kind: [row for row in objects if row[0] == kind] for kind in ("f", "m", "S")}
    yield from _unlogged_sequences([(r[1], r[2]) for r in kinds["S"]])
    yield from _foreign([qualified(r[1], r[2]) for r in kinds["f"]])
    yield from _materialized(kinds["m"])
    row = source.row(_OTHERS)
    assert row is not None
    large, bytes_ = row
    yield from _large_objects(large, bytes_, needs)
    yield from _source_event_triggers(source)


def _unlogged(tables: Sequence[catalog.Table], needs: Needs) -> Iterator[Finding]:
    names = [t.qualified for t in tables]
    text = f"{counted(len(names), 'unlogged table')}, which are not replicated: {some(names)}"
    if names and needs.unlogged == "schema_only":
        yield UNLOGGED.warned(f"{text}; they arrive empty")
    elif names and needs.unlogged == "copy_at_cutover":
        yield UNLOGGED.warned(f"{text}; they are copied while writes stand still, within the pause's budget")
    elif names:
        statements = [
            sql.SQL("ALTER TABLE {} SET LOGGED").format(sql.Identifier(t.schema, t.name)) for t in tables
        ]
        yield UNLOGGED.failed(
            text,
            run_on(
                Side.SOURCE,
                statements,
                otherwise="Or set unlogged: schema_only or copy_at_cutover in the snapshot step.",
            ),
        )


def _unlogged_sequences(names: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    if names:
        statements = [sql.SQL("ALTER SEQUENCE {} SET LOGGED").format(sql.Identifier(*n)) for n in names]
        yield UNLOGGED_SEQUENCES.warned(
            f"{counted(len(names), 'unlogged sequence')}: {some([qualified(*n) for n in names])}",
            run_on(Side.SOURCE, statements),
            fix=Fix(where=Side.SOURCE, statements=texts(statements)),
        )


def _foreign(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        yield FOREIGN_TABLES.warned(
            f"{counted(len(names), 'foreign table')} (its rows stay where they are): {some(names)}",
            "Let the target reach the servers they lie on, and set the passwords of its user mappings, or leave the"
            " tables out (filters.exclude).",
        )


def _materialized(rows: Sequence[tuple[object, ...]]) -> Iterator[Finding]:
    empty = [(str(r[1]), str(r[2])) for r in rows if not r[3]]
    if len(rows) > len(empty):
        filled = sum(int(str(r[4])) for r in rows)
        yield MATERIALIZED_VIEWS.passed(
            f"{counted(len(rows) - len(empty), 'materialized view')} ({human_bytes(filled)}), refreshed on the target"
        )
    if empty:
        statements = [sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*n)) for n in empty]
        yield MATERIALIZED_VIEWS.warned(
            f"{counted(len(empty), 'materialized view')} that the source has never filled, and that the target will:"
            f" {some([qualified(*n) for n in empty])}",
            run_on(
                Side.SOURCE,
                statements,
                otherwise="That shows how long it takes and whether it works. Or drop or leave out what nobody uses.",
            ),
        )


def _large_objects(count: int, bytes_: int, needs: Needs) -> Iterator[Finding]:
    text = f"{counted(count, 'large object')}, which are not replicated ({human_bytes(bytes_)})"
    if count and needs.large_objects == "skip":
        yield LARGE_OBJECTS.warned(f"{text}; they stay behind")
    elif count and needs.large_objects == "copy":
        yield LARGE_OBJECTS.warned(
            f"{text}; they are compared, and copied where they differ, while writes stand still"
        )
    elif count:
        yield LARGE_OBJECTS.failed(
            text, "Set large_objects: copy or skip in the snapshot step, or move them into bytea columns."
        )


def _source_event_triggers(source: Server) -> Iterator[Finding]:
    rows = source.rows(_EVENT_TRIGGERS)
    if not rows:
        return
    firing = [row for row in rows if row[2] != "D"]
    statements = _disabling([row[0] for row in firing])
    silenced = [row[0] for row in rows if row[2] == "D"]
    if firing:
        yield EVENT_TRIGGERS.warned(
            f"{counted(len(firing), 'event trigger')} on the source (created where the target's login is a"
            f" superuser): {some(_described(firing))}",
            run_on(
                Side.SOURCE,
                statements,
                otherwise="Only while the migration lasts, and only where one of them refuses what is not meant for it.",
            ),
        )
    if silenced:
        yield EVENT_TRIGGERS.passed(f"{counted(len(silenced), 'event trigger')} disabled: {some(silenced)}")


def target_event_triggers(target: Server) -> Iterator[Finding]:
    """Enabled event triggers of the target, which the restored schema would fire."""
    firing = [r for r in target.rows(_EVENT_TRIGGERS) if r[2] in {"O", "A"}]
    if firing:
        yield TARGET_EVENT_TRIGGERS.warned(
            f"{counted(len(firing), 'event trigger')} on the target, which the restored schema fires:"
            f" {some(_described(firing))}",
            run_on(
                Side.TARGET,
                _disabling([row[0] for row in firing]),
                otherwise="Enable them again once the schema is there.",
            ),
        )


def _described(rows: Sequence[tuple[object, ...]]) -> list[str]:
    return [f"{row[0]} ({row[1]})" for row in rows]


def _disabling(names: Sequence[str]) -> list[sql.Composed]:
    return [sql.SQL("ALTER EVENT TRIGGER {} DISABLE").format(sql.Identifier(name)) for name in names]
