"""What others do to both databases in the middle of a migration, and the application that goes on meanwhile."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from tests.faults.scene import CLOCK, PATIENCE_SECONDS, frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.faults.scene import Migration

STEADY = "CREATE TABLE steady (id bigint PRIMARY KEY, v text);"
_STRANGER = "a stranger"
_WAITS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND datname = current_database()"
    " AND wait_event_type = 'Lock'"
)


def execute(dsn: str, *statements: str) -> None:
    """Each statement in a transaction of its own."""
    with psycopg.connect(dsn, autocommit=True, application_name=_STRANGER) as session:
        for statement in statements:
            session.execute(statement.encode())


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as session:
        return session.execute(query.encode()).fetchall()


def flat(said: str) -> str:
    """What was said without its line breaks."""
    return " ".join(said.split())


class Application:
    """Inserts into ``steady`` until the fence stops it, and remembers what was acknowledged."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, name="application", daemon=True)
        self.acknowledged = 0
        self.fenced = False
        self.failed: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(PATIENCE_SECONDS)

    def _write(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as session:
                while not self._ended.wait(0.01):
                    session.execute("INSERT INTO steady VALUES (%s, 'v')", [self.acknowledged])
                    self.acknowledged += 1
        except errors.ReadOnlySqlTransaction:
            self.fenced = True
        except psycopg.Error as error:
            self.failed = str(error)

    def goes_on(self) -> None:
        """Wait until it has written once more: nobody stops it, and nobody has."""
        before, give_up = self.acknowledged, CLOCK.monotonic() + PATIENCE_SECONDS
        while self.acknowledged == before:
            assert self.failed is None, self.failed
            assert not self.fenced, "the fence stopped it"
            assert CLOCK.monotonic() < give_up, "it waits"
            CLOCK.sleep(0.02)

    def kept(self, dsn: str) -> None:
        """Every acknowledged row is there, and none besides."""
        assert self.failed is None, self.failed
        found = rows(dsn, "SELECT count(*), coalesce(max(id), -1) FROM steady")
        assert found == [(self.acknowledged, self.acknowledged - 1)]


@contextmanager
def application(one: Migration) -> Iterator[Application]:
    """An application at work on the source for the length of the block."""
    client = Application(one.ours)
    client.start()
    try:
        yield client
    finally:
        client.stop()


def meanwhile(
    one: Migration, failpoint: str, statements: Sequence[str], *, dsn: str | None = None
) -> tuple[int, str]:
    """Execute ``statements`` while a run stands at ``failpoint``, then let it go on; its exit code and words.

    A statement that waits for a lock of the run's waits on while that goes on.
    """
    failed: list[BaseException] = []

    def stranger() -> None:
        try:
            execute(dsn or one.ours, *statements)
        except psycopg.Error as error:
            failed.append(error)

    with frozen(one, failpoint) as child:
        thread = threading.Thread(target=stranger, name="stranger", daemon=True)
        thread.start()
        _done_or_waiting(dsn or one.ours, thread)
        child.send_signal(signal.SIGCONT)
        said, _ = child.communicate(timeout=PATIENCE_SECONDS)
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()
    assert failed == []
    return child.returncode, said


def _done_or_waiting(dsn: str, thread: threading.Thread) -> None:
    give_up = CLOCK.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(dsn, autocommit=True) as session:
        while thread.is_alive():
            row = session.execute(_WAITS, [_STRANGER]).fetchone()
            if row is not None and row[0]:
                return
            assert CLOCK.monotonic() < give_up
            CLOCK.sleep(0.02)
