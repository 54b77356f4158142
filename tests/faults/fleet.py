"""A fleet between two shared servers: many small databases, each with rows of its own, and the commands as typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from planrunner.clock import SystemClock
from tests.acceptance.helpers import contents
from tests.faults.scene import PATIENCE_SECONDS, drop_slots, end_subscriptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.sandbox.servers import PostgresServer

CLOCK = SystemClock()
TEMPLATE = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: shop}
vars:
  database: {type: string}
  source_port: {type: integer}
  target_port: {type: integer}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:{{ vars.source_port }}/{{ vars.database }}?sslmode=disable
    password: {secret: {env: SOURCE_PASSWORD}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{{ vars.target_port }}/{{ vars.database }}?sslmode=disable
    password: {secret: {env: TARGET_PASSWORD}}
steps:
  - {id: copy, uses: snapshot}
  - {id: follow, uses: sync}
  - {id: over, uses: cutover_verify}
  - {id: clear, uses: cleanup}
"""
# Every planrunner process at work, by the state file that it names.
_COMMAND = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet's folder with both servers behind it."""

    source: PostgresServer
    target: PostgresServer
    folder: Path
    names: tuple[str, ...]

    def write(self, text: str, *, cleaning: bool = True) -> None:
        """The fleet's file, whose head is always the same, with its plan and its members."""
        head = (
            "apiVersion: planrunner/v1\nkind: Fleet\nmetadata: {name: shops}\nplan: shop.yaml\n"
            f"vars: {{source_port: {self.source.port}, target_port: {self.target.port}}}\n"
        )
        (self.folder / "fleet.yaml").write_text(head + text)
        plan = TEMPLATE if cleaning else TEMPLATE[: TEMPLATE.index("  - {id: clear")]
        (self.folder / "shop.yaml").write_text(plan)
        rows = "\n".join(f"{name},{database_of(name)}" for name in self.names)
        (self.folder / "shops.csv").write_text(f"name,database\n{rows}\n")

    def dsn(self, server: PostgresServer, name: str) -> str:
        return server.dsn("postgres", database_of(name), password=server.password)

    def start(self, verb: str, *words: str, failpoints: str = "") -> subprocess.Popen[str]:
        secrets = {"SOURCE_PASSWORD": self.source.password, "TARGET_PASSWORD": self.target.password}
        return subprocess.Popen(
            [sys.executable, "-m", "planrunner", "fleet", verb, "fleet.yaml", *words],
            cwd=self.folder,
            env={**os.environ, **secrets, "PLANRUNNER_FAILPOINTS": failpoints},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(
        self, verb: str, *words: str, failpoints: str = "", patience: float = PATIENCE_SECONDS
    ) -> tuple[int, str]:
        child = self.start(verb, *words, failpoints=failpoints)
        try:
            said, _ = child.communicate(timeout=patience)
        finally:
            child.kill()
        return child.returncode, said

    def status(self) -> dict[str, Any]:
        code, said = self.run("status", "--output", "json")
        assert code == 0, said
        return json.loads(said)  # type: ignore[no-any-return]

    def standings(self) -> dict[str, str]:
        return {member["name"]: member["status"] for member in self.status()["members"]}

    def steps(self, name: str) -> dict[str, str]:
        """How far each step of a member is by its state; an empty one before it has any."""
        try:
            state = json.loads((self.folder / f"fleet.fleet/{name}.state.json").read_text())
        except FileNotFoundError:
            return {}
        return {step: known["status"] for step, known in state["steps"].items()}

    def runs(self) -> dict[str, int]:
        """The process at work on each member."""
        found = {}
        for folder in _COMMAND.glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                here = (folder / "cwd").readlink() == self.folder
            except OSError:
                continue
            if here and "run" in words and "--state" in words:
                state = Path(words[words.index("--state") + 1]).name
                found[state.removesuffix(".state.json")] = int(folder.name)
        return found

    def kill(self, name: str) -> None:
        """End the run that is at work on a member, as soon as there is one, with SIGKILL."""
        deadline = CLOCK.monotonic() + PATIENCE_SECONDS
        while (pid := self.runs().get(name)) is None:
            assert CLOCK.monotonic() < deadline, f"{name} was never begun"
            CLOCK.sleep(0.05)
        # Somewhere in its work: it has a state by then.
        while not self.steps(name):
            assert CLOCK.monotonic() < deadline, f"{name} never had a state"
            CLOCK.sleep(0.02)
        os.kill(pid, signal.SIGKILL)

    def assert_moved(self, names: Sequence[str]) -> None:
        """By SQL of the tests' own: every row of these databases is on both sides, and nothing of ours is left."""
        for name in names:
            assert contents(self.dsn(self.source, name)) == contents(self.dsn(self.target, name)), name
        for server in (self.source, self.target):
            with psycopg.connect(server.superuser_dsn) as session:
                left = session.execute("SELECT slot_name, database FROM pg_replication_slots").fetchall()
                left += session.execute("SELECT subname FROM pg_subscription").fetchall()
            assert left == []

    def drop(self) -> None:
        """Both databases of every member, whatever a test that failed has left of it."""
        for pid in self.runs().values():
            os.kill(pid, signal.SIGKILL)
        for server in (self.target, self.source):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                for name in self.names:
                    end_subscriptions(session, server, database_of(name))
                    drop_slots(session, database_of(name))
                    database = sql.Identifier(database_of(name))
                    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database))


def database_of(name: str) -> str:
    return name.replace("-", "_")


def make_databases(source: PostgresServer, target: PostgresServer, names: Sequence[str], rows: int) -> None:
    """A database for each member: what is in it is its own."""
    for server in (source, target):
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            for name in names:
                session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database_of(name))))
    for name in names:
        with psycopg.connect(source.dsn("postgres", database_of(name), password=source.password)) as session:
            session.execute("CREATE TABLE orders (id int PRIMARY KEY, shop text, note text)")
            session.execute("CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders)")
            session.execute(
                "INSERT INTO orders SELECT i, %s, repeat(md5(i::text), 3) FROM generate_series(1, %s) i",
                [name, rows],
            )
            session.execute("INSERT INTO items SELECT i, i FROM generate_series(1, %s) i", [rows])
