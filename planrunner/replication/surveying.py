"""Looks at two servers before there is a plan: what is there, what it needs, what there is room for. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.postgres import catalog
from planrunner.replication import capacity, identities, patterns, ranges, roles
from planrunner.survey import Bare, Sized, Standing, Survey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server

_BIGGEST = 10
_STANDING = """
SELECT current_setting('wal_level'),
       EXISTS (SELECT FROM pg_settings WHERE name LIKE 'rds.%') OR EXISTS (
         SELECT FROM pg_roles WHERE rolname = 'rds_superuser'),
       EXISTS (SELECT FROM pg_proc WHERE proname = 'aurora_version'),
       me.rolsuper OR me.rolreplication OR EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(r.oid, 'USAGE')
         AND r.rolname IN ('rds_replication', 'rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser')),
       me.rolsuper OR EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(r.oid, 'USAGE')
         AND r.rolname = ANY (CASE WHEN current_setting('server_version_num')::int >= 160000
           THEN ARRAY['pg_create_subscription'] ELSE
           ARRAY['rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser'] END))
FROM pg_roles me WHERE me.rolname = current_user
"""
_HOLDINGS = """
SELECT pg_database_size(current_database()),
       (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'S' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname NOT IN ('information_schema', 'planrunner')),
       (SELECT count(*) FROM pg_largeobject_metadata),
       (SELECT array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY 1) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm'),
       (SELECT array_agg(format('%I.%I', n.nspname, c.relname) ORDER BY 1) FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f')
"""
# What a provider has put into every database of its own is not the application's.
_EXTENSIONS = """
SELECT extname::text FROM pg_extension
WHERE extname <> 'plpgsql' AND extname NOT LIKE 'aws\\_%' AND extname NOT LIKE 'rds\\_%' ORDER BY 1
"""
_CHANGES = """
SELECT relid::bigint, n_tup_upd + n_tup_del FROM pg_stat_user_tables WHERE relid = ANY (%s::oid[])
"""


def survey(source: Server, target: Server | None) -> Survey:
    """Everything a first plan is made of; ServerError when a server that is given does not answer."""
    stored = catalog.stored_tables(source)
    holdings = source.row(_HOLDINGS)
    assert holdings is not None
    standing = _standing(source)
    extensions = tuple(str(row[0]) for row in source.rows(_EXTENSIONS))
    return Survey(
        source=standing,
        target=None if target is None else _standing(target),
        bytes=holdings[0],
        tables=len(stored),
        biggest=tuple(map(_sized, sorted(stored, key=lambda t: (-t.bytes, t.qualified))[:_BIGGEST])),
        split_bytes=_split_bytes(source, stored),
        sequences=holdings[1],
        large_objects=holdings[2],
        unlogged=tuple(_sized(t) for t in stored if t.unlogged),
        materialized_views=tuple(holdings[3] or ()),
        foreign_tables=tuple(holdings[4] or ()),
        extensions=extensions,
        missing_extensions=_missing(target, extensions),
        bare=_bare(source, [t for t in stored if not t.identifiable and not t.unlogged]),
        occupied=() if target is None else tuple(t.qualified for t in catalog.tables(target)),
        keep_roles=None if target is None else _keeps_roles(source, target),
        jobs=capacity.jobs(source, target or source),
    )


def _standing(server: Server) -> Standing:
    who = server.identity()
    row = server.row(_STANDING)
    assert row is not None
    with server.session(read_only=True) as session:
        real = session.execute("SELECT pg_backend_pid()").fetchone()
        # A pooler makes up the process id that it shows.
        pooled = real is not None and real[0] != session.info.backend_pid
    return Standing(
        major=who.major,
        version=who.version_text,
        database=who.database,
        user=who.user,
        superuser=who.superuser,
        standby=who.in_recovery,
        wal_level=row[0],
        pooled=pooled,
        rds=row[1],
        aurora=row[2],
        publishes=row[3],
        subscribes=row[4],
    )


def _sized(table: Table) -> Sized:
    return Sized(name=table.qualified, bytes=table.bytes, rows=table.rows)


def _split_bytes(source: Server, stored: Sequence[Table]) -> int:
    """The size of the biggest table that can be cut into ranges of its key."""
    able = ranges.splittable(stored, above=0, version=source.version())
    return max((t.data_bytes for t in able), default=0)


def _missing(target: Server | None, extensions: Sequence[str]) -> tuple[str, ...]:
    if target is None:
        return ()
    there = {row[0] for row in target.rows("SELECT name::text FROM pg_available_extensions")}
    return tuple(name for name in extensions if name not in there)


def _bare(source: Server, tables: Sequence[Table]) -> tuple[Bare, ...]:
    able = identities.eligible(source, tables)
    changes = {row[0]: int(row[1]) for row in source.rows(_CHANGES, [[t.oid for t in tables]])}
    return tuple(
        Bare(
            name=t.qualified,
            pattern=patterns.written(t.schema, t.name),
            bytes=t.bytes,
            rows=t.rows,
            indexes=tuple(able.get(t.oid, ())),
            changes=changes.get(t.oid),
        )
        for t in tables
    )


def _keeps_roles(source: Server, target: Server) -> bool:
    may_create = target.value("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    if roles.missing(source, target) and not may_create:
        return False
    return not roles.unassumable(source, target)
