"""Values that are equal to each other and not the same never digest alike; the same ones do, on every major."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import checksum
from planrunner.sandbox.servers import PostgresServer
from tests.integration.replication.conftest import connected
from tests.servers import contrib_bin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server


@dataclass(frozen=True)
class Pair:
    """Two values of a type that its equality, a cast or a short hash might take for one."""

    type: str
    one: str
    other: str
    since: int = 13


TYPES = """
CREATE EXTENSION citext; CREATE EXTENSION hstore;
CREATE TYPE mood AS ENUM ('sad', 'glad', 'SAD');
CREATE TYPE two AS (a int, b text);
CREATE FUNCTION lossy(two) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ($1).b';
CREATE CAST (two AS text) WITH FUNCTION lossy(two) AS ASSIGNMENT;
CREATE FUNCTION lossy(mood) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''m''::text';
CREATE CAST (mood AS text) WITH FUNCTION lossy(mood) AS ASSIGNMENT;
CREATE DOMAIN amount AS numeric; CREATE DOMAIN amount_of_amounts AS amount; CREATE DOMAIN padded AS char(4);
CREATE DOMAIN big AS bigint; CREATE DOMAIN pair_d AS two; CREATE DOMAIN loose AS citext; CREATE DOMAIN list AS numeric[];
CREATE FUNCTION twin(int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION twin(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
"""
PAIRS = [
    Pair("numeric", "1.0", "1.00"),
    Pair("numeric", "0", "0.0"),
    Pair("numeric", "NaN", "0"),
    Pair("numeric", "Infinity", "-Infinity", since=14),
    Pair("numeric", "12345678901234567890.1234567890", "12345678901234567890.1234567891"),
    Pair("numeric(12,2)", "0.01", "0.02"),
    Pair("float8", "0", "-0"),
    Pair("float8", "0.1", "0.10000000000000002"),
    Pair("float8", "NaN", "Infinity"),
    Pair("float4", "0", "-0"),
    Pair("float4", "16777216", "16777218"),
    Pair("int8", "-1", "4294967295"),
    Pair("int8", "0", "4294967297"),
    Pair("int8", "9223372036854775807", "-9223372036854775808"),
    Pair("int4", "-1", "1"),
    Pair("int2", "0", "1"),
    Pair("bool", "t", "f"),
    Pair("oid", "0", "4294967295"),
    Pair("text", "", "NULL"),
    Pair("text", "a", "a "),
    Pair("text", "A", "a"),
    Pair("text", "é", "e\u0301"),
    Pair("text", "(,)", '(,"")'),
    Pair("text", "a\\b", "a\\\\b"),
    Pair("varchar(9)", "x", "x "),
    Pair("char(5)", "a", "a\u00a0"),
    Pair("name", "a", "A"),
    Pair('"char"', "a", "b"),
    Pair("citext", "ABC", "abc"),
    Pair("json", '{"a":1}', '{"a": 1}'),
    Pair("json", '{"a":1,"b":2}', '{"b":2,"a":1}'),
    Pair("json", '{"a":1,"a":1}', '{"a":1}'),
    Pair("jsonb", '{"a": 1}', '{"a": 1.0}'),
    Pair("jsonb", "null", '"null"'),
    Pair("jsonpath", "$.a", '$."A"'),
    Pair("xml", "<a/>", "<a></a>"),
    Pair("timestamptz", "2024-01-01 00:00+00", "2024-01-01 00:00+01"),
    Pair("timestamptz", "2000-01-01 00:00+00", "2000-01-01 01:11:34.967297+00"),
    Pair("timestamptz", "infinity", "-infinity"),
    Pair("timestamp", "2024-01-01 00:00:00", "2024-01-01 00:00:00.000001"),
    Pair("timestamp", "2000-01-01 00:00:00", "2000-01-01 01:11:34.967297"),
    Pair("date", "infinity", "2024-02-29"),
    Pair("time", "00:00", "24:00"),
    Pair("time", "00:00", "01:11:34.967297"),
    Pair("timetz", "12:00+00", "13:00+01"),
    Pair("interval", "1 mon", "30 days"),
    Pair("interval", "1 day", "24 hours"),
    Pair("interval", "infinity", "-infinity", since=17),
    Pair("bytea", "\\x00", "\\x"),
    Pair("bytea", "\\x00ff", "\\x00fe"),
    Pair("uuid", "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000001"),
    Pair("numeric[]", "{1.0}", "{1.00}"),
    Pair("numeric[]", "{1}", "[0:0]={1}"),
    Pair("float8[]", "{0}", "{-0}"),
    Pair("text[]", "{NULL}", '{"NULL"}'),
    Pair("text[]", "{a,b}", "[0:1]={a,b}"),
    Pair("text[]", "{a,b}", "{{a},{b}}"),
    Pair("text[]", "{}", "{NULL}"),
    Pair('"char"[]', "{a}", "[2:2]={a}"),
    Pair("char(3)[]", "{a}", "{b}"),
    Pair("money", "$1.00", "$1.01"),
    Pair("bit(3)", "010", "011"),
    Pair("varbit", "01", "010"),
    Pair("inet", "10.0.0.1/8", "10.0.0.1"),
    Pair("inet", "::1", "::1/64"),
    Pair("cidr", "10.0.0.0/8", "10.0.0.0/16"),
    Pair("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    Pair("macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06"),
    Pair("point", "(0,0)", "(-0,0)"),
    Pair("point", "(1,1)", "(1.0000001,1)"),
    Pair("line", "{1,1,0}", "{2,2,0}"),
    Pair("lseg", "[(0,0),(1,1)]", "[(1,1),(0,0)]"),
    Pair("box", "(1,1),(0,0)", "(2,1),(1,0)"),
    Pair("path", "[(0,0),(1,1)]", "((0,0),(1,1))"),
    Pair("polygon", "((0,0),(1,1),(1,0))", "((1,1),(1,0),(0,0))"),
    Pair("circle", "<(0,0),1>", "<(5,5),1>"),
    Pair("tsvector", "a:1", "a:1A"),
    Pair("tsvector", "a", "a:1"),
    Pair("tsquery", "a & b", "b & a"),
    Pair("int4range", "[1,2]", "[1,2)"),
    Pair("numrange", "[1.0,2]", "[1.00,2]"),
    Pair("int4range", "empty", "[1,2)"),
    Pair("nummultirange", "{[1.0,2]}", "{[1.00,2]}", since=14),
    Pair("pg_lsn", "0/1", "1/0"),
    Pair("txid_snapshot", "1:2:", "1:3:"),
    Pair("xid", "1", "2"),
    Pair("tid", "(0,1)", "(1,0)"),
    Pair("regclass", "pg_class", "pg_type"),
    Pair("regtype", "int4", "int8"),
    Pair("regprocedure", "public.twin(int)", "public.twin(text)"),
    Pair("regrole", "postgres", "pg_monitor"),
    Pair("regnamespace", "public", "pg_catalog"),
    Pair("regconfig", "english", "simple"),
    Pair("hstore", "a=>1", 'a=>"1 "'),
    Pair("hstore", "a=>NULL", 'a=>"NULL"'),
    Pair("mood", "sad", "SAD"),
    Pair("two", "(1,x)", "(2,x)"),
    Pair("two", "(,)", "NULL"),
    Pair("two", "(1,)", '(1,"")'),
    Pair("amount", "1.0", "1.00"),
    Pair("amount_of_amounts", "1.0", "1.00"),
    Pair("padded", "a", "a\u00a0"),
    Pair("big", "-1", "4294967295"),
    Pair("pair_d", "(1,x)", "(2,x)"),
    Pair("loose", "A", "a"),
    Pair("list", "{1.0}", "{1.00}"),
]
SHAPES = ("plain", "array", "composite")
_NEEDS_LIBXML = "xml"


def _script(version: int, *, libxml: bool) -> list[sql.Composed]:
    """Tables ``one_N_shape`` with the first value, ``other_N_shape`` with the second, on every server."""
    made: list[sql.Composed] = []
    for number, pair in enumerate(PAIRS):
        if pair.since > version or (pair.type == _NEEDS_LIBXML and not libxml):
            continue
        base, part = sql.SQL(pair.type), sql.Identifier(f"part_{number}")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        array = pair.type if pair.type.endswith("[]") else f"{pair.type}[]"
        made.append(sql.SQL("CREATE TYPE {} AS (v {}, n int)").format(part, base))
        types = {"plain": base, "array": sql.SQL(array), "composite": part}  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        for which, value in (("one", pair.one), ("other", pair.other)):
            literal = sql.SQL("NULL") if value == "NULL" else sql.Literal(value)
            plain = sql.SQL("{}::{}").format(literal, base)
            values = {
                "plain": plain,
                "array": sql.SQL("ARRAY[{}]").format(plain),
                "composite": sql.SQL("ROW({}, 1)::{}").format(plain, part),
            }
            for shape in SHAPES:
                name = sql.Identifier(f"{which}_{number}_{shape}")
                made.append(sql.SQL("CREATE TABLE {} (v {})").format(name, types[shape]))
                made.append(sql.SQL("INSERT INTO {} VALUES ({})").format(name, values[shape]))
    return made


@dataclass(frozen=True, kw_only=True)
class Digests:
    """The digests of every table on one server, with row hashes and with md5."""

    version: int
    hashed: dict[str, checksum.Digest]
    md5: dict[str, checksum.Digest]


def _digests(server: Server, dsn: str, *, major: int) -> Digests:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(TYPES.encode())
        libxml = bool(session.execute("SELECT 1 FROM pg_settings WHERE name = 'xmloption'").fetchone())
        try:
            session.execute("SELECT xml '<a/>'")
        except psycopg.errors.FeatureNotSupported:
            libxml = False
        for statement in _script(major, libxml=libxml):
            session.execute(statement)
    tables = [t for t in catalog.tables(server) if t.name.startswith(("one_", "other_"))]

    def digested(*, md5: bool) -> dict[str, checksum.Digest]:
        return checksum.digests(server, tables, counts_only=False, md5=md5, jobs=1, timeout=60)

    return Digests(version=major, hashed={} if major < 14 else digested(md5=False), md5=digested(md5=True))


@pytest.fixture(scope="module", params=[13, 15, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Digests]:
    major: int = request.param
    with PostgresServer(contrib_bin(major), max_life=600) as running:
        opened = connected(running, "postgres", Side.SOURCE)
        yield _digests(opened, running.superuser_dsn, major=major)
        opened.close()


_known: dict[str, tuple[int, checksum.Digest]] = {}


def test_values_that_are_only_equal_never_digest_alike(server: Digests) -> None:
    alike = [
        (pair, shape, way)
        for number, pair in enumerate(PAIRS)
        for shape in SHAPES
        for way, found in (("hashed", server.hashed), ("md5", server.md5))
        if f"public.one_{number}_{shape}" in found
        and found[f"public.one_{number}_{shape}"] == found[f"public.other_{number}_{shape}"]
    ]
    assert alike == []
    assert len(server.md5) > 4 * len(PAIRS)


def test_the_same_values_digest_the_same_on_every_major(server: Digests) -> None:
    differing = []
    for way, found in (("hashed", server.hashed), ("md5", server.md5)):
        for name, digest in found.items():
            major, known = _known.setdefault(f"{way} {name}", (server.version, digest))
            if known != digest:
                differing.append((name, PAIRS[int(name.split("_")[1])], way, major, server.version))
    assert differing == []
