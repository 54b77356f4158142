"""Whole migrations from a source that stays at wal_level = replica, while it is written to in every way there is."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.model import Side
from tests.acceptance.helpers import contents
from tests.acceptance.recording import SETTINGS, Log
from tests.acceptance.test_fidelity import promises, undone, unexplained
from tests.faults.referee.judge import judge
from tests.faults.referee.tables import prepare
from tests.faults.scene import CLOCK, PATIENCE_SECONDS, frozen, migration, servers
from tests.faults.writing import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

SOAK = bool(os.environ.get("PLANRUNNER_SOAK"))
soak = pytest.mark.skipif(
    not SOAK, reason="PLANRUNNER_SOAK=1: what the shorter tests hold to as well, at length"
)
# Points of a round and of its snapshot; each is passed with rows in hand.
POINTS = (
    "polling.before_commit",
    "polling.brought",
    "polling.recorded",
    "polling.before_levelled",
    "polling.levelled",
    "polling.before_kept",
    "polling.kept",
    "snapshot.before_export",
    "snapshot.exported",
    "copy.before_commit",
    "cutover.fenced",
    "cutover.barrier_passed",
    "cutover.after_commit",
)
_TABLES = """
CREATE TABLE parent (id bigint PRIMARY KEY, name text UNIQUE, n int);
CREATE TABLE child (id bigserial PRIMARY KEY, parent bigint REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE,
  at timestamptz DEFAULT now(), twice bigint GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, doc jsonb);
CREATE TABLE bare (a int, b text);
CREATE TABLE part (id int, kind int, n int, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO bare VALUES (1000, TG_OP); RETURN NEW; END';
CREATE TRIGGER noted AFTER INSERT OR UPDATE ON numbered FOR EACH ROW EXECUTE FUNCTION noted();
INSERT INTO parent SELECT g, 'n' || g, g FROM generate_series(1, 2000) g;
INSERT INTO child (parent) SELECT g FROM generate_series(1, 2000) g;
INSERT INTO numbered (doc) SELECT jsonb_build_object('n', g) FROM generate_series(1, 200) g;
INSERT INTO bare SELECT g % 7, 'x' FROM generate_series(1, 300) g;
INSERT INTO part SELECT g, 1 + g % 2, g FROM generate_series(1, 500) g;
"""
# {a} is a number, {b} another that no earlier statement had. A row written below a savepoint has an xid of its own.
_DEEDS = (
    "INSERT INTO parent VALUES ({b}, 'p{b}', {a}) ON CONFLICT DO NOTHING; INSERT INTO child (parent) VALUES ({b})",
    "UPDATE parent SET n = n + 1 WHERE id % 50 = {a} % 50",
    "UPDATE parent SET id = {b} WHERE id = {a}",
    "DELETE FROM parent WHERE id = {a}",
    "DELETE FROM parent WHERE id = {a}; INSERT INTO parent VALUES ({b}, 'n{a}', 0) ON CONFLICT DO NOTHING",
    "UPDATE parent SET name = CASE id WHEN {a} THEN 'n{a}-' ELSE name END WHERE id IN ({a}, {a} + 1)",
    "SAVEPOINT s; UPDATE child SET at = now() WHERE id % 100 = {a} % 100; SAVEPOINT t; DELETE FROM bare WHERE a = 3;"
    " ROLLBACK TO t; INSERT INTO bare VALUES ({a} % 7, 's')",
    "INSERT INTO numbered (doc) VALUES ('{{\"n\": {a}}}'); UPDATE numbered SET doc = '{{\"m\": 1}}' WHERE id = {a} % 200",
    "DELETE FROM bare WHERE ctid IN (SELECT ctid FROM bare WHERE a = {a} % 7 LIMIT 2)",
    "UPDATE part SET kind = 3 - kind WHERE id = {a} % 500",
    "SELECT 1 FROM parent WHERE id < 20 FOR UPDATE",
)


class _Writers:
    """Sessions that write until they are refused; one holds each of its transactions open, one rolls all of them back."""

    def __init__(self, dsn: str, seed: int) -> None:
        self._dsn = dsn
        self._stopped = threading.Event()
        self._calm = threading.Event()
        self._numbers = iter(range(100_000, 1 << 30))
        self.done = 0
        self.failed: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._kept, args=(seed + n, held, end))
            for n, (held, end) in enumerate(
                ((0.0, "COMMIT"), (0.0, "COMMIT"), (0.7, "COMMIT"), (2.5, "COMMIT"), (0.05, "ROLLBACK"))
            )
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def calm(self) -> None:
        """Nobody holds a transaction open any more: a fence that waits in short turns would never have its locks."""
        self._calm.set()

    def stop(self) -> None:
        self._stopped.set()
        self._calm.set()
        for thread in self._threads:
            thread.join()
        assert self.failed == []

    def _kept(self, seed: int, held: float, end: str) -> None:
        try:
            self._write(random.Random(seed), held, end)
        except BaseException as error:  # noqa: BLE001  # told by stop, in the test's own thread
            self.failed.append(error)

    def _write(self, chance: random.Random, held: float, end: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as session:
            while not (self._calm if held else self._stopped).is_set():
                try:
                    session.execute("BEGIN")
                    for _ in range(chance.randint(1, 3)):
                        self._deed(session, chance)
                    self._calm.wait(held)
                    session.execute(end.encode())
                    self.done += 1
                except psycopg.errors.ReadOnlySqlTransaction:
                    return
                except (
                    psycopg.errors.DeadlockDetected,
                    psycopg.errors.UniqueViolation,
                    psycopg.errors.ForeignKeyViolation,
                    # Two of them meet in a row that moves to another partition.
                    psycopg.errors.SerializationFailure,
                ):
                    session.execute("ROLLBACK")
                self._stopped.wait(0.004)

    def _deed(self, session: psycopg.Connection[Any], chance: random.Random) -> None:
        text = chance.choice(_DEEDS).format(a=chance.randint(1, 2000), b=next(self._numbers))
        for statement in text.split("; "):
            session.execute(statement.encode())


@contextmanager
def writers(dsn: str, seed: int = 1) -> Iterator[_Writers]:
    found = _Writers(dsn, seed)
    found.start()
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    # Not even as many slots or senders as a stream would take.
    settings = {
        "wal_level": "replica",
        "max_replication_slots": "0",
        "max_wal_senders": "0",
        "max_prepared_transactions": "8",
    }
    with servers(source=settings) as found:
        yield found


def wal_level(dsn: str) -> str:
    with psycopg.connect(dsn) as session:
        row = session.execute("SHOW wal_level").fetchone()
    assert row is not None
    return str(row[0])


def test_nothing_is_lost_while_writers_insert_update_delete_change_keys_roll_back_and_hold_on(
    pair: Pair, tmp_path: Path
) -> None:
    follow = "{mode: poll, interval: 200ms, reconcile_interval: 1s, keep_polling: 3s}"
    with migration(
        pair, tmp_path, "written", _TABLES, follow=follow, over="{write_pause_budget: 20s}"
    ) as one:
        with writers(one.ours) as at_work:
            said = one.succeeds("run", "--yes", "--until", "follow")
            at_work.calm()
            one.succeeds("run", "--yes")
        assert at_work.done > 100
        assert wal_level(one.ours) == "replica"
        assert "rows brought" in said
        one.assert_moved()


def test_every_acknowledged_transaction_is_on_the_target(pair: Pair, tmp_path: Path) -> None:
    follow = "{mode: poll, interval: 200ms, reconcile_interval: 2s, keep_polling: 3s}"
    with migration(pair, tmp_path, "judged", "", follow=follow, over="{write_pause_budget: 20s}") as one:
        prepare(one.ours)
        with writing(tmp_path / "ledger", one.ours, one.theirs, rate=200) as client:
            client.until(50)
            one.succeeds("run", "--yes")
            moved = contents(one.ours)
            client.until(50)
            client.stop()
        verdict = judge(one.theirs, tmp_path / "ledger", former=one.ours)
        assert verdict.clean, str(verdict)
        assert verdict.acknowledged > 100
        assert contents(one.ours) == moved
        assert one.left() == []


@pytest.mark.parametrize("point", POINTS if SOAK else POINTS[:1])
def test_a_runner_that_is_killed_goes_on_where_each_table_stands(
    pair: Pair, tmp_path: Path, point: str
) -> None:
    name = f"killed_{point.replace('.', '_')}"
    follow = "{mode: poll, interval: 100ms, reconcile_interval: 500ms, keep_polling: 2s}"
    with migration(pair, tmp_path, name, _TABLES, follow=follow, over="{write_pause_budget: 20s}") as one:
        with writers(one.ours) as at_work:
            if point.startswith("cutover"):
                one.succeeds("run", "--yes", "--until", "follow")
                at_work.calm()
            code, said = one.run("run", "--yes", failpoints=f"{point}:kill")
            assert code == -9, said
            at_work.calm()
            one.succeeds("run", "--yes")
        one.assert_moved()


_IN_DOUBT = """
BEGIN;
INSERT INTO parent VALUES ({id}, 'in doubt {id}', 1);
INSERT INTO bare VALUES ({id}, 'in doubt');
INSERT INTO numbered (doc) VALUES ('{{"doubt": {id}}}');
UPDATE parent SET n = -1 WHERE id BETWEEN {id} - 90000 AND {id} - 89990;
SAVEPOINT a;
UPDATE parent SET id = {id} + 1 WHERE id = {id} - 89980;
DELETE FROM parent WHERE id = {id} - 89970;
PREPARE TRANSACTION '{gid}'
"""


def prepare_in_doubt(dsn: str, **transactions: int) -> None:
    """Leave transactions of these names open, which write to rows of their own."""
    with psycopg.connect(dsn, autocommit=True) as session:
        for gid, number in transactions.items():
            for statement in _IN_DOUBT.format(id=number, gid=gid).split(";"):
                session.execute(statement.encode())


def test_transactions_that_are_prepared_outlive_a_crash_stop_the_cutover_and_come_once(
    pair: Pair, tmp_path: Path
) -> None:
    follow = "{mode: poll, interval: 200ms, reconcile_interval: 1s, keep_polling: 5s}"
    with migration(
        pair, tmp_path, "prepared", _TABLES, follow=follow, over="{write_pause_budget: 20s}"
    ) as one:
        prepare_in_doubt(one.ours, kept=90_100, dropped=91_000)
        run = one.start("run", "--yes", "--until", "follow")
        events = one.folder / "plan.yaml.events.jsonl"
        wait_for(lambda: events.exists() and "round over" in events.read_text())
        pair[0].stop("immediate")
        wait_for(lambda: "the round goes on after" in events.read_text())
        pair[0].start()
        # Whoever writes goes on: only the two are in doubt.
        with psycopg.connect(one.ours, autocommit=True) as session:
            session.execute("UPDATE parent SET n = 5 WHERE id = 50")
        said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 0, said
        assert "prepared transaction 'kept' of postgres" in said
        assert doubtful(one.theirs) == []

        code, said = one.run("run", "--yes")
        assert code == 1, said
        assert "2 prepared transactions on the source" in said
        for gid in ("kept", "dropped"):
            assert f"'{gid}' of postgres, open for" in said
        assert "COMMIT PREPARED or ROLLBACK PREPARED" in said
        with psycopg.connect(one.ours, autocommit=True) as session:
            session.execute("ROLLBACK PREPARED 'dropped'")
            session.execute("COMMIT PREPARED 'kept'")
        one.succeeds("run", "--yes")
        assert doubtful(one.theirs) == [(90_100, "in doubt")]
        one.assert_moved()


@soak  # a minute: so long is tried for the locks
def test_a_transaction_that_is_prepared_behind_the_gate_stops_the_cutover_at_the_fence(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "behind", _TABLES, follow="{mode: poll, interval: 200ms}") as one:
        one.succeeds("run", "--yes", "--until", "follow")
        with frozen(one, "cutover.proven", "run", "--yes") as run:
            prepare_in_doubt(one.ours, late=90_100)
            run.send_signal(signal.SIGCONT)
            said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        assert run.returncode == 1, said
        assert "prepared transaction 'late', prepared at" in said
        assert "COMMIT PREPARED" in said
        with psycopg.connect(one.ours, autocommit=True) as session:
            session.execute("INSERT INTO bare VALUES (7, 'writers go on')")
            session.execute("COMMIT PREPARED 'late'")
        one.succeeds("run", "--yes")
        assert doubtful(one.theirs) == [(90_100, "in doubt")]
        one.assert_moved()


def doubtful(dsn: str) -> list[tuple[int, str]]:
    """What prepared transactions have put into the table without a key, where a row that came twice is there twice."""
    with psycopg.connect(dsn) as session:
        return session.execute("SELECT a, b FROM bare WHERE b = 'in doubt' ORDER BY a").fetchall()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = CLOCK.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert CLOCK.monotonic() < deadline
        CLOCK.sleep(0.05)


@soak
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_with_any_seed(pair: Pair, tmp_path: Path, seed: int) -> None:
    follow = "{mode: poll, interval: 50ms, reconcile_interval: 300ms, keep_polling: 10s}"
    with migration(
        pair, tmp_path, f"seed{seed}", _TABLES, follow=follow, over="{write_pause_budget: 20s}"
    ) as one:
        with writers(one.ours, seed=seed * 100) as at_work:
            one.succeeds("run", "--yes", "--until", "follow")
            at_work.calm()
            one.succeeds("run", "--yes")
        one.assert_moved()


def test_a_snapshot_that_is_lost_costs_no_slot_and_foreign_keys_hold_in_the_end(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(
        pair, tmp_path, "lost", _TABLES, copy="{jobs: 1}", follow="{mode: poll, interval: 100ms}"
    ) as one:
        with writers(one.ours):
            code, said = one.run("run", "--yes", failpoints="copy.after_commit:kill")
            assert code == -9, said
        with psycopg.connect(one.ours, autocommit=True) as session:
            session.execute("DELETE FROM parent WHERE id % 3 = 0")
        said = one.succeeds("run", "--yes")
        one.assert_moved()
        with psycopg.connect(one.theirs) as session:
            keys = session.execute(
                "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND convalidated"
            ).fetchone()
        assert keys == (1,)


@soak
def test_nothing_is_executed_that_was_not_previewed(tmp_path: Path) -> None:
    logging = {**SETTINGS, "wal_level": "replica"}
    follow = "{mode: poll, interval: 100ms, keep_polling: 1s, reconcile_interval: 100ms}"
    with (
        servers(source=logging, target=SETTINGS) as two,
        migration(two, tmp_path, "told", _TABLES, follow=follow) as one,
    ):
        promised = promises(json.loads(one.succeeds("preview", "--format", "json")))
        logs = [Log(server, side) for server, side in zip(two, (Side.SOURCE, Side.TARGET), strict=True)]
        with writers(one.ours) as at_work:
            one.succeeds("run", "--yes", "--until", "follow")
            at_work.calm()
            one.succeeds("run", "--yes")
        one.assert_moved()
        seen = [s for log in logs for s in log.seen("postgres") if s.app.startswith("planrunner")]
    assert len(seen) > 50
    assert unexplained(promised, seen) == []
    assert undone(promised, seen) == []


def test_a_login_that_may_not_replicate_goes_all_the_way(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "meek", "", follow="{mode: poll, interval: 100ms}") as one:
        for server, dsn in zip(pair, (one.ours, one.theirs), strict=True):
            with psycopg.connect(dsn, autocommit=True) as session:
                session.execute(f"CREATE ROLE mover LOGIN PASSWORD '{server.password}'".encode())
                session.execute("GRANT CREATE ON DATABASE meek TO mover")
                session.execute("GRANT CREATE, USAGE ON SCHEMA public TO mover")
        with psycopg.connect(one.ours, autocommit=True) as session:
            session.execute("SET ROLE mover")
            session.execute(_TABLES.encode())
        plan = one.plan.read_text().replace("postgres@", "mover@")
        before = "".join(
            f"  - {{id: {uses}, uses: {uses}}}\n" for uses in ("enable_logical", "grant", "validate")
        )
        one.plan.write_text(plan.replace("steps:\n", f"steps:\n{before}"))
        code, said = one.run("run", "--yes")
        assert code == 1, said
        assert "may not set session_replication_role" in said
        with psycopg.connect(one.theirs, autocommit=True) as session:
            session.execute("GRANT SET ON PARAMETER session_replication_role TO mover")
        said = one.succeeds("run", "--yes")
        assert said.count("nothing to enable") == 1
        assert "wal_level" not in said.replace("the source stays at its wal_level", "")
        one.assert_moved()


@soak
def test_a_rehearsal_measures_the_last_round_and_leaves_nothing_on_the_source(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "rehearsed", _TABLES, follow="{mode: poll, interval: 100ms}") as one:
        one.succeeds("run", "--yes", "--until", "follow")
        said = one.succeeds("cutover", "--rehearse")
        assert "last round" in said
        with psycopg.connect(one.ours) as session:
            assert session.execute("SELECT to_regnamespace('planrunner')").fetchone() == (None,)
            session.execute("DELETE FROM parent WHERE id < 100")
        one.succeeds("run", "--yes")
        one.assert_moved()


def test_the_preview_says_what_this_mode_cannot_see_and_cleanup_leaves_nothing_of_it(
    pair: Pair, tmp_path: Path
) -> None:
    with migration(pair, tmp_path, "cleaned", _TABLES, follow="{mode: poll, interval: 100ms}") as one:
        said = one.succeeds("preview")
        for words in (
            "not seen between rounds",
            "deleted rows",
            "must not be read",
            "reads every table once",
        ):
            assert words in said
        for word in ("CREATE PUBLICATION", 'SUBSCRIPTION "', "REPLICATION_SLOT"):
            assert word not in said
        one.succeeds("run", "--yes", "--until", "follow")
        assert "6 tables polled" in one.succeeds("status")
        with psycopg.connect(one.ours) as session:
            session.execute("DELETE FROM child WHERE id = 1")
        code, said = one.run("verify")
        assert code == 7, said
        assert "since the last round counts as a difference" in said
        one.succeeds("cleanup", "--yes")
        with psycopg.connect(one.theirs) as session:
            assert session.execute("SELECT to_regnamespace('planrunner')").fetchone() == (None,)
