"""Preflight of encoding, locale and collations: which texts arrive, and in which order they sort there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import QueryFailed
from planrunner.model import Side
from planrunner.postgres.catalog import qualified
from planrunner.postgres.preflight_remedy import run_on
from planrunner.postgres.preflight_section import SCHEMA, Check, counted, some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server

ENCODING = Check(
    code="PR0630",
    section=SCHEMA,
    title="encoding",
    why="A text with a character that the target's encoding lacks, or with bytes that are none in it, does not arrive:"
    " the copy or apply stops at it.",
)
LOCALE = Check(
    code="PR0631",
    section=SCHEMA,
    title="locale of the databases",
    why="Texts sort and compare by it: ORDER BY, ranges and upper() may give other answers after the migration.",
)
COLLATIONS = Check(
    code="PR0632",
    section=SCHEMA,
    title="collations that the target lacks",
    why="A column, index or collation that names one that is not there can't be made.",
)
COLLATION_VERSIONS = Check(
    code="PR0633",
    section=SCHEMA,
    title="collation versions",
    why="The operating system's sort order has changed since the indexes were built: an index on text may miss rows"
    " that are there, and let duplicates in. The target builds its own and stumbles over those.",
)
TEXT_PARTITIONS = Check(
    code="PR0634",
    section=SCHEMA,
    title="ranges of text under another locale",
    why="Where texts sort otherwise, a row may belong to another partition on the target, and is refused by the one"
    " that it is sent to.",
)
MONEY = Check(
    code="PR0635",
    section=SCHEMA,
    title="columns of type money",
    why="Replication sends them as text, in the form of the source's lc_monetary, and the target reads it by its own:"
    " 1.234,56 becomes another amount, or an error.",
)
XML = Check(
    code="PR0636",
    section=SCHEMA,
    title="columns of type xml",
    why="A server that was built without libxml takes no value of that type.",
)

# to_jsonb: the columns of the locale provider differ from version to version. The setting is reset_val's: our own
# sessions pin lc_monetary.
_DATABASE = """
SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
       coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
       coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale', ''),
       (SELECT reset_val FROM pg_settings WHERE name = 'lc_monetary'), datname::text,
       to_jsonb(d) ->> 'datcollversion'
FROM pg_database d WHERE datname = current_database()
"""
_COLLATIONS = """
SELECT DISTINCT o.collname::text FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'm', 'i') JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_collation o ON o.oid = a.attcollation JOIN pg_namespace s ON s.oid = o.collnamespace
WHERE s.nspname = 'pg_catalog' AND o.collname NOT IN ('default', 'C', 'POSIX')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%' AND NOT a.attisdropped
"""
_OWN_COLLATIONS = """
SELECT n.nspname::text, o.collname::text, o.collprovider::text
FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND o.collprovider IN ('i', 'b')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_collation'::regclass AND d.objid = o.oid
                  AND d.deptype = 'e') ORDER BY 1, 2
"""
# 15 has datcollversion; before, only collations that are named have a version.
_OUTDATED = """
SELECT n.nspname::text, o.collname::text, o.collversion, pg_collation_actual_version(o.oid)
FROM pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace
WHERE o.collversion IS NOT NULL AND o.collversion <> pg_collation_actual_version(o.oid)
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attcollation = o.oid AND a.attrelid >= 16384) ORDER BY 1, 2
"""
_DATABASE_VERSION = """
SELECT d.datcollversion, pg_database_collation_actual_version(d.oid)
FROM pg_database d WHERE d.datname = current_database()
"""
_USES = """
SELECT (SELECT array_agg(format('%s.%s', n.nspname, c.relname) ORDER BY 1) FROM pg_partitioned_table p
        JOIN pg_class c ON c.oid = p.partrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE p.partstrat = 'r' AND EXISTS (SELECT FROM unnest(p.partcollation::oid[]) o(id)
          JOIN pg_collation k ON k.oid = o.id WHERE k.collname NOT IN ('C', 'POSIX'))),
       (SELECT array_agg(format('%s.%s.%s', n.nspname, c.relname, a.attname) ORDER BY 1) FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE a.atttypid IN ('money'::regtype, 'money[]'::regtype) AND NOT a.attisdropped AND c.oid >= 16384),
       (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
        WHERE a.atttypid IN ('xml'::regtype, 'xml[]'::regtype) AND NOT a.attisdropped AND c.oid >= 16384)
"""
_PARTS = ("LC_COLLATE", "LC_CTYPE", "locale provider", "locale")
_PLAIN = ("C", "POSIX")
_UNCHECKED = "SQL_ASCII"


def locales(source: Server, target: Server) -> Iterator[Finding]:
    """Encoding, locale and collations of both databases, and the types whose text depends on them."""
    there, here = source.row(_DATABASE), target.row(_DATABASE)
    assert there is not None
    assert here is not None
    uses = source.row(_USES)
    assert uses is not None
    yield _encoding(there, here)
    yield from _locale(there, here, [str(name) for name in uses[0] or ()])
    yield from _versions(source, there)
    yield from _collations(source, target)
    yield from money(there, here, [str(name) for name in uses[1] or ()])
    yield from _xml(target, int(uses[2]))


def _encoding(there: Row, here: Row) -> Finding:
    ours, theirs = there[0], here[0]
    alike = (
        "Make the target's database anew: CREATE DATABASE … TEMPLATE template0 ENCODING"
        f" {sql.Literal(ours if ours != _UNCHECKED else 'UTF8').as_string()} LC_COLLATE … LC_CTYPE …;"
    )
    if ours == theirs and ours != _UNCHECKED:
        return ENCODING.passed(f"Same encoding ({ours})")
    if ours == _UNCHECKED:
        return ENCODING.warned(
            "Source's encoding is SQL_ASCII: its texts were never checked, and may be bytes that are no"
            f" {'UTF8' if theirs == _UNCHECKED else theirs}",
            "Try them before: pg_dump --data-only --encoding=UTF8 on the source and convert what iconv -f UTF-8 -t UTF-8"
            " refuses.",
        )
    if theirs == "UTF8":
        return ENCODING.passed(f"Source's encoding {ours} is converted into the target's UTF8")
    text = f"Encoding differs: {ours} there, {theirs} here"
    if theirs == _UNCHECKED:
        return ENCODING.warned(f"{text}, which checks nothing", alike)
    return ENCODING.failed(f"{text}, which lacks characters that the source may hold", alike)


def _locale(there: Row, here: Row, partitioned: Sequence[str]) -> Iterator[Finding]:
    differing = [
        f"{part} {a or 'none'} there, {b or 'none'} here"
        for part, a, b in zip(_PARTS, there[1:5], here[1:5], strict=True)
        if a != b
    ]
    if not differing:
        yield LOCALE.passed(f"Same locale ({there[1]})")
        return
    yield LOCALE.warned(
        f"Locale of the two databases differs: {'; '.join(differing)}",
        f"To have the same: {_created_alike(there)}",
    )
    if partitioned and there[1] != here[1]:
        yield TEXT_PARTITIONS.warned(
            f"{counted(len(partitioned), 'table')} partitioned by ranges of text: {some(partitioned)}",
            f'Give the target the same locale, or the partition key COLLATE "C": {_created_alike(there)}',
        )


def _created_alike(there: Row) -> str:
    encoding, collate, ctype, provider, locale = there[:5]
    words = {"i": "icu", "b": "builtin"}
    base = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
        sql.Identifier("name"), sql.Literal(encoding), sql.Literal(collate), sql.Literal(ctype)
    )
    if provider not in words:
        return f"{base.as_string()};"
    named = sql.SQL("ICU_LOCALE {}" if provider == "i" else "BUILTIN_LOCALE {}").format(sql.Literal(locale))
    return f"{base.as_string()} LOCALE_PROVIDER {words[provider]} {named.as_string()};"


def _versions(source: Server, there: Row) -> Iterator[Finding]:
    outdated = [
        (qualified(r[0], r[1]), r[2], r[3], sql.Identifier(r[0], r[1])) for r in source.rows(_OUTDATED)
    ]
    statements = [sql.SQL("ALTER COLLATION {} REFRESH VERSION").format(row[3]) for row in outdated]
    if there[7] is not None:
        row = source.row(_DATABASE_VERSION)
        assert row is not None
        if row[1] is not None and row[0] != row[1]:
            name = sql.Identifier(there[6])
            outdated.append((f"database {name.as_string()}", row[0], row[1], name))
            statements.append(sql.SQL("ALTER DATABASE {} REFRESH COLLATION VERSION").format(name))
    if outdated:
        rebuild = sql.SQL("REINDEX DATABASE {}").format(sql.Identifier(there[6]))
        yield COLLATION_VERSIONS.warned(
            f"{counted(len(outdated), 'collation')} whose version is another than when the source's indexes were"
            f" built: {some([f'{name} ({was}, now {now})' for name, was, now, _ in outdated])}",
            run_on(Side.SOURCE, [rebuild, *statements], otherwise="REINDEX … CONCURRENTLY lets writers in."),
        )


def _collations(source: Server, target: Server) -> Iterator[Finding]:
    used = [row[0] for row in source.rows(_COLLATIONS)]
    own = source.rows(_OWN_COLLATIONS)
    if not used and not own:
        return
    there = target.rows("SELECT collname::text, collprovider::text FROM pg_collation")
    names, providers = {row[0] for row in there}, {row[1] for row in there}
    missing = [name for name in used if name not in names]
    if missing:
        yield COLLATIONS.failed(
            f"Target lacks {counted(len(missing), 'collation')} of the source's columns: {some(missing)}",
            run_on(
                Side.TARGET,
                [sql.SQL("SELECT pg_import_system_collations('pg_catalog')")],
                otherwise="Install the locale there first. A collation of ICU needs a server built with it.",
            ),
        )
    # A server that can't use ICU has at most the one collation of it that every catalogue begins with.
    able = providers if _uses_icu(target, [row for row in own if row[2] == "i"]) else providers - {"i"}
    strange = [qualified(row[0], row[1]) for row in own if row[2] not in able]
    if strange:
        yield COLLATIONS.failed(
            f"Target's server can't make {counted(len(strange), 'collation')} of the source: {some(strange)}",
            "Choose a target whose server was built --with-icu (and is of PostgreSQL 17 or later for provider builtin),"
            " or give the columns another collation on the source.",
        )


def _uses_icu(target: Server, wanted: Sequence[Row]) -> bool:
    """Whether the server was built with ICU: it names a version of its own root collation, or of none."""
    if not wanted:
        return True
    return bool(
        target.value(
            "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i' AND"
            " pg_collation_actual_version(oid) IS NOT NULL)"
        )
    )


def money(there: Row, here: Row, columns: Sequence[str]) -> Iterator[Finding]:
    """Columns of money, given both databases' rows of ``_DATABASE``."""
    ours, theirs = there[5], here[5]
    if not columns or ours == theirs or (_plain(ours) and _plain(theirs)):
        return
    statement = sql.SQL("ALTER DATABASE {} SET lc_monetary = {}").format(
        sql.Identifier(here[6]), sql.Literal(ours)
    )
    yield MONEY.failed(
        f"{counted(len(columns), 'column')} of type money, and lc_monetary differs ({ours} there, {theirs} here):"
        f" {some(columns)}",
        run_on(Side.TARGET, [statement], otherwise="Where it lacks that locale, set both to 'C'."),
    )


def _plain(locale: str) -> bool:
    return locale in _PLAIN or locale.upper().startswith("C.")


def _xml(target: Server, columns: int) -> Iterator[Finding]:
    if not columns:
        return
    try:
        target.rows("SELECT xmlparse(CONTENT '<a/>')")
    except QueryFailed as error:
        if error.sqlstate != "0A000":
            raise
        yield XML.failed(
            f"Target's server was built without XML, and the source has {counted(columns, 'column')} of it",
            "Choose a server built --with-libxml, or make them text on the source.",
        )
