"""A runner that is frozen before it ever took the lease, and wakes when another has taken over: it takes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.engine.exclusive import fence_off
from planrunner.errors import LeaseLost
from planrunner.replication import slots
from planrunner.replication.ledger import Lease
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults.broken import wait_until
from tests.faults.zombie import PLAN, workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.workspace import Workspace


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[str, str]]:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        yield f"{source.superuser_dsn} sslmode=disable", f"{target.superuser_dsn} sslmode=disable"


def runner(name: str, source: str, target: str) -> Workspace:
    """What a runner works with; by its name the servers tell it from another of the same process."""
    space = workspace(source, target)
    for server in (space.source, space.target):
        server.rename(f"planrunner/{PLAN}/{name}")
    return space


@pytest.mark.server
def test_the_lease_is_not_taken_from_whoever_took_over(sides: tuple[str, str]) -> None:
    late, other = runner("late", *sides), runner("other", *sides)
    Lease.look(late.target, PLAN)
    other.lease  # noqa: B018  # taken over
    other.done("probe", "of the other", {})
    with pytest.raises(LeaseLost):
        late.lease  # noqa: B018
    # The lease is where it was, and the other goes on.
    other.done("probe", "of the other, later", {})
    assert set(other.ledger.effects("probe")) == {"of the other", "of the other, later"}


@pytest.mark.server
def test_no_session_that_may_write_is_opened_by_whoever_was_taken_over_from(sides: tuple[str, str]) -> None:
    late, other = runner("late", *sides), runner("other", *sides)
    Lease.look(late.target, PLAN)
    fence_off(late.source, late.target, PLAN, SystemClock(), take_over=False)
    late.source.execute("CREATE TABLE IF NOT EXISTS public.of_a_script (v int)")
    fence_off(other.source, other.target, PLAN, SystemClock(), take_over=True)
    with pytest.raises(LeaseLost):
        late.source.execute("INSERT INTO public.of_a_script VALUES (1)")
    assert other.source.value("SELECT count(*) FROM public.of_a_script") == 0


@pytest.mark.server
def test_the_next_attempt_of_the_same_process_takes_the_lease_again(sides: tuple[str, str]) -> None:
    first = runner("first", *sides)
    Lease.look(first.target, PLAN)
    epoch = first.lease.epoch
    assert Lease.take(first.target, PLAN).epoch == epoch + 1


@pytest.mark.server
def test_the_stream_of_whoever_took_over_is_not_ended(sides: tuple[str, str]) -> None:
    late, other = runner("late", *sides), runner("other", *sides)
    name = late.names.stream(1)
    late.lease  # noqa: B018
    other.lease  # noqa: B018  # taken over
    slots.create_named(other, other.source, name)
    stream = psycopg.connect(f"{sides[0]} replication=database", autocommit=True)
    try:
        # Whoever reads the slot holds it.
        reading = (
            f"""START_REPLICATION SLOT "{name}" LOGICAL 0/0 (proto_version '1', publication_names 'none')"""
        )
        stream.pgconn.send_query(reading.encode())
        wait_until(
            lambda: slots.shown(other.source, name)[name].active_pid is not None, "the slot is not read"
        )
        with pytest.raises(LeaseLost):
            slots.drop_named(late, late.source, name)
        assert slots.shown(other.source, name)[name].active_pid is not None
    finally:
        stream.close()
    slots.drop_named(other, other.source, name)
