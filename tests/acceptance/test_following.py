"""What goes wrong while the target follows is told by the command line, and mended as it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents, slots
from tests.acceptance.test_versions import PLAN, create, planrunner

if TYPE_CHECKING:
    from pathlib import Path


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


def test_a_collision_and_ddl_stop_the_run_and_are_mended_as_told(tmp_path: Path) -> None:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        ours = create(source, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')")
        theirs = create(target)
        plan, both = tmp_path / "plan.yaml", (source, target)
        plan.write_text(PLAN.format(source=source.port, target=target.port))
        assert planrunner(tmp_path, both, "run", "plan.yaml", "--no-input", "--until", "copy")[0] == 0
        execute(theirs, "INSERT INTO t VALUES (2, 'not ours')")
        execute(ours, "INSERT INTO t VALUES (2, 'two')")

        code, text = planrunner(tmp_path, both, "run", "plan.yaml", "--no-input")
        assert code == 1, text
        assert "can't apply INSERT of public.t, key (id)=(2), in the transaction that ended at" in text
        remedy = """DELETE FROM "public"."t" WHERE "id" = '2';"""
        assert remedy in " ".join(text.split())
        code, text = planrunner(tmp_path, both, "status", "plan.yaml")
        assert code == 0, text
        assert "worker " in text
        assert "slot reserved, retained " in " ".join(text.split())

        execute(theirs, remedy)
        execute(ours, "ALTER TABLE t ADD COLUMN more int")
        code, text = planrunner(tmp_path, both, "run", "plan.yaml", "--no-input")
        assert code == 1, text
        assert "column more integer was added after the copy began" in " ".join(text.split())
        execute(theirs, 'ALTER TABLE "public"."t" ADD COLUMN "more" integer')
        execute(ours, "INSERT INTO t VALUES (3, 'three', 3)")
        code, text = planrunner(tmp_path, both, "run", "plan.yaml", "--no-input")
        assert code == 0, text
        assert contents(ours) == contents(theirs)
        assert slots(ours) == []
