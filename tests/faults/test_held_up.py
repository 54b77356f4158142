"""Strangers' transactions in the way: who they are is told, waits end when they end, and nobody else is held up."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.errors import StepFailed
from planrunner.postgres import catalog
from planrunner.replication import fence, holders
from tests.faults.breaking import SCRIPT, UNHURRIED, ended, execute, lock_held, until_told
from tests.faults.scene import frozen, migration, servers
from tests.faults.zombie import workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

RUN = ("run", "--yes", "--no-input")
INTERRUPTED = 130


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers(source={"max_prepared_transactions": "5"}) as both:
        yield both


@pytest.mark.server
def test_an_old_transaction_on_the_source_is_named_while_the_slot_waits(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "waiting", SCRIPT, over=UNHURRIED) as one:
        with psycopg.connect(one.ours, application_name="nightly report") as old:
            old.execute("INSERT INTO said VALUES (1, 'early')")
            child = one.start(*RUN)
            until_told(one, "slot creation waits for open transactions")
            child.send_signal(signal.SIGINT)
            said, _ = child.communicate(timeout=60)
            assert child.returncode == INTERRUPTED, said
            assert [name for name in one.left() if name.startswith("slot")] == []
            seen = len(one.plan.with_name("plan.yaml.events.jsonl").read_text().splitlines())
            child = one.start(*RUN)
            until_told(one, "slot creation waits for open transactions", after=seen)
            named = [
                line
                for line in one.plan.with_name("plan.yaml.events.jsonl").read_text().splitlines()
                if f"pid {old.info.backend_pid} (nightly report, open for" in line
            ]
            assert named != []
            old.commit()
            code, said = ended(child)
        assert code == 0, said
        one.assert_moved()


@pytest.mark.server
def test_an_idle_transaction_on_the_target_that_blocks_an_index_is_named(pair: Pair, tmp_path: Path) -> None:
    with (
        migration(pair, tmp_path, "indexing", SCRIPT, copy="{jobs: 1}", over=UNHURRIED) as one,
        frozen(one, "copy.after_commit#1", *RUN) as child,
        lock_held(one.theirs, "account", "ROW EXCLUSIVE") as pid,
    ):
        child.send_signal(signal.SIGCONT)
        told = until_told(one, "the target waits for a lock that others hold")
        assert f"pid {pid} (stranger, idle in transaction, open for" in told
        execute(one.theirs, f"SELECT pg_terminate_backend({pid})")
        code, said = ended(child)
        assert code == 0, said
        one.assert_moved()


@pytest.mark.server
def test_a_prepared_transaction_at_the_fence_is_named_and_writers_go_on(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "prepared", SCRIPT, over=UNHURRIED) as one:
        execute(one.ours, "BEGIN; INSERT INTO said VALUES (1, 'in doubt'); PREPARE TRANSACTION 'bank-4711'")
        space = workspace(one.ours, one.theirs)
        tables = catalog.tables(space.source)
        wanted = fence.Fence(
            names=space.names,
            tables=tables,
            message="moved",
            there=fence.standing(space.source, space.names),
            lock_timeout=0.05,
            dead_man=5,
        )
        session = space.source.open(read_only=False)
        try:
            with pytest.raises(StepFailed, match="prepared transaction 'bank-4711', prepared at"):
                fence.raise_fence(space, space.source, session, wanted, patience=0.5)
            execute(one.ours, "INSERT INTO said VALUES (2, 'goes on')")
        finally:
            execute(one.ours, "ROLLBACK PREPARED 'bank-4711'")
        assert "has ended" in holders.of_tables(space.source, [table.oid for table in tables])
        for server in (space.source, space.target):
            server.close()
        session.close()
        one.succeeds(*RUN)
        one.assert_moved()
