"""The tables that the client writes to, and what is in them before it begins."""

from __future__ import annotations

import hashlib

import psycopg

ACCOUNTS, OPENING_BALANCE = 200, 1_000
LISTS, TOKENS, DOCUMENTS = 24, 40, 40
# More than a page holds, so that it lies out of line.
_BODY_PARTS = 150
SCHEMA = f"""
CREATE SCHEMA referee;
CREATE TABLE referee.account (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE referee.transfer (tx bigint PRIMARY KEY, debit int NOT NULL REFERENCES referee.account,
  credit int NOT NULL REFERENCES referee.account, amount int NOT NULL);
CREATE TABLE referee.list (id int PRIMARY KEY, items bigint[] NOT NULL DEFAULT '{{}}');
CREATE TABLE referee.token (place bigint PRIMARY KEY, name int NOT NULL);
CREATE TABLE referee.move (tx bigint PRIMARY KEY, name int NOT NULL, place bigint NOT NULL);
CREATE TABLE referee.pile (tx bigint NOT NULL, note text NOT NULL);
CREATE TABLE referee.item (id bigserial PRIMARY KEY, tx bigint NOT NULL UNIQUE, note text NOT NULL);
CREATE TABLE referee.document (id int PRIMARY KEY, tx bigint NOT NULL, changes int NOT NULL DEFAULT 0,
  edition bigint NOT NULL DEFAULT 0, body text NOT NULL);
ALTER TABLE referee.document ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE referee.scratch (tx bigint PRIMARY KEY, first boolean NOT NULL);
CREATE SEQUENCE referee.ticket;
INSERT INTO referee.account SELECT i, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) i;
INSERT INTO referee.list (id) SELECT i FROM generate_series(1, {LISTS}) i;
INSERT INTO referee.token SELECT -i, i FROM generate_series(1, {TOKENS}) i;
"""


def prepare(dsn: str) -> None:
    """Make the tables and fill them."""
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(SCHEMA.encode())
        with session.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO referee.document (id, tx, body) VALUES (%s, 0, %s)",
                [(number, body(number, 0)) for number in range(1, DOCUMENTS + 1)],
            )


def body(document: int, edition: int) -> str:
    """The text of a document's edition: nothing that compresses, and known without looking."""
    parts = (hashlib.md5(f"{document}/{edition}/{n}".encode()).hexdigest() for n in range(_BODY_PARTS))
    return "".join(parts)


def digests(dsn: str) -> dict[str, tuple[int, str]]:
    """Count and digest of every table of the application's, by SQL that nobody else uses."""
    found: dict[str, tuple[int, str]] = {}
    with psycopg.connect(dsn) as session:
        session.execute("SET extra_float_digits = 3; SET timezone = 'UTC'; SET datestyle = 'ISO'")
        tables = session.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN"
            " ('pg_catalog', 'information_schema', 'planrunner') ORDER BY 1"
        ).fetchall()
        for (table,) in tables:
            # A sum does not mind the order of rows, and counts one that is there twice.
            row = session.execute(
                "SELECT count(*), coalesce(sum(('x' || substr(md5(whole_row::text), 1, 15))::bit(60)::bigint"
                f"::numeric), 0)::text FROM {table} whole_row".encode()
            ).fetchone()
            assert row is not None
            found[table] = (row[0], row[1])
    return found
