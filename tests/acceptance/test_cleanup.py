"""After a whole migration: cleanup lists what it removed, and names whatever is still on either server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import psycopg

from planrunner.sandbox.demo import Stage, stage
from tests.acceptance.helpers import run, state_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SCALE = 0.02
OTHER = "pr_fedcba98_g1"
SYNC = "pg_16999_sync_16385_7000000000000000001"


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


def plant(scene: Stage, prefix: str, plan: str) -> Sequence[str]:
    """One of each kind that a migration could leave; returns what must be read of them."""
    source, target = scene.source_database.superuser_dsn, scene.target_database.superuser_dsn
    execute(
        source,
        f"SELECT pg_create_logical_replication_slot('{prefix}left', 'pgoutput')",
        f"SELECT pg_create_logical_replication_slot('{OTHER}', 'pgoutput')",
        f"SELECT pg_create_logical_replication_slot('{SYNC}', 'pgoutput')",
        f"CREATE PUBLICATION {prefix}left FOR TABLE public.products",
        f"CREATE SUBSCRIPTION {prefix}left CONNECTION 'port=1' PUBLICATION p WITH (connect = false)",
        f"CREATE FUNCTION planrunner.left_{plan}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        f"CREATE TRIGGER planrunner_left BEFORE TRUNCATE ON public.products EXECUTE FUNCTION planrunner.left_{plan}()",
    )
    execute(
        target,
        "CREATE SCHEMA IF NOT EXISTS planrunner",
        f"CREATE TABLE planrunner.barrier_{plan}_9 (token uuid)",
        f"CREATE FUNCTION planrunner.stop_{plan}_9() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "SET allow_system_table_mods = on",
        "INSERT INTO pg_replication_origin VALUES (60000, 'pg_999999')",
    )
    return [
        f"left: source: slot {prefix}left: keeps WAL",
        f"SELECT pg_drop_replication_slot('{prefix}left')",
        f"left: source: slot {OTHER} (another plan)",
        f"left: source: sync slot {SYNC} (unknown)",
        f"left: source: publication {prefix}left",
        f'DROP SUBSCRIPTION "{prefix}left"',
        "left: source: trigger planrunner_left on public.products",
        f"left: target: barrier table barrier_{plan}_9",
        f"left: target: function stop_{plan}_9()",
        "left: target: replication origin pg_999999 (unknown)",
        "left: target: schema planrunner",
    ]


def test_cleanup_lists_what_it_removed_and_names_what_is_left() -> None:
    with stage(None, None, scale=SCALE) as scene:
        moved = run(scene, "--yes", "--no-input")
        assert moved.returncode == 0, moved.stdout[-2000:] + moved.stderr
        plan = state_of(scene)["plan_id"]
        expected = plant(scene, prefix := f"pr_{plan}_", plan)
        cleaned = run(scene, "--yes", verb="cleanup")
        told = cleaned.stdout + cleaned.stderr
        assert cleaned.returncode == 1, told
        for line in expected:
            assert line in cleaned.stdout, told
        assert "  removed: target: remove this plan's ledger" in cleaned.stdout
        assert "  removed: source: put back the replica identity of" in cleaned.stdout
        assert "REPLICA IDENTITY DEFAULT" in cleaned.stdout
        assert "kept on purpose: keeps this side read-only" in cleaned.stdout
        assert f"slot {prefix}left" in cleaned.stderr
        # What harms is removed as it was told; the rest stays, and is no reason to fail.
        execute(
            scene.source_database.superuser_dsn,
            f"SELECT pg_drop_replication_slot('{prefix}left')",
            f"DROP PUBLICATION {prefix}left",
            f"ALTER SUBSCRIPTION {prefix}left SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {prefix}left",
            f"DROP FUNCTION planrunner.left_{plan}() CASCADE",
        )
        again = run(scene, "--yes", "--output", "json", verb="cleanup")
        assert again.returncode == 0, again.stdout + again.stderr
        last = json.loads(again.stdout.splitlines()[-1])
        assert last["removed"] == []
        left = {(r["side"], r["kind"], r["name"]): r for r in last["left"]}
        assert left["source", "slot", OTHER]["ours"] == "another plan"
        assert [r["name"] for r in last["left"] if r["kept"]] != []
