"""The cutover: it waits for approval, rolls back on a difference or over its budget, and fences for good."""

from __future__ import annotations

import psycopg
import pytest

from planrunner.sandbox.demo import Stage, stage
from tests.acceptance.helpers import contents, run, slots

SCALE = 0.02


def write_to_source(scene: Stage) -> None:
    with psycopg.connect(scene.source_database.superuser_dsn) as session:
        session.execute("INSERT INTO audit_log SELECT * FROM audit_log LIMIT 1")


def follow(scene: Stage) -> None:
    """Run the plan up to the cutover, which waits for approval."""
    waiting = run(scene, "--no-input", "--until", "follow")
    assert waiting.returncode == 0, waiting.stdout[-2000:] + waiting.stderr


def test_the_cutover_waits_for_approval_and_goes_on_when_it_has_it() -> None:
    with stage(None, None, scale=SCALE) as scene:
        follow(scene)
        assert run(scene, "--no-input").returncode == 4
        write_to_source(scene)
        assert run(scene, "cutover", "--because", "quiet hour", verb="approve").returncode == 0
        moved = run(scene, "--no-input")
        assert moved.returncode == 0, moved.stdout[-2000:] + moved.stderr
        assert contents(scene.source_database.superuser_dsn) == contents(scene.target_database.superuser_dsn)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="has moved"):
            write_to_source(scene)


def test_a_changed_row_on_the_target_stops_the_cutover_before_any_writer_is_stopped() -> None:
    with stage(None, None, scale=SCALE) as scene:
        follow(scene)
        with psycopg.connect(scene.target_database.superuser_dsn) as session:
            session.execute(
                "UPDATE products SET price = price + 0.01 WHERE id = (SELECT min(id) FROM products)"
            )
        compared = run(scene, verb="verify")
        assert compared.returncode == 7
        assert "products" in compared.stdout + compared.stderr
        refused = run(scene, "--yes", "--no-input")
        assert refused.returncode == 7, refused.stdout[-2000:] + refused.stderr
        assert "public.products" in refused.stdout + refused.stderr
        write_to_source(scene)


def test_a_pause_over_its_budget_rolls_back_and_the_source_goes_on() -> None:
    with stage(None, None, scale=SCALE) as scene:
        text = scene.plan.read_text()
        short = text.replace("approval: manual", "approval: manual\n    with: {write_pause_budget: 1ms}")
        assert short != text
        scene.plan.write_text(short)
        follow(scene)
        over = run(scene, "--yes", "--no-input")
        assert over.returncode == 1, over.stdout[-2000:] + over.stderr
        assert "rolled back" in over.stdout + over.stderr
        write_to_source(scene)


def test_cleanup_of_an_abandoned_migration_leaves_nothing_on_the_source() -> None:
    with stage(None, None, scale=SCALE) as scene:
        follow(scene)
        source = scene.source_database.superuser_dsn
        assert len(slots(source)) == 1
        cleaned = run(scene, "--yes", verb="cleanup")
        assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
        assert slots(source) == []
        with psycopg.connect(source) as session:
            left = session.execute(
                "SELECT (SELECT count(*) FROM pg_publication),"
                " (SELECT count(*) FROM pg_namespace WHERE nspname = 'planrunner'),"
                " (SELECT count(*) FROM pg_class WHERE relreplident = 'f' AND relnamespace = 'public'::regnamespace),"
                " (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'planrunner%')"
            ).fetchone()
        assert left == (0, 0, 0, 0)
        write_to_source(scene)


@pytest.mark.parametrize("point", ["locked", "fenced", "barrier_passed", "before_commit", "after_commit"])
def test_a_kill_inside_the_cutover_leaves_one_writable_side_and_is_resumed(point: str) -> None:
    with stage(None, None, scale=SCALE) as scene:
        follow(scene)
        killed = run(scene, "--yes", "--no-input", failpoints=f"cutover.{point}:kill")
        assert killed.returncode == -9, killed.stdout[-2000:] + killed.stderr
        if point == "after_commit":
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                write_to_source(scene)
        else:
            write_to_source(scene)
        resumed = run(scene, "--yes", "--no-input")
        assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr
        assert contents(scene.source_database.superuser_dsn) == contents(scene.target_database.superuser_dsn)
        assert slots(scene.source_database.superuser_dsn) == []


def test_the_first_thousand_inserts_after_the_cutover_collide_with_nothing() -> None:
    with stage(None, None, scale=SCALE) as scene:
        moved = run(scene, "--yes", "--no-input")
        assert moved.returncode == 0, moved.stdout[-2000:] + moved.stderr
        with psycopg.connect(scene.target_database.superuser_dsn) as session:
            session.execute(
                "INSERT INTO products (sku, title, price) SELECT 'new-' || i, 'new', 1 FROM generate_series(1, 1000) i"
            )
        again = run(scene, verb="verify")
        assert again.returncode == 7
        assert "public.products" in again.stdout + again.stderr
