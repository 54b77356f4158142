"""Preflight of extensions: whether the target has them, in which version and schema, and may make them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Fix, Side
from planrunner.postgres.preflight_remedy import run_on, texts
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server

AVAILABLE = Check(
    code="PR0640",
    section=SCHEMA,
    title="extensions that the target lacks",
    why="Types, functions and operators of theirs are used by the schema, which does not restore without them.",
)
VERSION = Check(
    code="PR0641",
    section=SCHEMA,
    title="versions of extensions",
    why="An older version may lack a function or type that the schema uses. An extension that is there already is"
    " left as it is.",
)
PLACE = Check(
    code="PR0642",
    section=SCHEMA,
    title="extensions in another schema",
    why="The schema names types and functions with the schema that they are in on the source.",
)
PRELOAD = Check(
    code="PR0643",
    section=SCHEMA,
    title="extensions that want to be preloaded",
    why="Their library must be in shared_preload_libraries before CREATE EXTENSION, or before they do anything.",
)
SUPERUSER = Check(
    code="PR0644",
    section=SCHEMA,
    title="extensions that only a superuser may create",
    why="An extension that is not trusted is refused to every other login, and with it the schema.",
)
OWN_ROWS = Check(
    code="PR0645",
    section=SCHEMA,
    title="rows in the tables of extensions",
    why="Tables of an extension are made by it; what the application has put into them is neither copied nor followed.",
)
NOT_FOLLOWED = Check(
    code="PR0646",
    section=SCHEMA,
    title="extensions that keep tables in their own way",
    why="They store a table in parts of their own and route its rows themselves: logical replication of those parts"
    " does not make the table on the other side.",
)

# True: CREATE EXTENSION itself is refused without it.
_PRELOADED: Mapping[str, bool] = {
    "timescaledb": True,
    "citus": True,
    "pg_cron": True,
    "pgaudit": True,
    "pg_net": True,
    "pg_squeeze": False,
    "pg_stat_statements": False,
    "pg_hint_plan": False,
    "pg_stat_monitor": True,
    "pg_wait_sampling": True,
    "pg_qualstats": True,
    "pg_stat_kcache": True,
    "pglogical": True,
    "bdr": True,
}
_OWN_STORAGE = ("timescaledb", "citus", "pglogical", "bdr", "spock")
# What RDS has put there is not the application's; see ``restorable``.
_USED = """
SELECT e.extname::text, e.extversion, n.nspname::text,
       (SELECT array_agg(format('%I.%I', cn.nspname, c.relname) ORDER BY 1) FROM unnest(e.extconfig) k(oid)
        JOIN pg_class c ON c.oid = k.oid AND c.relkind = 'r' AND pg_relation_size(c.oid) > 0
        JOIN pg_namespace cn ON cn.oid = c.relnamespace)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE extname <> 'plpgsql' AND extname NOT LIKE 'aws\\_%' AND extname NOT LIKE 'rds\\_%' ORDER BY 1
"""
_THERE = """
SELECT a.name::text, a.default_version, a.installed_version,
       (SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = a.name),
       v.superuser AND NOT v.trusted, v.relocatable,
       ARRAY(SELECT o.version FROM pg_available_extension_versions o WHERE o.name = a.name ORDER BY 1)
FROM pg_available_extensions a JOIN pg_available_extension_versions v
  ON v.name = a.name AND v.version = a.default_version
WHERE a.name = ANY (%s)
"""
_LOGIN = """
SELECT me.rolsuper OR EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(r.oid, 'USAGE') AND r.rolname IN
         ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser')),
       (SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'), me.rolname::text
FROM pg_roles me WHERE me.rolname = current_user
"""


@dataclass(frozen=True, kw_only=True)
class _Used:
    """An extension of the source: its version, schema, and those of its own tables that hold rows."""

    name: str
    version: str
    schema: str
    filled: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _There:
    """The same extension as the target has it; ``installed`` and ``schema`` are None where it is only available."""

    default: str
    installed: str | None
    schema: str | None
    restricted: bool
    relocatable: bool
    versions: tuple[str, ...]


def extensions(source: Server, target: Server) -> Iterator[Finding]:
    """Every extension the source uses, against what the target has."""
    used = [_Used(name=r[0], version=r[1], schema=r[2], filled=tuple(r[3] or ())) for r in source.rows(_USED)]
    if not used:
        yield AVAILABLE.passed("Source uses no extension")
        return
    there = _there(target, used)
    row = target.row(_LOGIN)
    assert row is not None
    superuser, login = bool(row[0]), str(row[2])
    loaded = None if row[1] is None else [name.strip(' "') for name in str(row[1]).split(",") if name]
    yield _available([e.name for e in used if e.name not in there], len(used))
    known = [(e, there[e.name]) for e in used if e.name in there]
    yield from _versions(known)
    yield from _places(known)
    yield from _preload([e.name for e, _ in known if e.name in _PRELOADED], loaded, login)
    if not superuser:
        yield from _restricted([e.name for e, t in known if t.restricted and t.installed is None])
    yield from _own_rows(used)
    yield from _own_storage([e.name for e in used if e.name in _OWN_STORAGE])


def _there(target: Server, used: Sequence[_Used]) -> dict[str, _There]:
    return {
        r[0]: _There(
            default=r[1],
            installed=r[2],
            schema=r[3],
            restricted=r[4],
            relocatable=r[5],
            versions=tuple(r[6]),
        )
        for r in target.rows(_THERE, [[e.name for e in used]])
    }


def _available(missing: Sequence[str], count: int) -> Finding:
    if not missing:
        return AVAILABLE.passed(f"Target has all {counted(count, 'extension')} the source uses")
    dropping = [sql.SQL("DROP EXTENSION {}").format(sql.Identifier(name)) for name in missing]
    return AVAILABLE.failed(
        f"Target's server lacks {counted(len(missing), 'extension')}: {some(missing)}",
        "Install them there (on Debian: postgresql-contrib or postgresql-NN-name). Or, where nothing uses them:"
        f" {run_on(Side.SOURCE, dropping)}",
    )


def _versions(known: Sequence[tuple[_Used, _There]]) -> Iterator[Finding]:
    older = [(e, t) for e, t in known if _order(t.installed or t.default) < _order(e.version)]
    updating = [
        sql.SQL("ALTER EXTENSION {} UPDATE TO {}").format(sql.Identifier(e.name), sql.Literal(e.version))
        for e, t in older
        if t.installed is not None and e.version in t.versions
    ]
    # In another schema than public they can't be made before the copy makes that schema.
    creating = [
        sql.SQL("CREATE EXTENSION {} WITH SCHEMA public VERSION {}").format(
            sql.Identifier(e.name), sql.Literal(e.version)
        )
        for e, t in older
        if t.installed is None and e.schema == "public" and e.version in t.versions
    ]
    if older:
        names = [f"{e.name} ({e.version} there, {t.installed or t.default} here)" for e, t in older]
        packages = "Install the newer package on the target's server."
        yield VERSION.warned(
            f"{counted(len(older), 'extension')} older on the target: {some(names)}",
            run_on(Side.TARGET, [*updating, *creating]) if updating or creating else packages,
            fix=Fix(where=Side.TARGET, statements=texts(updating)) if updating else None,
        )
    newer = [(e, t) for e, t in known if _order(t.installed or t.default) > _order(e.version)]
    if newer:
        names = [f"{e.name} ({e.version} there, {t.installed or t.default} here)" for e, t in newer]
        yield VERSION.passed(f"{counted(len(newer), 'extension')} newer on the target: {some(names)}")


def _order(version: str) -> tuple[tuple[int, str], ...]:
    """A version's parts as numbers, words behind them."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-z]+", version)
    )


def _places(known: Sequence[tuple[_Used, _There]]) -> Iterator[Finding]:
    moved = [(e, t) for e, t in known if t.schema is not None and t.schema != e.schema]
    if not moved:
        return
    # Another schema than public is made by the copy: there it must not be yet.
    statements = [
        sql.SQL("ALTER EXTENSION {} SET SCHEMA public").format(sql.Identifier(e.name))
        if t.relocatable and e.schema == "public"
        else sql.SQL("DROP EXTENSION {}").format(sql.Identifier(e.name))
        for e, t in moved
    ]
    names = [f"{e.name} ({e.schema} there, {t.schema} here)" for e, t in moved]
    yield PLACE.failed(
        f"{counted(len(moved), 'extension')} of the target in another schema than on the source: {some(names)}",
        run_on(
            Side.TARGET,
            statements,
            otherwise="What is dropped the copy makes where it belongs.",
        ),
    )


def _preload(names: Sequence[str], loaded: Sequence[str] | None, login: str) -> Iterator[Finding]:
    if names and loaded is None:
        reading = sql.SQL("GRANT pg_read_all_settings TO {}").format(sql.Identifier(login))
        yield PRELOAD.warned(
            f"The login may not see whether the target's server preloads {some(names)}",
            run_on(Side.TARGET, [reading], otherwise="Or look yourself: SHOW shared_preload_libraries."),
        )
    if not names or loaded is None:
        return
    wanting = [name for name in names if name not in loaded]
    refused = [name for name in wanting if _PRELOADED[name]]
    quiet = [name for name in wanting if not _PRELOADED[name]]
    if refused:
        yield PRELOAD.failed(
            f"{counted(len(refused), 'extension')} that the target's server must preload: {some(refused)}",
            _preloading([*loaded, *refused]),
        )
    if quiet:
        yield PRELOAD.warned(
            f"{counted(len(quiet), 'extension')} that do nothing on the target before it preloads them: {some(quiet)}",
            _preloading([*loaded, *quiet]),
        )


def _preloading(libraries: Sequence[str]) -> str:
    # A list of words as the server reads it: quoted one by one.
    values = sql.SQL(", ").join(map(sql.Literal, libraries))
    statement = sql.SQL("ALTER SYSTEM SET shared_preload_libraries = {}").format(values)
    return run_on(
        Side.TARGET,
        [statement],
        otherwise="Restart it afterwards. On a managed service set it in the parameter group.",
    )


def _restricted(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        statements = [sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(name)) for name in names]
        yield SUPERUSER.failed(
            f"{counted(len(names), 'extension')} that the target's login may not create: {some(names)}",
            run_on(Side.TARGET, statements, otherwise="As a superuser. What is there already is used."),
        )


def _own_rows(used: Sequence[_Used]) -> Iterator[Finding]:
    filled = [name for e in used for name in e.filled]
    if filled:
        yield OWN_ROWS.warned(
            f"{counted(len(filled), 'table')} of extensions with rows that may be your own: {some(filled)}",
            "Bring rows that the extension has not made itself over by hand, once the schema is on the target:"
            " psql SOURCE -c 'COPY (SELECT … FROM table WHERE …) TO STDOUT' | psql TARGET -c 'COPY table FROM STDIN'",
        )


def _own_storage(names: Sequence[str]) -> Iterator[Finding]:
    if names:
        yield NOT_FOLLOWED.failed(
            f"{counted(len(names), 'extension')} with tables that logical replication does not carry: {some(names)}",
            "Turn their tables into plain ones on the source, or leave them out (filters.exclude) and move them with the"
            " extension's own tool.",
        )
