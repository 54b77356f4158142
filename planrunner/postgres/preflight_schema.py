"""Preflight of what the source holds: what can't be followed, what the target lacks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import QueryFailed
from planrunner.postgres import catalog
from planrunner.postgres.preflight_section import SCHEMA, counted, some
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_section import Needs

_OTHERS = """
SELECT (SELECT count(*) FROM pg_largeobject_metadata),
       (SELECT array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY 1) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f'),
       (SELECT array_agg(evtname::text ORDER BY 1) FROM pg_event_trigger e WHERE NOT EXISTS (
          SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid
          AND d.deptype = 'e'))
"""
_EXTENSIONS = """
SELECT extname::text FROM pg_extension
WHERE extname <> 'plpgsql' AND extname NOT LIKE 'aws\\_%' AND extname NOT LIKE 'rds\\_%' ORDER BY 1
"""
# to_jsonb: the columns of the locale provider differ from version to version.
_LOCALE = """
SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', '')
FROM pg_database d WHERE datname = current_database()
"""
_COLLATIONS = """
SELECT DISTINCT o.collname::text FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm', 'i') JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_collation o ON o.oid = a.attcollation JOIN pg_namespace s ON s.oid = o.collnamespace
WHERE s.nspname = 'pg_catalog' AND o.collname NOT IN ('default', 'C', 'POSIX')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%' AND NOT a.attisdropped
"""
_LOCALE_PARTS = ("encoding", "LC_COLLATE", "LC_CTYPE", "locale provider", "locale")


def contents(source: Server, needs: Needs) -> Iterator[Finding]:
    """Tables, their replica identity, and everything that logical replication does not carry."""
    tables = needs.carried(catalog.tables(source))
    stored = [t for t in tables if not t.partitioned]
    size = human_bytes(sum(t.bytes for t in stored))
    yield SCHEMA.passed(f"{counted(len(tables), 'table')}, {size} with indexes")
    yield from _identities([t for t in stored if not t.identifiable and not t.unlogged], needs)
    yield from _unlogged([t.qualified for t in stored if t.unlogged], needs)
    row = source.row(_OTHERS)
    assert row is not None
    large, foreign, triggers = row
    yield from _large_objects(large, needs)
    yield from _not_carried("foreign table", foreign or (), "its rows stay where they are")
    yield from _not_carried(
        "event trigger", triggers or (), "created where the target's login is a superuser"
    )


def _identities(bare: Sequence[Table], needs: Needs) -> Iterator[Finding]:
    refused = [t.qualified for t in bare if needs.identity(t) == "refuse"]
    chosen = [f"{t.qualified} ({needs.identity(t)})" for t in bare if t.qualified not in refused]
    if not bare:
        yield SCHEMA.passed("Every table has a replica identity")
    if chosen:
        yield SCHEMA.warned(
            f"{counted(len(chosen), 'table')} without replica identity, as the plan chooses: {some(chosen)}",
            "With full, updates and deletes are slow to apply; a primary key is better.",
        )
    if refused:
        yield SCHEMA.failed(
            f"{counted(len(refused), 'table')} without replica identity: {some(refused)}; updates and deletes can't"
            " be followed",
            "Add a primary key, or choose for them under without_replica_identity in the snapshot step: full, index"
            " (a unique index of NOT NULL columns), insert_only or copy_at_cutover.",
        )


def _unlogged(names: Sequence[str], needs: Needs) -> Iterator[Finding]:
    text = f"{counted(len(names), 'unlogged table')}, which are not replicated: {some(names)}"
    if names and needs.unlogged == "schema_only":
        yield SCHEMA.warned(f"{text}; they arrive empty")
    elif names and needs.unlogged == "copy_at_cutover":
        yield SCHEMA.warned(f"{text}; they are copied while writes stand still, within the pause's budget")
    elif names:
        yield SCHEMA.failed(
            text,
            "Run ALTER TABLE … SET LOGGED, or set unlogged: schema_only or copy_at_cutover in the snapshot step.",
        )


def _large_objects(count: int, needs: Needs) -> Iterator[Finding]:
    text = f"{counted(count, 'large object')}, which are not replicated"
    if count and needs.large_objects == "skip":
        yield SCHEMA.warned(f"{text}; they stay behind")
    elif count and needs.large_objects == "copy":
        yield SCHEMA.warned(
            f"{text}; they are compared, and copied where they differ, while writes stand still"
        )
    elif count:
        yield SCHEMA.failed(
            text, "Set large_objects: copy or skip in the snapshot step, or move them into bytea columns."
        )


def _not_carried(noun: str, names: Sequence[str], consequence: str) -> Iterator[Finding]:
    if names:
        yield SCHEMA.warned(f"{counted(len(names), noun)} ({consequence}): {some(names)}")


def fit(source: Server, target: Server) -> Iterator[Finding]:
    """Extensions, encoding, locale, collations, and what the target's build can do."""
    yield _extensions(source, target)
    yield from _locale(source, target)
    yield from _collations(source, target)
    yield from _xml(source, target)


def _extensions(source: Server, target: Server) -> Finding:
    wanted = [row[0] for row in source.rows(_EXTENSIONS)]
    if not wanted:
        return SCHEMA.passed("Source uses no extension")
    there = {row[0] for row in target.rows("SELECT name::text FROM pg_available_extensions")}
    missing = [name for name in wanted if name not in there]
    if missing:
        return SCHEMA.failed(
            f"Target's server lacks {counted(len(missing), 'extension')}: {some(missing)}",
            "Install them there (on Debian: postgresql-contrib or postgresql-NN-name), or drop them on the source.",
        )
    return SCHEMA.passed(f"Target has all {counted(len(wanted), 'extension')} the source uses")


def _locale(source: Server, target: Server) -> Iterator[Finding]:
    there, here = source.row(_LOCALE), target.row(_LOCALE)
    assert there is not None
    assert here is not None
    differing = [
        f"{part} {a or 'none'} there, {b or 'none'} here"
        for part, a, b in zip(_LOCALE_PARTS, there, here, strict=True)
        if a != b
    ]
    if not differing:
        yield SCHEMA.passed(f"Same encoding and locale ({there[0]}, {there[1]})")
        return
    yield SCHEMA.warned(
        f"Encoding or locale of the two databases differ: {'; '.join(differing)}",
        "Texts may sort otherwise, and fail to arrive where the target's encoding lacks a character. To have"
        " the same: CREATE DATABASE … TEMPLATE template0 ENCODING … LC_COLLATE … LC_CTYPE …",
    )


def _collations(source: Server, target: Server) -> Iterator[Finding]:
    used = [row[0] for row in source.rows(_COLLATIONS)]
    if not used:
        return
    there = {row[0] for row in target.rows("SELECT collname::text FROM pg_collation")}
    missing = [name for name in used if name not in there]
    if missing:
        yield SCHEMA.failed(
            f"Target lacks {counted(len(missing), 'collation')} of the source's columns: {some(missing)}",
            "Install the locale there and run SELECT pg_import_system_collations('pg_catalog'); a collation of"
            " ICU needs a server built with it.",
        )


def _xml(source: Server, target: Server) -> Iterator[Finding]:
    columns = source.value(
        "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')"
        " WHERE a.atttypid = ANY (ARRAY['xml'::regtype, 'xml[]'::regtype]::oid[]) AND c.oid >= 16384"
    )
    if not columns:
        return
    try:
        target.rows("SELECT xmlparse(CONTENT '<a/>')")
    except QueryFailed as error:
        if error.sqlstate != "0A000":
            raise
        yield SCHEMA.failed(
            f"Target's server was built without XML, and the source has {counted(columns, 'column')} of it",
            "Choose a server built --with-libxml, or make them text on the source.",
        )
