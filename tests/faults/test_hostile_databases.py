"""Databases with hostile names: dialled, dumped, read by psql, subscribed to from the other side, and migrated."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.loading.build import load
from planrunner.model import Secret, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication import copy, schema_dump, subscriptions
from planrunner.replication.feeds import Psql
from planrunner.replication.names import Names
from planrunner.replication.units import Unit
from tests.faults import scene
from tests.faults.hostile_names import CANARY, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.timeout(1800)

TABLE = 'a "b" %s {}'
DUMPED_EVERY = 5
# Run through from beginning to end in every run of the tests; the others in the soak.
WHOLE = ("dbname=x' user='y", f'"; DROP TABLE {CANARY}; --', "a\n", "%2e%2F%00")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with scene.servers() as both:
        yield both


@pytest.fixture
def script() -> str:
    table = sql.Identifier(TABLE).as_string()
    return f"CREATE TABLE {table} (id int PRIMARY KEY, word text);" + (
        f"INSERT INTO {table} SELECT n, n::text FROM generate_series(1, 100) n"
    )


def lead(one: scene.Migration, name: str) -> None:
    """Let the scene's plan lead to databases of that name."""
    written = scene.PLAN.format(
        name="NAME", source=one.source.port, target=one.target.port, copy="", follow="", over=""
    )
    one.plan.write_text(
        written.replace("/NAME?", f"/{quote(name, safe='')}?").replace("name: NAME", "name: n")
    )


@contextmanager
def opened(one: scene.Migration, side: Side) -> Iterator[Server]:
    """One side of the scene's plan as the product dials it."""
    plan, server = load(one.plan), one.source if side is Side.SOURCE else one.target
    made = Server(
        plan.source if side is Side.SOURCE else plan.target,
        clock=SystemClock(),
        resolve=lambda _: Secret(server.password),
        label="planrunner test",
    )
    try:
        yield made
    finally:
        made.close()


def renamed(one: scene.Migration, before: str, after: str) -> None:
    for server in (one.source, one.target):
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            # A session that was closed a moment ago may not be gone yet.
            session.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = %s", [before]
            )
            statement = sql.SQL("ALTER DATABASE {} RENAME TO {}")
            session.execute(statement.format(sql.Identifier(before), sql.Identifier(after)))


def test_every_database_is_reached_by_every_way_there_is(
    pair: tuple[PostgresServer, PostgresServer],
    tmp_path: Path,
    script: str,
    record_property: Callable[[str, object], None],
) -> None:
    with scene.migration(pair, tmp_path, "plain", script) as one:
        called = "plain"
        try:
            for number, hostile in enumerate(NAMES):
                renamed(one, called, hostile.name)
                called = hostile.name
                _reached(one, called, dumped=number % DUMPED_EVERY == 0)
        finally:
            renamed(one, called, "plain")
    record_property("cases", len(NAMES))


def _reached(one: scene.Migration, name: str, *, dumped: bool) -> None:
    lead(one, name)
    with opened(one, Side.SOURCE) as source, opened(one, Side.TARGET) as target:
        for server in (source, target):
            assert server.value("SELECT current_database()") == name
        _subscribed(source, target, one.source.password)
        _read_by_psql(source)
        if dumped:
            schema = schema_dump.dumped(source, target, schema_dump.Wishes())
            assert [entry.name for entry in schema.pre_data.entries if entry.type == "TABLE"] == [TABLE]


def _subscribed(source: Server, target: Server, password: str) -> None:
    names = Names(plan_id="0" * 8)
    dial = {**subscriptions.dial_parameters(source), "password": password}
    with target.session() as session:
        # The server itself dials the other one, by what it was given.
        session.execute(subscriptions.statement(dial, names, 1))
        told = session.execute("SELECT subconninfo FROM pg_subscription").fetchone()
        assert told is not None
        assert psycopg.conninfo.conninfo_to_dict(told[0])["dbname"] == source.value(
            "SELECT current_database()"
        )
        subscription = sql.Identifier(names.stream(1))
        session.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(subscription))
        session.execute(sql.SQL("DROP SUBSCRIPTION {}").format(subscription))


def _read_by_psql(source: Server) -> None:
    (table,) = catalog.tables(source)
    psql = Psql.find(source)
    assert psql is not None
    with source.open(read_only=True, autocommit=False) as keeper:
        row = keeper.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        with psql.feed(source, row[0], copy.outgoing(Unit(table=table))) as feed:
            assert sum(map(len, feed.blocks())) > 0
            assert feed.rows() == 100


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(hostile.name, id=hostile.why, marks=() if hostile.name in WHOLE else (pytest.mark.soak,))
        for hostile in NAMES
    ],
)
def test_a_database_of_that_name_is_migrated(
    name: str, pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, script: str
) -> None:
    with scene.migration(pair, tmp_path, name, script) as one:
        lead(one, name)
        for verb in (("preview",), ("run", "--no-input"), ("verify",), ("status",)):
            said = one.succeeds(*verb)
            assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", said) is None
        one.assert_moved()
