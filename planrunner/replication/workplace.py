"""Where tasks are performed: what each of them finds there, be it in this process or on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import sql

    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server
    from planrunner.replication.feeds import Psql
    from planrunner.replication.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """The server that rows come from and the target as they are reached from here, the ledger, and whom to tell.

    ``hold`` is the statement by which a transaction holds the right to write: it returns no row once that is gone.
    ``moved`` hears of the bytes that went to the target, ``check`` raises to stop, between blocks. ``away``: another
    process waits for the result, and may ask for the same again.
    """

    source: Server
    target: Server
    ledger: Ledger
    clock: Clock
    epoch: int
    hold: sql.Composed
    psql: Psql | None
    moved: Callable[[int], None]
    check: Callable[[], None]
    away: bool = False
