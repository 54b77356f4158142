"""The grants that ``preview --privileges`` writes are enough for a whole migration, and none of them is too many."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import psycopg

from planrunner.sandbox.demo import Stage, stage
from tests.acceptance.helpers import contents, run

if TYPE_CHECKING:
    from planrunner.sandbox.rds_like import Database

SCALE = 0.02
# What the preview says when the grant is missing; each pattern is met by one statement of a script.
NAMED = {
    r"source: GRANT \"rds_replication\".*": 'Missing REPLICATION privilege: role "mover" lacks rds_replication',
    r"source: GRANT \"shop_owner\".*": "Lacks the owner's rights on 16 tables of shop_owner",
    r"source: GRANT \"pg_create_subscription\".*": 'Can\'t create subscriptions: "mover" lacks pg_create_subscription',
    r"target: ALTER DATABASE \"shop\" OWNER TO .*": 'Lacks CREATE on database "shop"',
    r"target: ALTER ROLE \"mover\" CREATEROLE;": "Can't create 3 missing roles",
    r"target: GRANT \"pg_create_subscription\".*": 'Can\'t create subscriptions: "mover" lacks pg_create_subscription',
    r"target: ALTER ROLE \"mover\" REPLICATION;": 'Target\'s login "mover" may not replicate',
}
UNDONE = (
    (r"GRANT (.*?) TO (\"mover\").*", r"REVOKE \1 FROM \2"),
    (r"ALTER ROLE (\"mover\") (CREATEROLE|REPLICATION);", r"ALTER ROLE \1 NO\2"),
    (r"ALTER DATABASE (.*) OWNER TO \"mover\";", r"ALTER DATABASE \1 OWNER TO postgres"),
)


def execute(database: Database, *statements: str) -> None:
    with psycopg.connect(database.superuser_dsn, autocommit=True) as session:
        for statement in statements:
            session.execute(statement.encode())


def with_fresh_logins(scene: Stage) -> list[tuple[str, str]]:
    """Give both servers a login ``mover`` with what the scripts grant and nothing else; the scripts, with sides."""
    needed: dict[str, Any] = json.loads(run(scene, "--privileges", "--format", "json", verb="preview").stdout)
    scripts: list[tuple[str, str]] = []
    for side, database in (("source", scene.source_database), ("target", scene.target_database)):
        execute(database, f"CREATE ROLE mover LOGIN PASSWORD '{database.password}'")
        for line in needed[side]:
            statement = line["statement"].replace('"migrator"', '"mover"')
            execute(database, statement)
            scripts.append((side, statement))
    scene.plan.write_text(scene.plan.read_text().replace("migrator@", "mover@"))
    return scripts


def undo(statement: str) -> str:
    return next(re.sub(done, undone, statement) for done, undone in UNDONE if re.fullmatch(done, statement))


def test_fresh_logins_with_the_scripts_alone_carry_a_whole_migration_and_each_grant_is_missed() -> None:
    with stage(None, None, scale=SCALE) as scene:
        text = scene.plan.read_text()
        scene.plan.write_text(text.replace("approval: manual", "approval: manual\n    with: {reverse: true}"))
        scene.target.restart({"wal_level": "logical"})
        scripts = with_fresh_logins(scene)
        databases = {"source": scene.source_database, "target": scene.target_database}
        assert len(scripts) == len(NAMED)
        for side, statement in scripts:
            execute(databases[side], undo(statement))
            lacking = run(scene, "--detailed-exitcode", verb="preview")
            execute(databases[side], statement)
            expected = next(
                told for pattern, told in NAMED.items() if re.fullmatch(pattern, f"{side}: {statement}")
            )
            assert lacking.returncode == 1, statement
            assert f"✗ {expected}" in lacking.stdout, statement
        moved = run(scene, "--yes", "--no-input")
        assert moved.returncode == 0, moved.stdout[-3000:] + moved.stderr
        assert contents(scene.source_database.superuser_dsn) == contents(scene.target_database.superuser_dsn)
