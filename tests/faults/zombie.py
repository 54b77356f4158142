"""A runner that writes through the lease as fast as it can, on both sides, until it is told that it was taken over.

Reads a round's number per line; for each it takes the lease, says so, and writes; at the end of a round it says which
error ended it. It is frozen, and taken over, by the test that started it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.errors import LeaseLost, PlanrunnerError
from planrunner.model import Endpoint, Side
from planrunner.postgres.connection import Server
from planrunner.replication.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PLAN = "0badcafe"
WHO = "zombie"


def opened(dsn: str, side: Side) -> Server:
    """A server as a run opens it; the DSN holds its password."""
    endpoint = Endpoint(side=side, dsn=dsn)
    return Server(endpoint, clock=SystemClock(), resolve=lambda _: None, label=f"planrunner/{PLAN}")


def workspace(source: str, target: str) -> Workspace:
    """What a run works with."""

    def unheard(_message: str, _fields: Mapping[str, Any]) -> None:
        pass

    sides = opened(source, Side.SOURCE), opened(target, Side.TARGET)
    return Workspace(source=sides[0], target=sides[1], plan_id=PLAN, clock=SystemClock(), tell=unheard)


def write(space: Workspace, who: str, number: int) -> None:
    """One write of every kind: a COPY under the lease, a statement of its own on either side."""
    rows = "COPY public.written FROM STDIN"
    with space.writing() as session, session.cursor() as cursor, cursor.copy(rows) as copy:
        for _ in range(20):
            copy.write_row((who, number, "copy"))
    with space.writing_to(space.source) as session:
        session.execute("INSERT INTO public.written VALUES (%s, %s, 'source')", [who, number])
    alone = sql.SQL("INSERT INTO public.written VALUES ({}, {}, 'alone')").format(who, number)
    space.source.execute(alone)
    space.target.execute(alone)


def one_round(source: str, target: str, number: int) -> str:
    """Write until it is over; the name of the error that ended it."""
    space = workspace(source, target)
    try:
        space.lease  # noqa: B018  # taken
        sys.stdout.write("holds\n")
        sys.stdout.flush()
        # A line that was cut is tried again, as the engine does with a step: only the lease says that it is over.
        for _ in range(10_000):
            try:
                write(space, WHO, number)
            except LeaseLost as error:
                return type(error).__name__
            except PlanrunnerError:
                continue
        return "never ended"
    finally:
        space.close()
        space.source.close()
        space.target.close()


def main(source: str, target: str) -> None:
    """A round for each line that is read."""
    for line in sys.stdin:
        sys.stdout.write(f"{one_round(source, target, int(line))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
