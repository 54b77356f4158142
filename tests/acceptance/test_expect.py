"""``run --expect``: a saved preview binds the run, and only what matters makes it stale."""

from __future__ import annotations

import json

import psycopg

from planrunner.sandbox.demo import stage
from tests.acceptance.helpers import contents, run

SCALE = 0.02


def test_a_changed_world_is_refused_and_what_does_not_matter_is_not() -> None:
    with stage(None, None, scale=SCALE) as scene:
        saved = scene.folder / "preview.json"
        shown = run(scene, "--out", str(saved), verb="preview")
        assert shown.returncode == 0, shown.stderr
        text = saved.read_text()
        assert scene.source_database.password not in text
        assert scene.target_database.password not in text
        seen = json.loads(text)["seen"]
        assert seen["source"]["parameters"]["wal_level"] == "replica"
        assert seen["rds"]["parameter_group"] == "default.postgres16"
        assert len(seen["source"]["tables"]) > 10

        expecting = ("--expect", str(saved), "--yes", "--no-input")
        with psycopg.connect(scene.source_database.superuser_dsn, autocommit=True) as source:
            source.execute("CREATE TABLE extra (id int PRIMARY KEY); ALTER TABLE extra OWNER TO shop_owner")
            refused = run(scene, *expecting)
            assert refused.returncode == 8, refused.stdout + refused.stderr
            assert "source: table public.extra is new" in refused.stderr
            assert not scene.plan.with_name(f"{scene.plan.name}.state.json").exists()
            assert scene.api.changes == []
            source.execute("DROP TABLE extra")
            source.execute("INSERT INTO audit_log SELECT * FROM audit_log")

        killed = run(scene, *expecting, failpoints="copy.after_commit:kill")
        assert killed.returncode == -9, killed.stdout[-2000:] + killed.stderr
        plan = scene.plan.read_text()
        scene.plan.write_text(plan.replace("uses: sync", "uses: sync\n    with: {max_lag: 1MB}"))
        edited = run(scene, *expecting)
        assert edited.returncode == 8, edited.stdout[-2000:] + edited.stderr
        assert "the plan was edited" in edited.stderr
        scene.plan.write_text(plan)
        resumed = run(scene, *expecting)
        assert resumed.returncode == 0, resumed.stdout[-2000:] + resumed.stderr
        assert contents(scene.source_database.superuser_dsn) == contents(scene.target_database.superuser_dsn)
