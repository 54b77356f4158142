"""A migration on its way along a route, and a client that writes to it all along."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.engine.events import read_events
from tests.acceptance.helpers import contents, state_in
from tests.faults.routes import SCHEMA
from tests.faults.scene import CLOCK, PATIENCE_SECONDS, Migration, migration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.routes import Route

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
    password: {{secret: {{{password}}}}}
steps:{steps}
  - {{id: copy, uses: snapshot, with: {copy}}}
  - {{id: follow, uses: sync, with: {follow}}}
{later}
  - {{id: over, uses: cutover_verify, with: {over}}}
{more}
"""
_PAUSE_SECONDS = 0.02


@dataclass
class Client:
    """Inserts, updates and deletes, some fifty times a second; ``rows`` is what was acknowledged.

    It begins on the source. Who refuses it because the database has moved sends it to the other side.
    """

    sides: tuple[str, str]
    rows: dict[int, int] = field(default_factory=dict)
    acknowledged: int = 0
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._side = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(PATIENCE_SECONDS)

    @property
    def side(self) -> str:
        """Where it writes now: ``source`` or ``target``."""
        return ("source", "target")[self._side]

    def wait_for_writes(self, count: int = 3) -> None:
        """Wait until that many more writes were acknowledged."""
        until = self.acknowledged + count
        give_up = CLOCK.monotonic() + PATIENCE_SECONDS
        while self.acknowledged < until:
            assert self.error is None, self.error
            assert CLOCK.monotonic() < give_up, (
                f"nobody takes the client's writes; it was last at the {self.side}"
            )
            CLOCK.sleep(0.02)

    def stop(self) -> None:
        """End it, and raise what ended it."""
        self._end.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def _work(self) -> None:
        sessions = [psycopg.connect(dsn, autocommit=True) for dsn in self.sides]
        try:
            for number in range(1, 1_000_000):
                if self._end.wait(_PAUSE_SECONDS):
                    return
                self._once(sessions, number)
        except Exception as error:  # noqa: BLE001  # told to whoever waits for it
            self.error = error
        finally:
            for session in sessions:
                session.close()

    def _once(self, sessions: list[psycopg.Connection[tuple[object, ...]]], number: int) -> None:
        old = number - 7 if number % 3 == 0 else number - 20
        for _ in range(2):
            session = sessions[self._side]
            try:
                with session.transaction():
                    session.execute("INSERT INTO app.written (id, v) VALUES (%s, %s)", [number, number])
                    if number % 3 == 0:
                        session.execute("UPDATE app.written SET v = v + 1 WHERE id = %s", [old])
                    if number % 5 == 0:
                        session.execute("DELETE FROM app.written WHERE id = %s", [old])
            except psycopg.errors.ReadOnlySqlTransaction:
                self._side = 1 - self._side
                continue
            self.acknowledged += 1
            self.rows[number] = number
            if number % 3 == 0 and old in self.rows:
                self.rows[old] += 1
            if number % 5 == 0:
                self.rows.pop(old, None)
            return


@contextmanager
def prepared(
    pair: tuple[PostgresServer, PostgresServer], folder: Path, name: str, route: Route
) -> Iterator[tuple[Migration, Client]]:
    """A migration that has come along the route to where it is to be broken off."""
    keeper = f"planrunner_keeper_{name}"
    with psycopg.connect(pair[1].superuser_dsn, autocommit=True) as session:
        # Left by the migration of this name before; here it is made anew.
        session.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(keeper)))
    with migration(pair, folder, name, SCHEMA.replace("planrunner_keeper", keeper)) as one:
        one.plan.write_text(
            PLAN.format(
                name=name,
                source=pair[0].port,
                target=pair[1].port,
                password=route.password,
                steps=route.steps,
                copy=route.copy,
                follow=route.follow,
                over=route.over,
                later=route.later,
                more=route.more,
            )
        )
        with Client((one.ours, one.theirs)) as client:
            for point in route.killed:
                code, said = one.run("run", "--yes", "--no-input", failpoints=f"{point}:kill")
                assert code == -9, said
            for verb in route.before:
                one.succeeds(verb, *(("--yes", "--no-input") if verb == "run" else ("--yes",)))
            client.wait_for_writes(1)
            yield one, client


def large_objects(dsn: str) -> list[tuple[object, ...]]:
    """Every large object, as its pages are on the disk."""
    with psycopg.connect(dsn) as session:
        return session.execute(
            "SELECT loid, md5(string_agg(data, ''::bytea ORDER BY pageno)) FROM pg_largeobject GROUP BY 1 ORDER BY 1"
        ).fetchall()


def written(dsn: str) -> dict[int, int]:
    """What the client's table holds."""
    with psycopg.connect(dsn) as session:
        return {row[0]: row[1] for row in session.execute("SELECT id, v FROM app.written").fetchall()}


def busy(dsn: str) -> list[str]:
    """Sessions of planrunner's that still hold a transaction, and what is prepared."""
    with psycopg.connect(dsn) as session:
        return [
            str(row[0])
            for row in session.execute(
                "SELECT application_name || ': ' || query FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name LIKE 'planrunner%' AND xact_start IS NOT NULL"
                " UNION ALL SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            ).fetchall()
        ]


@dataclass
class Way:
    """One migration on its route with the client that writes all along; what broke it off so far."""

    one: Migration
    route: Route
    client: Client
    cases: list[str] = field(default_factory=list)

    def armed(self, point: str, mode: str) -> tuple[int, str]:
        """Go on with the route's verb until that point breaks it off."""
        self.cases.append(f"{point}:{mode}")
        return self.one.run(self.route.verb, *self.route.options, failpoints=f"{point}:{mode}")

    def finish(self) -> None:
        """Go to the end undisturbed, and prove that nothing was lost, done twice, or left behind."""
        code, said = self.one.run(self.route.verb, *self.route.options)
        assert code == 0, f"after {self.cases}: {said}"
        self.assert_whole(self.one.folder)

    def assert_whole(self, folder: Path) -> None:
        """The target is the source by SQL of our own; every acknowledged write is where it belongs."""
        told = f"after {self.cases}"
        self.client.wait_for_writes()
        self.client.stop()
        assert self.client.side == self.route.serves, told
        if not self.route.moves:
            return
        here, there = self.one.ours, self.one.theirs
        serving, other = (here, there) if self.route.serves == "source" else (there, here)
        assert written(serving) == self.client.rows, told
        if self.route.leaves:
            # The stream to the other side is there and works.
            wait_until(lambda: written(here) == written(there), told)
        assert _without_written(contents(here)) == _without_written(contents(there)), told
        if "large_objects: copy" in self.route.copy:
            assert large_objects(here) == large_objects(there) != [], told
        assert counters(serving) >= counters(other), told
        wait_until(lambda: busy(here) + busy(there) == [], told)
        assert sorted(one.split()[0] for one in self.one.left()) == sorted(self.route.leaves), told
        _assert_once(folder / "plan.yaml.events.jsonl", told)
        if self.route.verb == "run":
            steps = state_in(folder / "plan.yaml")["steps"]
            assert {step["status"] for step in steps.values()} == {"done"}, told


def counters(dsn: str) -> int:
    """Where the sequence that belongs to no table stands."""
    with psycopg.connect(dsn) as session:
        row = session.execute("SELECT last_value FROM app.counter").fetchone()
        assert row is not None
        return int(row[0])


def wait_until(condition: Callable[[], bool], told: str) -> None:
    """Wait for something that must come."""
    give_up = CLOCK.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert CLOCK.monotonic() < give_up, told
        CLOCK.sleep(0.05)


def _without_written(found: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    # Compared with the client's own record; in the end one side alone takes writes.
    return {name: digest for name, digest in found.items() if name != "app.written"}


def _assert_once(journal: Path, told: str) -> None:
    """No unit was told as copied twice."""
    copied: Counter[str] = Counter()
    for event in read_events(journal):
        if event.message.startswith("copied "):
            units = event.fields.get("units")
            copied.update(map(str, units if isinstance(units, list) else []))
    assert [unit for unit, count in copied.items() if count > 1] == [], told


@contextmanager
def on_the_way(
    pair: tuple[PostgresServer, PostgresServer], folder: Path, name: str, route: Route
) -> Iterator[Way]:
    """The migration where it is to be broken off, with its client at work."""
    with prepared(pair, folder, name, route) as (one, client):
        yield Way(one=one, route=route, client=client)
