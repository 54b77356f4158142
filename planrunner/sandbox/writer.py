"""An application that keeps writing while its database moves, and remembers what it was promised."""

from __future__ import annotations

import secrets
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import errors

from planrunner.clock import SystemClock
from planrunner.sandbox.writes import TRACES, Application, Session, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

_RETRY_SECONDS = 0.05
_CHECK_AT_ONCE = 5000


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How the transactions went. ``unknown``: the connection broke during COMMIT.

    ``fenced``: a thread met SQLSTATE 25006 and stopped. ``refused``: other refusals by SQLSTATE.
    """

    acknowledged: int
    unknown: int
    reconnects: int
    fenced: int
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A row that is not as an acknowledged transaction left it; ``expected`` lists what would be right."""

    table: str
    key: str
    expected: tuple[str | None, ...]
    found: str | None


class _Ledger:
    """What each row may look like, from the client's side; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str], set[str | None]] = {}
        self.counts: Counter[str] = Counter()

    def acknowledged(self, traces: Iterable[Trace]) -> None:
        """The server said yes: each row is as its trace tells."""
        with self._lock:
            self.counts["acknowledged"] += 1
            for trace in traces:
                self._rows[trace.table, trace.key] = {trace.payload}

    def unknown(self, traces: Iterable[Trace]) -> None:
        """The answer to COMMIT was lost: each row is as before or as its trace tells."""
        with self._lock:
            self.counts["unknown"] += 1
            for trace in traces:
                self._rows.setdefault((trace.table, trace.key), {trace.before}).add(trace.payload)

    def count(self, what: str) -> None:
        """One more of ``what``."""
        with self._lock:
            self.counts[what] += 1

    def rows(self) -> dict[str, dict[str, set[str | None]]]:
        """The right payloads by table and key."""
        tables: defaultdict[str, dict[str, set[str | None]]] = defaultdict(dict)
        with self._lock:
            for (table, key), payloads in self._rows.items():
                tables[table][key] = set(payloads)
        return dict(tables)


class Writer:
    """Writes to the shop of ``dsn`` at about ``rate`` transactions a second until it is stopped or fenced.

    It lives through restarts of the server by connecting again. A context manager.
    """

    def __init__(self, dsn: str, *, threads: int = 2, rate: float = 150.0) -> None:
        self._dsn = dsn
        self._pause = threads / rate
        self._clock = SystemClock()
        self._end = threading.Event()
        self._ledger = _Ledger()
        tag = secrets.randbelow(1_000_000)
        applications = [Application(number, threads, tag=tag) for number in range(threads)]
        self._threads = [
            threading.Thread(target=self._work, args=(each,), name="shop writer", daemon=True)
            for each in applications
        ]

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> Counts:
        """End every thread after its present transaction, and tell how it went; safe to call twice."""
        self._end.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(30)
        return self.counts()

    def counts(self) -> Counts:
        """How it went so far."""
        counted = dict(self._ledger.counts)
        own = {name: counted.pop(name, 0) for name in ("acknowledged", "unknown", "reconnects", "fenced")}
        return Counts(**own, refused=counted)

    def check(self, dsn: str) -> list[Lost]:
        """Compare the database of ``dsn`` with everything that was acknowledged; empty: nothing is lost."""
        lost: list[Lost] = []
        with psycopg.connect(dsn) as session:
            for table, rows in self._ledger.rows().items():
                found = _found(session, table, list(rows))
                lost += [
                    Lost(table=table, key=key, expected=tuple(sorted(right, key=str)), found=found.get(key))
                    for key, right in rows.items()
                    if found.get(key) not in right
                ]
        return lost

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self, application: Application) -> None:
        while not self._end.is_set():
            try:
                with psycopg.connect(self._dsn, application_name="shop", connect_timeout=5) as session:
                    self._write(session, application)
                    return
            except errors.ReadOnlySqlTransaction:
                self._ledger.count("fenced")
                return
            except psycopg.OperationalError:
                self._ledger.count("reconnects")
                self._end.wait(_RETRY_SECONDS)

    def _write(self, session: Session, application: Application) -> None:
        """Transactions until the end; leaves by OperationalError when the session is lost."""
        due = self._clock.monotonic()
        while not self._end.wait(max(0.0, due - self._clock.monotonic())):
            due = max(due + self._pause, self._clock.monotonic() - 1.0)
            try:
                self._transact(session, application)
            except (psycopg.OperationalError, errors.ReadOnlySqlTransaction):
                raise
            except psycopg.Error as error:
                self._ledger.count(error.sqlstate or "unknown error")
                session.rollback()

    def _transact(self, session: Session, application: Application) -> None:
        traces = application.transaction(session)
        try:
            session.commit()
        except psycopg.OperationalError:
            self._ledger.unknown(traces)
            raise
        self._ledger.acknowledged(traces)


def _found(session: Session, table: str, keys: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for start in range(0, len(keys), _CHECK_AT_ONCE):
        chunk = keys[start : start + _CHECK_AT_ONCE]
        found.update(session.execute(TRACES[table], (chunk,)).fetchall())
    return found
