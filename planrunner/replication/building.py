"""Builds indexes and constraints, and gathers statistics, in one transaction with the ledger rows that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner import remains
from planrunner.errors import QueryFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.wire import Wire
from planrunner.replication.identities import table_name
from planrunner.replication.ledger import lease_lost
from planrunner.replication.restore import STEP

if TYPE_CHECKING:
    from planrunner.postgres.catalog import Table
    from planrunner.replication.workplace import Workplace

IN_THE_WAY = frozenset({"42P07", "42710"})  # a relation or a constraint of that name
# 23505: of the catalogue, when two sessions make the same at the same time.
_MADE_BY_ANOTHER = IN_THE_WAY | {"23505"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A statement and the ledger row that says it is done."""

    sql: str
    key: str
    type: str


@dataclass(frozen=True, kw_only=True)
class Build:
    """What is done together: ``pieces``, then statistics of the tables ``analyzing``.

    ``preamble`` is the dump's own, ``memory`` the maintenance_work_mem.
    """

    preamble: str
    memory: str
    pieces: tuple[Piece, ...]
    analyzing: tuple[Table, ...] = ()


def build(place: Workplace, wanted: Build) -> None:
    """Do it at ``place``; QueryFailed when the server refuses, and then nothing of it is there.

    Away from whoever asks it may have been done already, or be done by another at the same time.
    """
    if place.away and _recorded(place, wanted):
        return
    try:
        with place.target.session() as session:
            remains.purpose(session, "builds indexes")
            _send(Wire(session, place.check), place, wanted)
    except QueryFailed as error:
        if not (place.away and error.sqlstate in _MADE_BY_ANOTHER and _recorded(place, wanted)):
            raise
    failpoint("schema.entry_done")


def _recorded(place: Workplace, wanted: Build) -> bool:
    keys = {piece.key for piece in wanted.pieces}
    return bool(keys) and keys <= place.ledger.effects(STEP).keys()


def _send(wire: Wire, place: Workplace, wanted: Build) -> None:
    memory = sql.SQL("SET LOCAL maintenance_work_mem = {}").format(sql.Literal(wanted.memory))
    if wire.run(sql.SQL("BEGIN"), place.hold, memory)[1].ntuples == 0:
        raise lease_lost()
    # The dump's own settings end with the session; what follows them names everything in full.
    script = [sql.SQL(text) for text in (wanted.preamble, *(piece.sql for piece in wanted.pieces))]  # pyright: ignore[reportArgumentType]
    done = [place.ledger.effect_statement(STEP, piece.key, {"type": piece.type}) for piece in wanted.pieces]
    if wanted.analyzing:
        done.append(sql.SQL("ANALYZE {}").format(sql.SQL(", ").join(map(table_name, wanted.analyzing))))
    wire.run(*script, *done, sql.SQL("COMMIT"))
