"""The comparison tells whole copies from broken ones, and writes what it measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, LiteralString

import psycopg

from tests.benchmarks.contestants import Pipe, Settings
from tests.benchmarks.data import CASES
from tests.benchmarks.run import main
from tests.benchmarks.stage import stage

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = Settings(jobs=2, index_jobs=2, own_jobs=False, pgcopydb=None)


DAMAGE: dict[LiteralString, str] = {
    "DELETE FROM t_3 WHERE id = 7": "public.t_3",
    "UPDATE t_2 SET name = 'other' WHERE id = 7": "public.t_2",
    "DROP TABLE t_1": "public.t_1",
    "DROP INDEX t_4_name": "t_4_name",
    "ALTER TABLE t_5 DROP CONSTRAINT t_5_other_fkey": "t_5_other_fkey",
}


def test_a_copy_that_lacks_anything_does_not_count(tmp_path: Path) -> None:
    with stage(CASES["c"], scale=0.005, delay=0) as scene:
        for statement, named in DAMAGE.items():
            scene.fresh_target()
            assert scene.missing() != ""
            assert Pipe(SETTINGS).copy(scene, tmp_path).code == 0
            assert scene.missing() == ""
            with psycopg.connect(scene.target_dsn) as session:
                session.execute(statement)
            assert named in scene.missing()


def test_a_run_writes_every_measurement_and_what_made_it(tmp_path: Path) -> None:
    chosen = ["--contestants", "planrunner,dump | restore,floor", "--rounds", "2", "--scale", "0.001"]
    assert main(["--case", "a", *chosen, "--out", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "a.scale-0.001.json").read_text())
    assert [(m["contestant"], m["round"], m["failed"]) for m in written["measurements"]] == [
        *((name, 1, "") for name in ("planrunner", "dump | restore", "floor")),
        *((name, 2, "") for name in ("dump | restore", "floor", "planrunner")),
    ]
    assert all(m["wall"] > 0 for m in written["measurements"])
    assert written["measurements"][0]["cpu"] > 0
    assert {"copy", "indexes"} <= set(written["measurements"][0]["phases"])
    assert written["medians"]["planrunner"]["wall_to_floor"] > 0
    assert {"source", "target", "planrunner"} <= set(written["versions"])
