"""Rows that come from a copy which AWS makes of the source, while the source is written to.

A snapshot that is restored of an instance that stands alone, a clone of an Aurora cluster.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from planrunner.sandbox.rds_api import CREDENTIALS, RdsApi
from planrunner.sandbox.rds_clones import tell_start
from planrunner.sandbox.rds_restores import copied
from planrunner.sandbox.rds_script import Disturbance, Fault
from tests.faults.breaking import execute, rows
from tests.faults.referee.tables import prepare
from tests.faults.scene import migration, servers
from tests.faults.test_frozen_source import SCRIPT, UNHURRIED, assert_arrived, generations
from tests.faults.writing import writing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.rds_clones import Clones
    from planrunner.sandbox.rds_restores import Restores
    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.scene import Migration
    from tests.faults.writing import Writing

    Pair = tuple[PostgresServer, PostgresServer]

REGION = "eu-central-1"
RDS = "    rds: {{instance: shop-prod, region: eu-central-1, endpoint_url: '{url}'}}\n"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of copy: the calls that make it, what a run passes with them, what a removal passes and how it is told."""

    clone: bool
    calls: tuple[str, ...]
    made: tuple[str, ...]
    removed: tuple[str, ...]
    taking: str

    def of(self, api: RdsApi) -> Restores | Clones:
        """What the stand-in has made of it."""
        return api.clones if self.clone else api.restores

    @property
    def killed(self) -> tuple[str, ...]:
        """Where a run is killed, in the order in which it comes by."""
        return (
            *("slot.created", "frozen.captured", "barrier.marked"),
            *self.made,
            *("frozen.recorded", "copy.before_commit#2", "copy.after_commit#3", "origin.moved"),
        )


SNAPSHOT = Kind(
    clone=False,
    calls=("CreateDBSnapshot", "RestoreDBInstanceFromDBSnapshot"),
    made=(
        *("restore.before_snapshot_call", "restore.after_snapshot_call"),
        *("restore.before_restore_call", "restore.after_restore_call"),
    ),
    removed=(
        *("restore.before_delete_instance_call", "restore.after_delete_instance_call"),
        *("restore.before_delete_snapshot_call", "restore.after_delete_snapshot_call"),
    ),
    taking="delete the instances that were restored for the copy, and their snapshots",
)
CLONE = Kind(
    clone=True,
    calls=("RestoreDBClusterToPointInTime", "CreateDBInstance"),
    made=(
        *("clone.before_cluster_call", "clone.after_cluster_call"),
        *("clone.before_instance_call", "clone.after_instance_call"),
    ),
    removed=(
        *("restore.before_delete_instance_call", "restore.after_delete_instance_call"),
        *("clone.before_delete_cluster_call", "clone.after_delete_cluster_call"),
    ),
    taking="delete the clones of the source's cluster that were made for the copy",
)
BOTH = pytest.mark.parametrize("kind", [SNAPSHOT, CLONE], ids=["snapshot", "clone"])


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "AWS_DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(name, value)


@contextmanager
def written(pair: Pair, folder: Path, kind: Kind) -> Iterator[tuple[Migration, RdsApi, Writing]]:
    """A migration that reads from a copy of that kind, while the referee's client writes to the source."""
    copy = "{jobs: 2, from: restore, without_replica_identity: full}"
    with (
        _cloud(pair[0], kind) as api,
        migration(pair, folder, f"restored_{kind.made[0][:5]}", SCRIPT, copy=copy, over=UNHURRIED) as one,
    ):
        text = one.plan.read_text()
        rds = RDS.format(url=api.endpoint_url)
        one.plan.write_text(text.replace("  target:\n", f"{rds}  target:\n", 1))
        prepare(one.ours)
        with writing(folder / "ledger", one.ours, one.theirs, rate=250) as client:
            client.until(50)
            yield one, api, client


@contextmanager
def _cloud(server: PostgresServer, kind: Kind) -> Iterator[RdsApi]:
    with RdsApi(server, region=REGION) as api:
        if kind.clone:
            api.add_cluster("shop")
        yield api


def assert_removed(one: Migration, api: RdsApi, kind: Kind) -> None:
    said = one.succeeds("cleanup", "--yes", "--no-input")
    assert kind.taking in " ".join(said.split())
    assert not kind.of(api).servers
    assert not kind.of(api).files


def assert_like_the_source(api: RdsApi) -> None:
    """The clone lies where its source does, under the same rules."""
    like, main = api.world.clusters["shop"], api.world.main
    of_cluster, of_instance = (
        next(call.params for call in api.calls if call.action == action) for action in CLONE.calls
    )
    assert of_cluster["DBSubnetGroupName"] == like.subnets
    assert of_cluster["VpcSecurityGroupIds.VpcSecurityGroupId.1"] == like.security_groups[0]
    assert of_cluster["DBClusterParameterGroupName"] == like.group
    assert of_instance["DBInstanceClass"] == main.db_instance_class
    assert of_instance["PubliclyAccessible"] == str(main.publicly_accessible).lower()


@pytest.mark.server
@BOTH
def test_kills_and_lost_replies_leave_one_copy_and_one_instance(
    kind: Kind, pair: Pair, tmp_path: Path
) -> None:
    with written(pair, tmp_path, kind) as (one, api, client):
        for action in kind.calls:
            api.script.disturbances.append(Disturbance(action=action, fault=Fault.LOST))
        for point in (kind.made[1], "copy.after_commit#3"):
            code, said = one.run(
                "run", "--yes", "--no-input", "--until", "follow", failpoints=f"{point}:kill"
            )
            assert code == -signal.SIGKILL, f"{point}: {said}"
        # What AWS does with it of itself is no reason to begin anew.
        (name,) = kind.of(api).servers
        api.world.backend.databases[name].status = "backing-up"
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1]
        assert len(kind.of(api).servers) == len(kind.of(api).files) == 1
        if kind.clone:
            assert_like_the_source(api)
        assert_arrived(one, client)
        assert_removed(one, api, kind)


@pytest.mark.server
@pytest.mark.soak
@BOTH
def test_a_kill_anywhere_costs_a_unit(kind: Kind, pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, kind) as (one, api, client):
        for point in kind.killed:
            code, said = one.run(
                "run", "--yes", "--no-input", "--until", "follow", failpoints=f"{point}:kill"
            )
            assert code == -signal.SIGKILL, f"{point}: {said}"
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1]
        assert_arrived(one, client)
        for point in kind.removed:
            code, said = one.run("cleanup", "--yes", "--no-input", failpoints=f"{point}:kill")
            assert code == -signal.SIGKILL, f"{point}: {said}"
        assert_removed(one, api, kind)


@pytest.mark.server
@pytest.mark.soak
@BOTH
def test_somebody_who_writes_to_the_copy_costs_a_generation(kind: Kind, pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, kind) as (one, api, client):
        code, said = one.run(
            "run", "--yes", "--no-input", "--until", "follow", failpoints="copy.after_commit#3:kill"
        )
        assert code == -signal.SIGKILL, said
        (server,) = kind.of(api).servers.values()
        strange = server.dsn("postgres", one.name, password=server.password)
        execute(strange, "DELETE FROM ballast_1 WHERE id < 100")
        assert rows(strange, "SELECT pg_sleep(2)")
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        # What was copied from both is joined into a third.
        assert generations(one) == [3]
        assert len(kind.of(api).servers) == 2
        assert_arrived(one, client)
        assert_removed(one, api, kind)


@pytest.mark.server
@pytest.mark.soak
def test_a_clone_is_asked_for_once_it_can_have_what_was_committed_before(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, CLONE) as (one, api, client):
        cluster, asked = api.world.clusters["shop"], list[datetime]()
        cluster.lag = timedelta(seconds=8)
        api.script.disturbances.append(
            Disturbance(action=CLONE.calls[0], then=lambda: asked.append(datetime.now(UTC) - cluster.lag))
        )
        told = one.succeeds("preview")
        assert "restore-db-cluster-to-point-in-time" in told
        assert "create-db-snapshot" not in told
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        (marked,) = rows(
            one.theirs, "SELECT (detail->>'since')::timestamptz FROM planrunner.effect WHERE name = 'begun'"
        )
        assert asked[0] > marked[0]
        assert_arrived(one, client)
        assert_removed(one, api, CLONE)


@pytest.mark.server
@pytest.mark.soak
def test_a_clone_that_is_started_again_still_tells_where_it_stands(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, CLONE) as (one, api, client):
        code, said = one.run(
            "run", "--yes", "--no-input", "--until", "follow", failpoints="clone.after_instance_call:kill"
        )
        assert code == -signal.SIGKILL, said
        (server,) = api.clones.servers.values()
        server.restart()
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert generations(one) == [1]
        assert_arrived(one, client)
        assert_removed(one, api, CLONE)


@pytest.mark.server
@pytest.mark.soak
def test_a_clone_that_is_older_or_says_that_it_is_gives_no_rows(pair: Pair, tmp_path: Path) -> None:
    with written(pair, tmp_path, CLONE) as (one, api, client):
        api.clones.early = copied(pair[0], "early")
        refused(one, "the clone lacks what the source had committed before it was asked for")
        assert_removed(one, api, CLONE)
        code, said = one.run(
            "run", "--yes", "--no-input", "--until", "follow", failpoints="clone.after_instance_call:kill"
        )
        assert code == -signal.SIGKILL, said
        (server,) = api.clones.servers.values()
        tell_start(server, "pg_lsn '0/1'")
        refused(one, "it says that it stands at 0/1, and shows what the source committed after")
        assert_removed(one, api, CLONE)
        one.succeeds("run", "--yes", "--no-input", "--until", "follow")
        assert_arrived(one, client)
        assert_removed(one, api, CLONE)


def refused(one: Migration, why: str) -> None:
    """A run fails for that reason, before any row is copied."""
    code, said = one.run("run", "--yes", "--no-input", "--until", "follow")
    assert code == 1, said
    assert why in " ".join(said.split())
    assert rows(one.theirs, "SELECT count(*) FROM planrunner.unit") == [(0,)]
