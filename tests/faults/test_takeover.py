"""Takeovers from a runner that is frozen or in full flight: none of its writes comes after the new epoch."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.faults import zombie

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TAKEOVERS = int(os.environ.get("PLANRUNNER_TAKEOVERS", "200"))
SEED = int(os.environ.get("PLANRUNNER_SEED", "20261126"))
_PATIENCE_SECONDS = 60
CLOCK = SystemClock()


class Zombie:
    """The other runner, as a process that can be frozen."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def begin(self, number: int) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{number}\n")
        self._child.stdin.flush()
        assert self.says() == "holds"

    def says(self) -> str:
        assert self._child.stdout is not None
        ready, _, _ = select.select([self._child.stdout], [], [], _PATIENCE_SECONDS)
        assert ready, "the zombie says nothing"
        return self._child.stdout.readline().strip()

    def freeze(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._child.send_signal(signal.SIGCONT)


@contextmanager
def another_runner(source: str, target: str) -> Iterator[Zombie]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.zombie", source, target],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Zombie(child)
    finally:
        child.send_signal(signal.SIGCONT)
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[str, str]]:
    with (
        PostgresServer(wheel_bin(16), max_life=600) as source,
        PostgresServer(wheel_bin(18), max_life=600) as target,
    ):
        for server in (source, target):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                session.execute("CREATE TABLE public.written (who text, round int, how text)")
        yield f"{source.superuser_dsn} sslmode=disable", f"{target.superuser_dsn} sslmode=disable"


def written(dsn: str) -> int:
    with psycopg.connect(dsn) as session:
        row = session.execute("SELECT count(*) FROM public.written WHERE who = 'zombie'").fetchone()
        assert row is not None
        return int(row[0])


@pytest.mark.server
@pytest.mark.timeout(600)
def test_no_write_of_a_runner_that_was_taken_over_comes_late(
    sides: tuple[str, str], record_property: Callable[[str, int], None]
) -> None:
    record_property("faults", TAKEOVERS)
    record_property("seed", SEED)
    chance = random.Random(SEED)
    late: list[str] = []
    wrote = frozen = 0
    with another_runner(*sides) as other:
        for number in range(TAKEOVERS):
            before = [written(dsn) for dsn in sides]
            other.begin(number)
            CLOCK.sleep(chance.uniform(0, 0.04))
            freezes = chance.random() < 0.6
            if freezes:
                other.freeze()
            space = zombie.workspace(*sides)
            space.lease  # noqa: B018  # taken over
            after = [written(dsn) for dsn in sides]
            other.wake()
            assert other.says() == "LeaseLost", f"round {number}, seed {SEED}"
            late += [f"round {number}" for a, now in zip(after, sides, strict=True) if written(now) != a]
            # The new runner is not hindered by what the old one did.
            zombie.write(space, "runner", number)
            space.close()
            for server in (space.source, space.target):
                server.close()
            wrote += after != before
            frozen += freezes
    assert late == [], f"seed {SEED}"
    # Often enough it was in full flight.
    assert wrote > TAKEOVERS / 10, f"{wrote} of {TAKEOVERS}"
    assert frozen > TAKEOVERS / 3
