"""A whole migration whose subscription has a role of its own: passwords are rotated, and rights are as they were."""

from __future__ import annotations

import secrets
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.sandbox.demo import Stage, stage
from tests.acceptance.helpers import contents, run
from tests.rights import EVERYTHING
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Callable

SENDERS = "SELECT usename::text FROM pg_stat_replication WHERE application_name LIKE 'pr\\_%'"


def execute(scene: Stage, *statements: str) -> list[tuple[Any, ...]]:
    """Execute on the source as its superuser."""
    with psycopg.connect(scene.source_database.superuser_dsn, autocommit=True) as session:
        found: list[tuple[Any, ...]] = []
        for statement in statements:
            cursor = session.execute(statement.encode())
            found = cursor.fetchall() if cursor.description else []
        return found


def with_two_owners(scene: Stage) -> None:
    """Let the source be as RDS is: a master user with CREATEROLE, and tables of several owners."""
    options = " WITH ADMIN TRUE, INHERIT FALSE, SET FALSE" if scene.source.version[0] >= 16 else ""
    execute(
        scene,
        "ALTER ROLE migrator CREATEROLE",
        "CREATE ROLE other_owner NOLOGIN",
        *([f"GRANT other_owner TO migrator{options}"] if options else []),
        "CREATE SCHEMA others AUTHORIZATION other_owner",
        "SET ROLE other_owner; CREATE TABLE others.notes (id int PRIMARY KEY); RESET ROLE",
        "INSERT INTO others.notes VALUES (1)",
    )


def roles(scene: Stage) -> str:
    """Every role, attribute and membership as pg_dumpall writes them."""
    dumped = subprocess.run(
        [
            server_bin(18) / "pg_dumpall",
            "--roles-only",
            "--no-role-passwords",
            f"--dbname={scene.source_database.superuser_dsn}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    # Each dump has a token of its own, which guards psql.
    return "\n".join(line for line in dumped.stdout.splitlines() if not line.startswith(("\\", "--")))


def rotated(scene: Stage) -> Stage:
    """The same stage once the plan's login on the source has another password."""
    password = secrets.token_urlsafe(12)
    with psycopg.connect(scene.source_database.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("ALTER ROLE migrator PASSWORD {}").format(sql.Literal(password)))
    return replace(scene, source_database=replace(scene.source_database, password=password))


def wait_until(true: Callable[[], bool]) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + 60
    while not true():
        assert clock.monotonic() < deadline, "did not happen within a minute"
        clock.sleep(0.1)


@pytest.mark.parametrize("major", [15, pytest.param(16, marks=pytest.mark.soak)])
def test_rotated_password_disturbs_nobody_and_cleanup_leaves_the_rights_as_they_were(major: int) -> None:
    with stage(server_bin(major), None, scale=0.02) as scene:
        with_two_owners(scene)
        before, described = execute(scene, EVERYTHING), roles(scene)
        followed = run(scene, "--yes", "--no-input", "--until", "follow")
        assert followed.returncode == 0, followed.stdout[-2000:] + followed.stderr
        ((sender,),) = execute(scene, SENDERS)
        assert sender.startswith("pr_")
        assert sender.endswith("_login")
        later = rotated(scene)
        execute(
            scene,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_replication",
            "INSERT INTO others.notes VALUES (2)",
        )
        target = scene.target_database.superuser_dsn
        wait_until(lambda: contents(target)["others.notes"][0] == 2)

        moved = run(later, "--yes", "--no-input")
        assert moved.returncode == 0, moved.stdout[-2000:] + moved.stderr
        cleaned = run(later, "--yes", verb="cleanup")
        assert cleaned.returncode == 0, cleaned.stdout[-2000:] + cleaned.stderr

        assert contents(scene.source_database.superuser_dsn) == contents(target)
        # A stand-in for RDS takes the attribute from the login a moment after the membership.
        wait_until(lambda: execute(scene, EVERYTHING) == before)
        assert roles(scene) == described


def test_killed_between_password_and_subscription_a_resume_follows_and_reverses() -> None:
    with stage(None, None, scale=0.02) as scene:
        with_two_owners(scene)
        scene.plan.write_text(
            scene.plan.read_text().replace("approval: manual", "approval: manual\n    with: {reverse: true}")
        )
        scene.target.restart({"wal_level": "logical"})
        execute(scene, "GRANT pg_create_subscription TO migrator")
        with psycopg.connect(scene.target_database.superuser_dsn, autocommit=True) as session:
            session.execute("ALTER ROLE migrator REPLICATION")
        for failpoint in ("login.password_set", "login.handed_over"):
            killed = run(scene, "--yes", "--no-input", failpoints=f"{failpoint}:kill")
            assert killed.returncode == -9, killed.stdout[-2000:] + killed.stderr
        moved = run(scene, "--yes", "--no-input")
        assert moved.returncode == 0, moved.stdout[-2000:] + moved.stderr
        back = conninfo.make_conninfo(scene.target_database.superuser_dsn)
        with psycopg.connect(back, autocommit=True) as session:
            row = session.execute(SENDERS.encode()).fetchone()
        assert row is not None
        assert row[0].endswith("_login_back")

        returned = run(scene, "--yes", verb="rollback")
        assert returned.returncode == 0, returned.stdout[-2000:] + returned.stderr
        cleaned = run(scene, "--yes", verb="cleanup")
        assert cleaned.returncode == 0, cleaned.stdout[-2000:] + cleaned.stderr

        left = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'pr\\_%'"
        assert execute(scene, left) == [(0,)]
        with psycopg.connect(back) as session:
            assert session.execute(left.encode()).fetchone() == (0,)
