"""A whole migration on two shared servers, small enough to be broken hundreds of times: copy, follow, cut over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents, state_in
from tests.faults.runner import STACKS, abort

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CLOCK = SystemClock()
PATIENCE_SECONDS = int(os.environ.get("PLANRUNNER_PATIENCE", "300"))
PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: {name}}}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:{source}/{name}?sslmode=disable
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{target}/{name}?sslmode=disable
    password: {{secret: {{env: TARGET_PASSWORD}}}}
steps:
  - {{id: copy, uses: snapshot{copy}}}
  - {{id: follow, uses: sync{follow}}}
  - {{id: over, uses: cutover_verify{over}}}
"""
_LEFT = (
    "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()"
    " UNION ALL SELECT 'subscription ' || subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid"
    " WHERE d.datname = current_database()"
    " UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE 'pr\\_%'"
)


@dataclass(frozen=True, kw_only=True)
class Migration:
    """A database pair and its plan, run as a user runs it. ``environment`` goes over what every run is given."""

    source: PostgresServer
    target: PostgresServer
    folder: Path
    name: str

    @property
    def plan(self) -> Path:
        return self.folder / "plan.yaml"

    @property
    def ours(self) -> str:
        """The source database as its superuser, past every proxy."""
        return self.source.dsn("postgres", self.name, password=self.source.password)

    @property
    def theirs(self) -> str:
        """The target database as its superuser."""
        return self.target.dsn("postgres", self.name, password=self.target.password)

    def state(self) -> dict[str, Any]:
        return state_in(self.plan)

    def start(
        self, verb: str, *options: str, failpoints: str = "", folder: Path | None = None
    ) -> subprocess.Popen[str]:
        """``planrunner VERB plan.yaml`` in the plan's folder, or in another that holds a copy of it."""
        secrets = {"SOURCE_PASSWORD": self.source.password, "TARGET_PASSWORD": self.target.password}
        return subprocess.Popen(
            [sys.executable, "-m", "planrunner", *verb.split(), "plan.yaml", *options],
            cwd=folder or self.folder,
            env={**os.environ, **secrets, **STACKS, "PLANRUNNER_FAILPOINTS": failpoints},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, verb: str, *options: str, failpoints: str = "") -> tuple[int, str]:
        """The exit code and everything that was said."""
        child = self.start(verb, *options, failpoints=failpoints)
        try:
            said, _ = child.communicate(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            abort(child)
            said, _ = child.communicate()
            raise AssertionError(f"{verb} did not end within {PATIENCE_SECONDS} s: {said}") from None
        return child.returncode, said

    def succeeds(self, verb: str, *options: str) -> str:
        code, said = self.run(verb, *options)
        assert code == 0, said
        return said

    def left(self) -> list[str]:
        """Slots, subscriptions and publications of planrunner's that are on either side."""
        found = []
        for dsn in (self.ours, self.theirs):
            with psycopg.connect(dsn) as session:
                found += [row[0] for row in session.execute(_LEFT).fetchall()]
        return found

    def assert_moved(self) -> None:
        """Every row is there by SQL of the test's own, every step is done, and no slot holds WAL anywhere."""
        assert contents(self.ours) == contents(self.theirs)
        assert {step["status"] for step in self.state()["steps"].values()} == {"done"}
        assert self.left() == []


@contextmanager
def servers(
    source: Mapping[str, str] | None = None, target: Mapping[str, str] | None = None
) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """16 and 18, both ready for logical replication, with these settings over it."""
    logical = {"wal_level": "logical"}
    with (
        PostgresServer(wheel_bin(16), settings={**logical, **(source or {})}) as one,
        PostgresServer(wheel_bin(18), settings={**logical, **(target or {})}) as other,
    ):
        yield one, other


@contextmanager
def migration(
    pair: tuple[PostgresServer, PostgresServer],
    folder: Path,
    name: str,
    script: str,
    *,
    ports: tuple[int, int] | None = None,
    **options: str,
) -> Iterator[Migration]:
    """Both databases with the plan beside them, gone at the end.

    ``script`` fills the source. ``options`` hold a step's ``with`` as YAML in braces, by its id: ``over="{reverse:
    true}"``. ``ports`` are those that the plan names, where a proxy stands before the servers.
    """
    one = Migration(source=pair[0], target=pair[1], folder=folder, name=name)
    for server in pair:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(one.ours, autocommit=True) as session:
        session.execute(sql.SQL(script))  # type: ignore[arg-type]
    ways = {
        step: f", with: {options[step]}" if step in options else "" for step in ("copy", "follow", "over")
    }
    named = ports or (pair[0].port, pair[1].port)
    one.plan.write_text(PLAN.format(name=name, source=named[0], target=named[1], **ways))
    try:
        yield one
    finally:
        _drop(one)


def _drop(one: Migration) -> None:
    # Whatever a test that failed has left behind: the next one finds the servers as it expects them.
    running = [server for server in (one.target, one.source) if server.running]
    # Those of both sides before any slot: a stream to either side may be there, and takes its slot again at once.
    for server in running:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            end_subscriptions(session, server, one.name)
    for server in running:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            drop_slots(session, one.name)
            session.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(one.name))
            )


def end_subscriptions(session: psycopg.Connection[Any], server: PostgresServer, database: str) -> None:
    subscriptions = session.execute(
        "SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s",
        [database],
    ).fetchall()
    if subscriptions:
        with psycopg.connect(
            server.dsn("postgres", database, password=server.password), autocommit=True
        ) as inside:
            for (name,) in subscriptions:
                named = sql.Identifier(name)
                inside.execute(sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(named))
                inside.execute(sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(named))
                inside.execute(sql.SQL("DROP SUBSCRIPTION {}").format(named))


def drop_slots(session: psycopg.Connection[Any], database: str) -> None:
    session.execute(
        "SELECT pg_terminate_backend(active_pid, 60000) FROM pg_replication_slots"
        " WHERE database = %s AND active_pid IS NOT NULL",
        [database],
    )
    session.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [database]
    )


def wait_stopped(child: subprocess.Popen[str]) -> None:
    """Wait until a runner has frozen itself at its failpoint."""
    give_up = CLOCK.monotonic() + PATIENCE_SECONDS
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert child.poll() is None, "it ended before it came to its failpoint"
        assert CLOCK.monotonic() < give_up, "it never came to its failpoint"
        CLOCK.sleep(0.02)


@contextmanager
def frozen(
    one: Migration, failpoint: str, verb: str = "run", *options: str
) -> Iterator[subprocess.Popen[str]]:
    """A runner that has stopped itself at that point; ended with the block, unless it has been woken and waited for.

    Where no passage is named it is the first: at each it would stop again once it is woken.
    """
    passage = failpoint if "#" in failpoint else f"{failpoint}#1"
    child = one.start(verb, *options, failpoints=f"{passage}:stop")
    try:
        wait_stopped(child)
        yield child
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.communicate()
