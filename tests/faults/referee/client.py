"""The application: sessions that write at a steady rate through crashes, broken lines and a cutover."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

from tests.faults.referee.deeds import Deck
from tests.faults.referee.ledger import End, Entry, Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.referee.deeds import Deed

SIDES = ("source", "target")
# What a fence raises: the database went elsewhere.
_FENCED = "25006"
_AGAIN_SECONDS = 0.05
# How much of what a time without a server has cost is made up for.
_BEHIND_SECONDS = 3.0
_SETTINGS = (
    "connect_timeout=10 keepalives_idle=10 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=20000"
)


class Client:
    """``workers`` sessions that together send ``rate`` transactions a second until they are stopped."""

    def __init__(self, dsns: tuple[str, str], ledger: Path, *, rate: float, workers: int, seed: int) -> None:
        self._ledger = Ledger(ledger)
        self._stop = threading.Event()
        self._began = time.monotonic()
        self.workers = [
            Worker(
                dsns,
                self._ledger,
                self._stop,
                Deck(random.Random(seed * 1000 + n), n, workers),
                n,
                rate / workers,
            )
            for n in range(workers)
        ]

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def stop(self) -> dict[str, Any]:
        """Let every session end what it is at; what was done and how fast."""
        self._stop.set()
        for worker in self.workers:
            worker.join()
        seconds = time.monotonic() - self._began
        self._ledger.close()
        failed = [str(worker.failed) for worker in self.workers if worker.failed is not None]
        done = sum(worker.done for worker in self.workers)
        return {
            "acknowledged": done,
            "seconds": round(seconds, 1),
            "rate": round(done / seconds, 1),
            "failed": failed,
        }


class Worker(threading.Thread):
    """One session, and the next one whenever it is lost."""

    def __init__(
        self,
        dsns: tuple[str, str],
        ledger: Ledger,
        stop: threading.Event,
        deck: Deck,
        number: int,
        rate: float,
    ) -> None:
        super().__init__(daemon=True)
        self._dsns, self._ledger, self._over, self._deck = dsns, ledger, stop, deck
        self._number, self._pause = number, 1 / rate
        self._side = 0
        self._session: psycopg.Connection[Any] | None = None
        # The server's process of a session that was lost: it may still be at work.
        self._lost: tuple[int, str] | None = None
        self.done = 0
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001  # told by stop()
            self.failed = error

    def _work(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            session = self._opened()
            if session is None:
                self._over.wait(_AGAIN_SECONDS)
                continue
            self._send(session, self._deck.draw())
            due = max(due + self._pause, time.monotonic() - _BEHIND_SECONDS)
            self._over.wait(max(0.0, due - time.monotonic()))
        if self._session is not None:
            self._session.close()

    def _send(self, session: psycopg.Connection[Any], deed: Deed) -> None:
        side = SIDES[self._side]
        entry = Entry(tx=deed.tx, worker=self._number, kind=deed.kind, side=side, about=deed.about)
        self._ledger.begins(entry)
        try:
            entry.saw = _returned(session.execute(deed.statement.encode()))
            entry.end = End.ACKNOWLEDGED
        except psycopg.Error as error:
            entry.why = error.sqlstate or "08000"
            entry.end = self._told(session, entry.why)
        self._ledger.ended(entry)
        self._learn(entry)

    def _told(self, session: psycopg.Connection[Any], why: str) -> End:
        # A session that ends with an error may have committed before; so may one that was cancelled.
        if session.closed or why == "57014":
            self._lose()
            return End.UNKNOWN
        try:
            session.execute("ROLLBACK")
        except psycopg.Error:
            self._lose()
        return End.REFUSED

    def _learn(self, entry: Entry) -> None:
        self.done += entry.end is End.ACKNOWLEDGED
        if entry.kind == "item" and entry.end is End.ACKNOWLEDGED and entry.saw is not None:
            self._deck.item_is_there(entry.saw)
        if entry.why == _FENCED:
            if self._session is not None:
                self._session.close()
            self._session, self._side = None, 1 - self._side
            self._over.wait(_AGAIN_SECONDS)

    def _lose(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None

    def _opened(self) -> psycopg.Connection[Any] | None:
        if self._session is not None:
            return self._session
        try:
            session = psycopg.connect(f"{self._dsns[self._side]} {_SETTINGS}", autocommit=True)
            # Otherwise what the lost one was at could still commit, after what comes next.
            if self._lost is not None and not _ended(session, *self._lost):
                session.close()
                return None
            self._lost = _identity(session)
        except psycopg.Error:
            return None
        self._session = session
        return session


def _identity(session: psycopg.Connection[Any]) -> tuple[int, str]:
    row = session.execute(
        "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _ended(session: psycopg.Connection[Any], pid: int, began: str) -> bool:
    row = session.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid = %s AND backend_start::text = %s",
        [pid, began],
    ).fetchone()
    return row == (0,)


def _returned(cursor: psycopg.Cursor[Any]) -> int | None:
    """The one number that a transaction returns, whichever of its statements did."""
    saw = None
    more: bool | None = True
    while more:
        if cursor.description is not None:
            row = cursor.fetchone()
            saw = saw if row is None else row[0]
        more = cursor.nextset()
    return saw
