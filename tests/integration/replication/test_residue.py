"""Whatever a migration can leave is found by looking at the servers, with whose it is, its harm and its removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.model import Belongs, Residue, Side
from planrunner.postgres.grants import Grant, Kind
from planrunner.replication import fence, generations, identities, logins, residue
from tests.integration.replication.conftest import Streams, dsn_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.sandbox.servers import PostgresServer

    Make = Callable[..., Streams]

OTHER = "pr_fedcba98_"


def found(streams: Streams) -> dict[tuple[str, str, str], Residue]:
    space = streams.space
    return {(r.side.value, r.kind, r.name): r for r in residue.scan(space.source, space.target, space.names)}


def carry_out(streams: Streams, residues: list[Residue]) -> None:
    """Remove everything exactly as it is told."""
    for each in residues:
        side = streams.space.source if each.side is Side.SOURCE else streams.space.target
        with psycopg.connect(dsn_of(side), autocommit=True) as session:
            session.execute(each.statement.encode())


@pytest.fixture
def pair(streams: Make, source_server: PostgresServer, target_server: PostgresServer) -> Streams:
    return streams(source_server, target_server)


def test_a_migration_that_was_abandoned_is_named_whole(pair: Streams) -> None:
    name, plan = pair.name, pair.space.names.plan_id
    there = found(pair)
    assert there["source", "slot", name].harmful
    assert "keeps WAL" in there["source", "slot", name].harm
    assert there["source", "publication", name].ours is Belongs.THIS_PLAN
    assert there["target", "subscription", name].harmful
    assert ("source", "barrier table", f"barrier_{plan}_1") in there
    assert ("target", "barrier table", f"barrier_{plan}_1") in there
    ledger = [r for (side, kind, _), r in there.items() if (side, kind) == ("target", "ledger")]
    assert [r.ours for r in ledger] == [Belongs.THIS_PLAN]
    generations.clear_all(pair.space)
    logins.drop(pair.space, pair.space.source)
    assert not [r for r in found(pair).values() if r.harmful and r.ours is Belongs.THIS_PLAN]


def test_every_kind_is_named_on_either_side_and_removed_as_told(
    streams: Make, old_server: PostgresServer, source_server: PostgresServer
) -> None:
    pair = streams(source_server, old_server, following=False)
    space, plan = pair.space, pair.space.names.plan_id
    prefix = f"pr_{plan}_"
    pair.source(
        f"SELECT pg_create_logical_replication_slot('{prefix}v', 'pgoutput')",
        f"CREATE PUBLICATION {prefix}r1_2 FOR TABLE orders",
        f"CREATE PUBLICATION {OTHER}g1 FOR TABLE lines",
        f'CREATE PUBLICATION "{prefix}odd ""x\';--%s{{}}" FOR TABLE lines',
        f"CREATE ROLE {prefix}login",
        f"GRANT SELECT ON orders TO {prefix}login",
        f"CREATE SUBSCRIPTION {prefix}b1 CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
        f"CREATE FUNCTION planrunner.truncated_{plan}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        f"CREATE TRIGGER planrunner_truncate BEFORE TRUNCATE ON orders EXECUTE FUNCTION planrunner.truncated_{plan}()",
        "SET allow_system_table_mods = on",
        "INSERT INTO pg_replication_origin VALUES (60000, 'pg_999999')",
    )
    pair.target(
        f"SELECT pg_create_logical_replication_slot('{prefix}b1', 'pgoutput')",
        f"CREATE PUBLICATION {prefix}b1 FOR TABLE orders",
        f"CREATE FUNCTION planrunner.stop_{plan}_1(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        f"SELECT pg_create_logical_replication_slot('{OTHER}g1', 'pgoutput')",
        "SELECT pg_create_logical_replication_slot('pg_16999_sync_16385_7000000000000000001', 'pgoutput')",
    )
    there = found(pair)
    planted = {
        ("source", "slot", f"{prefix}v"): Belongs.THIS_PLAN,
        ("source", "publication", f"{prefix}r1_2"): Belongs.THIS_PLAN,
        ("source", "publication", f"{OTHER}g1"): Belongs.ANOTHER_PLAN,
        ("source", "publication", f"{prefix}odd \"x';--%s{{}}"): Belongs.THIS_PLAN,
        ("source", "role", f"{prefix}login"): Belongs.THIS_PLAN,
        ("source", "subscription", f"{prefix}b1"): Belongs.THIS_PLAN,
        ("source", "trigger", "planrunner_truncate on public.orders"): Belongs.THIS_PLAN,
        ("source", "replication origin", "pg_999999"): Belongs.UNKNOWN,
        ("target", "slot", f"{prefix}b1"): Belongs.THIS_PLAN,
        ("target", "publication", f"{prefix}b1"): Belongs.THIS_PLAN,
        ("target", "function", f"stop_{plan}_1(integer, text)"): Belongs.THIS_PLAN,
        ("target", "slot", f"{OTHER}g1"): Belongs.ANOTHER_PLAN,
        ("target", "sync slot", "pg_16999_sync_16385_7000000000000000001"): Belongs.UNKNOWN,
    }
    assert {key: there[key].ours for key in planted} == planted
    carry_out(pair, [there[key] for key in planted])
    assert not planted.keys() & found(pair).keys()
    assert space.names.stream(1) in {name for _, _, name in found(pair)}, "what was not asked for stays"


def test_what_only_the_ledger_remembers_is_named_until_it_is_put_back(pair: Streams) -> None:
    space = pair.space
    pair.source("CREATE ROLE reader", 'CREATE TABLE "odd ""x" (a int)')
    table = '"odd ""x"'
    pair.source(f"ALTER TABLE {table} REPLICA IDENTITY FULL", f"GRANT SELECT ON {table} TO reader")
    space.done(identities.STEP, "x", {"schema": "public", "name": 'odd "x', "was": "d"})
    grant = Grant(kind=Kind.TABLE, schema="public", names=('odd "x',), login="reader")
    space.done("grant", grant.key, grant.detail())
    there = found(pair)
    changed = there["source", "replica identity", 'public."odd ""x"']
    given = there["source", "grant", 'table odd "x to reader']
    assert changed.harmful
    assert given.harmful
    carry_out(pair, [changed, given])
    assert ("source", "replica identity", 'public."odd ""x"') not in found(pair)
    assert pair.source(f"SELECT has_table_privilege('reader', '{table}', 'SELECT')") == [(False,)]
    pair.source(f"DROP TABLE {table}", "DROP ROLE reader")


def test_a_closed_fence_is_kept_on_purpose_but_not_on_both_sides_nor_an_open_one(pair: Streams) -> None:
    names = pair.space.names
    closed = (
        f"CREATE FUNCTION planrunner.{names.fence_function}() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'moved'; END $$"
    )
    opened = closed.replace("CREATE", "CREATE OR REPLACE").replace(
        "RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE = 'moved'", "RETURN NULL"
    )
    for execute in (pair.source, pair.target):
        execute(
            closed,
            *(
                f"CREATE TRIGGER {fence.FENCE_TRIGGER} BEFORE INSERT ON {table} EXECUTE FUNCTION"
                f" planrunner.{names.fence_function}()"
                for table in ("orders", "lines")
            ),
        )
    name = f"{fence.FENCE_TRIGGER} on public.lines and 1 more tables"
    for side in ("source", "target"):
        both = found(pair)[side, "trigger", name]
        assert (both.kept, both.harmful) == (False, True)
        assert "nobody can write" in both.harm
    pair.target(opened)
    there = found(pair)
    kept = there["source", "trigger", name]
    assert (kept.kept, kept.harmful) == (True, False)
    assert "kept on purpose" in str(kept)
    assert not there["target", "trigger", name].kept
    carry_out(pair, [there[side, "trigger", name] for side in ("source", "target")])
    pair.source("INSERT INTO lines VALUES (1, 1)")
    assert not any(kind == "trigger" for _, kind, _ in found(pair))


def test_sessions_of_ours_are_named_but_not_the_caller_s(pair: Streams) -> None:
    assert not any(kind == "session" for _, kind, _ in found(pair))
    label = f"planrunner/{pair.space.names.plan_id}"
    with psycopg.connect(dsn_of(pair.space.target), application_name=label) as other:
        other.execute("SELECT 1")
        sessions = [r for (_, kind, _), r in found(pair).items() if kind == "session"]
        assert [(r.side, r.ours, r.harmful) for r in sessions] == [(Side.TARGET, Belongs.THIS_PLAN, False)]
        assert str(other.info.backend_pid) in sessions[0].statement


def test_two_databases_of_one_server_show_a_slot_once(streams: Make, source_server: PostgresServer) -> None:
    pair = streams(source_server, source_server, following=False)
    space = pair.space
    all_found = residue.scan(space.source, space.target, space.names)
    assert [r.name for r in all_found if r.kind == "slot"].count(pair.name) == 1
