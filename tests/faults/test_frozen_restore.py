"""Rows that come from an instance which is restored from a snapshot of the source, while the source is written to."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from planrunner.sandbox.rds_api import CREDENTIALS, RdsApi
from planrunner.sandbox.rds_script import Disturbance, Fault
from tests.faults.breaking import execute, rows
from tests.faults.referee.tables import prepare
from tests.faults.scene import migration, servers
from tests.faults.test_frozen_source import SCRIPT, UNHURRIED, assert_arrived, generations
from tests.faults.writing import writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration
    from tests.faults.writing import Writing

    Pair = tuple[PostgresServer, PostgresServer]

REGION = "eu-central-1"
RDS = "    rds: {{instance: shop-prod, region: eu-central-1, endpoint_url: '{url}'}}\n"
KILLED = (
    *("slot.created", "frozen.captured", "barrier.marked", "restore.before_snapshot_call"),
    *("restore.after_snapshot_call", "restore.before_restore_call", "restore.after_restore_call"),
    *("frozen.recorded", "copy.before_commit#2", "copy.after_commit#3", "origin.moved"),
)
REMOVED = (
    *("restore.before_delete_instance_call", "restore.after_delete_instance_call"),
    *("restore.before_delete_snapshot_call", "restore.after_delete_snapshot_call"),
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)


@contextmanager
def written(pair: Pair, folder: Path) -> Iterator[tuple[Migration, RdsApi, Writing]]:
    """A migration that reads from a restored instance, while the referee's client writes to the source."""
    copy = "{jobs: 2, from: restore, without_replica_identity: full}"
    with (
        RdsApi(pair[0], region=REGION) as api,
        migration(pair, folder, "restored", SCRIPT, copy=copy, over=UNHURRIED) as one,
    ):
        text = one.plan.read_text()
        rds = RDS.format(url=api.endpoint_url)
        one.plan.write_text(text.replace("  target:\n", f"{rds}  target:\n", 1))
        prepare(one.ours)
        with writing(folder / "ledger", one.ours, one.theirs, rate=250) as client:
            client.until(50)
            yield one, api, client


def assert_removed(one: Migration, api: RdsApi) -> None:
    one.succeeds("cleanup", "--yes", "--no-input")
    assert not api.restores.servers
    assert not api.restores.files


@pytest.mark.server
def test_kills_and_lost_replies_leave_one_snapshot_and_one_instance(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path) as (one, api, client):
        for action in ("CreateDBSnapshot", "RestoreDBInstanceFromDBSnapshot"):
            api.script.disturbances.append(Disturbance(action=action, fault=Fault.LOST))
        for point in ("restore.after_snapshot_call", "copy.after_commit#3"):
            code, said = one.run(
                "run", "--yes", "--no-input", "--until", "follow", failpoints=f"{point}:kill"
            )
            assert code == -signal.SIGKILL, f"{point}: {said}"
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1]
        assert len(api.restores.servers) == len(api.restores.files) == 1
        assert_arrived(one, client)
        assert_removed(one, api)


@pytest.mark.server
@pytest.mark.soak
def test_a_kill_anywhere_costs_a_unit(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path) as (one, api, client):
        for point in KILLED:
            code, said = one.run(
                "run", "--yes", "--no-input", "--until", "follow", failpoints=f"{point}:kill"
            )
            assert code == -signal.SIGKILL, f"{point}: {said}"
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1]
        assert_arrived(one, client)
        for point in REMOVED:
            code, said = one.run("cleanup", "--yes", "--no-input", failpoints=f"{point}:kill")
            assert code == -signal.SIGKILL, f"{point}: {said}"
        assert_removed(one, api)


@pytest.mark.server
@pytest.mark.soak
def test_somebody_who_writes_to_the_restored_instance_costs_a_generation(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path) as (one, api, client):
        code, said = one.run(
            "run", "--yes", "--no-input", "--until", "follow", failpoints="copy.after_commit#3:kill"
        )
        assert code == -signal.SIGKILL, said
        (server,) = api.restores.servers.values()
        strange = server.dsn("postgres", one.name, password=server.password)
        execute(strange, "DELETE FROM ballast_1 WHERE id < 100")
        assert rows(strange, "SELECT pg_sleep(2)")
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        # What was copied from both is joined into a third.
        assert generations(one) == [3]
        assert len(api.restores.servers) == 2
        assert_arrived(one, client)
        assert_removed(one, api)
