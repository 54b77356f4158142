"""``planrunner verify`` as a person uses it: find, cover, sample, repair."""

from __future__ import annotations

import json

import psycopg

from planrunner.sandbox.demo import stage
from tests.acceptance.helpers import contents, run

SCALE = 0.02


def test_differences_are_shown_covered_sampled_and_repaired() -> None:
    with stage(None, None, scale=SCALE) as scene:
        assert run(scene, "--no-input", "--until", "follow", "--yes").returncode == 0
        clean = run(scene, verb="verify")
        assert clean.returncode == 0, clean.stdout + clean.stderr
        with psycopg.connect(scene.target_database.superuser_dsn) as session:
            session.execute("UPDATE products SET title = 'hush' WHERE id = (SELECT min(id) FROM products)")
        found = run(scene, verb="verify")
        assert found.returncode == 7
        assert "1 changed" in found.stdout
        assert "'hush'" in found.stdout
        assert scene.environment()["SOURCE_PASSWORD"] not in found.stdout + found.stderr
        covered = run(scene, "--no-values", "--output", "json", verb="verify")
        assert covered.returncode == 7
        assert "hush" not in covered.stdout
        assert json.loads(covered.stdout)["rows"][0]["shown"][0]["kind"] == "changed"
        assert run(scene, "--tables", "public.order*", verb="verify").returncode == 0
        assert run(scene, "--tables", "public.none", verb="verify").returncode == 2
        assert run(scene, "--sample", "one", verb="verify").returncode == 2
        sampled = run(scene, "--sample", "1%", "--tables", "public.order*", verb="verify")
        assert sampled.returncode == 0
        assert "does not prove" in " ".join(sampled.stdout.split())
        refused = run(scene, "--repair", "--no-input", verb="verify")
        assert refused.returncode == 4
        assert "UPDATE ONLY" in refused.stdout
        mended = run(scene, "--repair", "--yes", verb="verify")
        assert mended.returncode == 0, mended.stdout + mended.stderr
        assert contents(scene.source_database.superuser_dsn) == contents(scene.target_database.superuser_dsn)
