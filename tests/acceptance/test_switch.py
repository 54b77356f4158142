"""Traffic through a real PgBouncer: a client that writes all the time goes through the cutover without an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.test_versions import PLAN
from tests.bouncer import ADMIN_PASSWORD, Bench, Bouncer, entry
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RATE = 500
CLIENTS = 4
TABLES = "".join(
    f"CREATE TABLE t{n} (id bigserial PRIMARY KEY, v text); INSERT INTO t{n} (v) SELECT 'v' FROM generate_series(1, 50);"
    for n in range(10)
)
# Each acknowledged transaction leaves a row, and every client knows how many it got through.
SCRIPT = """\\set n random(1, 50)
BEGIN;
UPDATE t0 SET v = v || 'x' WHERE id = :n;
INSERT INTO t1 (v) VALUES ('client ' || :client_id::text);
END;
"""
SWITCH = """
    with:
      switch:
        - pgbouncer:
            admin: {admin}
            password: {{secret: {{env: POOL_PASSWORD}}}}
            database: app
            config: {config}
"""
COMMAND = """        - command:
            after_commit: [sh, -c, 'echo $PLANRUNNER_TO $PLANRUNNER_PORT >> led']
"""


@dataclass
class Traffic:
    """Both servers, the pooler before them, and the plan; ``bench`` is the client."""

    source: PostgresServer
    target: PostgresServer
    bouncer: Bouncer
    folder: Path
    program: tuple[str, ...] = (sys.executable, "-m", "planrunner")

    def run(self, *arguments: str, failpoints: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.folder,
            env={**self._environment(), "PLANRUNNER_FAILPOINTS": failpoints},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def rows(self, server: PostgresServer) -> int:
        """How many rows the client's transactions left."""
        with psycopg.connect(server.dsn("postgres", "app", password=server.password)) as session:
            row = session.execute("SELECT count(*) FROM t1 WHERE v LIKE 'client%'").fetchone()
            assert row is not None
            return int(row[0])

    def _environment(self) -> dict[str, str]:
        secrets = {"SOURCE_PASSWORD": self.source.password, "TARGET_PASSWORD": self.target.password}
        return {**os.environ, **secrets, "POOL_PASSWORD": ADMIN_PASSWORD}


def configured(source: PostgresServer, target: PostgresServer, options: str, database: str = "app") -> str:
    """The plan, with options for its cutover."""
    plan = PLAN.format(source=source.port, target=target.port).replace("/app?", f"/{database}?")
    bare = "  - {id: cutover, uses: cutover_verify}\n"
    assert bare in plan
    return plan.replace(bare, "  - id: cutover\n    uses: cutover_verify" + options)


@contextmanager
def traffic(folder: Path) -> Iterator[Traffic]:
    given: dict[str, Any] = {
        "password": "one for both",
        "max_life": 900.0,
        "settings": {"wal_level": "logical"},
    }
    with PostgresServer(server_bin(15), **given) as source, PostgresServer(wheel_bin(18), **given) as target:
        for server, script in ((source, TABLES), (target, "")):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                session.execute("CREATE DATABASE app")
            if script:
                with psycopg.connect(server.dsn("postgres", "app", password=server.password)) as session:
                    session.execute(script.encode())
        with Bouncer({"app": entry(source, "app")}) as bouncer:
            options = SWITCH.format(admin=bouncer.admin, config=bouncer.config) + COMMAND
            (folder / "plan.yaml").write_text(configured(source, target, options))
            yield Traffic(source=source, target=target, bouncer=bouncer, folder=folder)


def followed(scene: Traffic) -> None:
    """Run the plan up to the cutover."""
    ran = scene.run("run", "plan.yaml", "--no-input", "--until", "follow")
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr


def cut_over(scene: Traffic, *, failpoints: str = "", code: int = 0) -> str:
    ran = scene.run("run", "plan.yaml", "--no-input", "--yes", failpoints=failpoints)
    said = ran.stdout + ran.stderr
    assert ran.returncode == code, said[-3000:]
    return said


def bench(scene: Traffic, protocol: str) -> Bench:
    return Bench(scene.bouncer, SCRIPT, scene.folder, rate=RATE, clients=CLIENTS, protocol=protocol)


def test_a_client_at_full_speed_goes_through_the_cutover_without_an_error(tmp_path: Path) -> None:
    with traffic(tmp_path) as scene:
        followed(scene)
        shown = scene.run("preview", "plan.yaml").stdout
        with bench(scene, "simple") as client:
            client.wait_for(200)
            said = cut_over(scene)
            left = scene.rows(scene.source)
            client.wait_for(200)
        assert client.failed == 0, client.output
        assert scene.rows(scene.target) == client.acknowledged
        assert scene.rows(scene.source) == left < client.acknowledged
        assert (tmp_path / "led").read_text() == f"target {scene.target.port}\n"
        assert "PAUSE app" in shown
        assert f"port={scene.target.port}" in shown
        assert ADMIN_PASSWORD not in shown + said + (tmp_path / "plan.yaml.state.json").read_text()
        # Nothing is missing any more.
        cut_over(scene)
        assert (tmp_path / "led").read_text() == f"target {scene.target.port}\n"


def test_a_cutover_that_is_rolled_back_and_the_next_that_is_not_cost_the_client_no_error(
    tmp_path: Path,
) -> None:
    with traffic(tmp_path) as scene:
        followed(scene)
        with bench(scene, "extended") as client:
            client.wait_for(100)
            cut_over(scene, failpoints="cutover.before_commit:raise", code=1)
            assert not scene.bouncer.paused("app")
            assert not (tmp_path / "led").exists()
            client.wait_for(100)
            cut_over(scene)
            client.wait_for(100)
        assert client.failed == 0, client.output
        assert scene.rows(scene.target) == client.acknowledged


def test_a_runner_that_is_killed_again_and_again_costs_the_client_no_error(tmp_path: Path) -> None:
    killed = -signal.SIGKILL
    with traffic(tmp_path) as scene:
        followed(scene)
        with bench(scene, "simple") as client:
            for before in ("switch.paused", "cutover.before_commit"):
                cut_over(scene, failpoints=f"{before}:kill", code=killed)
                client.wait_for(50)
            cut_over(scene, failpoints="cutover.after_commit:kill", code=killed)
            SystemClock().sleep(0.5)
            assert scene.bouncer.paused("app"), "clients would meet a fence"
            cut_over(scene, failpoints="switch.rewritten:kill", code=killed)
            assert scene.bouncer.paused("app")
            cut_over(scene)
            client.wait_for(100)
        assert client.failed == 0, client.output
        assert scene.rows(scene.target) == client.acknowledged


def test_a_client_at_full_speed_goes_there_and_back_and_there_again_without_an_error(tmp_path: Path) -> None:
    with traffic(tmp_path) as scene:
        plan = tmp_path / "plan.yaml"
        plan.write_text(plan.read_text().replace("    with:\n", "    with:\n      reverse: true\n"))
        followed(scene)
        with bench(scene, "simple") as client:
            client.wait_for(100)
            assert scene.run("cutover", "plan.yaml", "--rehearse").returncode == 0
            client.wait_for(100)
            cut_over(scene)
            client.wait_for(200)
            back = scene.run("rollback", "plan.yaml", "--yes")
            assert back.returncode == 0, back.stdout[-2000:] + back.stderr
            client.wait_for(200)
            cut_over(scene)
            client.wait_for(100)
        assert client.failed == 0, client.output
        assert scene.rows(scene.target) == client.acknowledged
        assert (tmp_path / "led").read_text().split()[::2] == ["target", "source", "target"]
        ended = scene.run("cleanup", "plan.yaml", "--yes")
        assert ended.returncode == 0, ended.stdout + ended.stderr
