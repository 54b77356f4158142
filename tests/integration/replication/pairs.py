"""Pairs of values that a type's equality, a cast or a short hash might take for one, and the types they need."""

from __future__ import annotations

from dataclasses import dataclass


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
    Pair("float8", "0", "NULL"),
    Pair("float8", "NaN", "0"),
    Pair("float8", "1e-320", "2e-320"),
    Pair("float4", "0", "-0"),
    Pair("float4", "NaN", "-Infinity"),
    Pair("float4", "16777216", "16777218"),
    Pair("int8", "-1", "4294967295"),
    Pair("int8", "0", "4294967297"),
    Pair("int8", "9223372036854775807", "-9223372036854775808"),
    Pair("int4", "-1", "1"),
    Pair("int2", "0", "1"),
    Pair("bool", "t", "f"),
    Pair("bool", "f", "NULL"),
    Pair("int4", "0", "NULL"),
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
    Pair("timestamptz", "294276-12-31 23:59:59.999998+00", "294276-12-31 23:59:59.999999+00"),
    Pair("timestamptz", "1999-12-31 23:59:59.999999+00", "2000-01-01 00:00:00.000001+00"),
    Pair("timestamptz", "2000-01-01 00:00+00", "NULL"),
    Pair("timestamp", "infinity", "294276-12-31 23:59:59.999999"),
    Pair("timestamp", "-infinity", "4714-11-24 00:00:00 BC"),
    Pair("timestamp", "150000-01-01 00:00:00", "150000-01-01 01:11:34.967297"),
    Pair("date", "2000-01-01", "NULL"),
    Pair("date", "2000-01-01", "1999-12-31"),
    Pair("date", "infinity", "-infinity"),
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
    Pair("numeric", "1", "-1"),
    Pair("numeric", "NaN", "NULL"),
    Pair("amount", "1.0", "1.00"),
    Pair("amount_of_amounts", "1.0", "1.00"),
    Pair("padded", "a", "a\u00a0"),
    Pair("big", "-1", "4294967295"),
    Pair("pair_d", "(1,x)", "(2,x)"),
    Pair("loose", "A", "a"),
    Pair("list", "{1.0}", "{1.00}"),
]
