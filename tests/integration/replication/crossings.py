"""A small migration whose writers are led over: its terms, and a switch that breaks where it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from planrunner.errors import (
    StepFailed,
)
from planrunner.replication import (
    crossing,
    cutover,
    gate,
)
from planrunner.replication.crossing import NoSwitch
from planrunner.replication.verify import Mode

if TYPE_CHECKING:
    from planrunner.model import Side

SCHEMA = """
CREATE TABLE item (id bigserial PRIMARY KEY, v text);
INSERT INTO item (v) SELECT 'v' || i FROM generate_series(1, 100) i;
CREATE TABLE other (id int PRIMARY KEY);
"""
WRITE = "INSERT INTO item (v) VALUES ('new')"


class Breaking(NoSwitch):
    """Leads traffic, and breaks where it is told to."""

    def __init__(self, *, at: str) -> None:
        self.at = at
        self.led: list[str] = []

    def __bool__(self) -> bool:
        return True

    def check(self) -> None:
        self._pass("check")

    def after_commit(self, to: Side) -> None:
        self._pass(f"to {to.value}")

    def on_rollback(self, to: Side) -> None:
        self._pass(f"not to {to.value}")

    def _pass(self, what: str) -> None:
        if what == self.at:
            raise StepFailed(f"broken at {what}")
        self.led.append(what)


def terms(
    *,
    budget: float = 60.0,
    switch: crossing.Switch | None = None,
    reverse: bool = False,
    mode: Mode = Mode.AUTO,
) -> cutover.Terms:
    return cutover.Terms(
        budget=budget,
        lock_timeout=0.5,
        headroom=100,
        gate=gate.Terms(mode=mode),
        switch=switch or NoSwitch(),
        reverse=reverse,
    )


def takes_writes(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as session:
        try:
            session.execute(WRITE)
        except psycopg.errors.ReadOnlySqlTransaction:
            return False
    return True
