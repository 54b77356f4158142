"""Notices within half a minute that a server answers nothing any more, and frees whoever waits for it.

TCP's own limits see packets that are lost. They do not see a proxy, a load balancer or a frozen server that goes on
acknowledging what nobody will ever read: then a session waits without end. So a session beside the others asks an easy
question every few seconds. A statement may take hours; this answer may not.
"""

from __future__ import annotations

import select
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from planrunner.dialling import Trouble
from planrunner.errors import PlanrunnerError
from planrunner.postgres.failures import endpoint_facts, trouble_of
from planrunner.postgres.line import Silence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.postgres.connection import Server

EVERY_SECONDS = 4.0
# With the pause before it: noticed after 24 s, and half a minute is what is promised.
SILENCE_SECONDS = 20.0
_DIAL_SECONDS = 10.0
_SLICE_SECONDS = 1.0
_QUESTION = b"SELECT 1"


@contextmanager
def watched(server: Server) -> Iterator[None]:
    """Watch the line to ``server`` for the length of the block; a silent one is cut."""
    heartbeat = Heartbeat(server)
    heartbeat.begin()
    try:
        yield
    finally:
        heartbeat.end()


class Heartbeat:
    """Asks one server again and again, from a thread of its own, over a session that is opened when it is due."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._session: psycopg.Connection[Any] | None = None
        self._asked = False
        self._ended = threading.Event()
        name = f"heartbeat-{server.side.value}"
        # Never waited for: a dial that nobody answers must not hold up the end of a run.
        self._thread = threading.Thread(target=self._go, name=name, daemon=True)

    def begin(self) -> None:
        """Start; the first question is due after a pause, so a short command asks none."""
        self._thread.start()

    def end(self) -> None:
        """Stop; the session is closed within a moment."""
        self._ended.set()
        self._thread.join(2 * _SLICE_SECONDS)

    def _go(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            self._beat()
        self._drop()

    def _beat(self) -> None:
        """Ask, and wait for the answer until it comes or the line has been silent for too long."""
        silent = 0.0
        while not self._ended.is_set():
            waited = self._waited()
            if waited == 0 or self._server.line.heard_within(waited):
                return
            silent += waited
            if silent >= SILENCE_SECONDS:
                self._server.line.cut(_silence(self._server, silent))
                self._drop()
                return

    def _waited(self) -> float:
        """0 when something was heard, be it a refusal; otherwise how many seconds were waited in vain.

        Waits in slices, and a slice counts once: a process that was frozen finds the answer when it wakes.
        """
        begun = time.monotonic()
        try:
            session = self._session = self._session or self._server.dial(
                connect_timeout=f"{_DIAL_SECONDS:.0f}"
            )
        except psycopg.Error as error:
            if trouble_of(error) not in (Trouble.TIMED_OUT, Trouble.UNKNOWN_HOST):
                return 0.0
            # Without a route or a name it fails at once, and may be back in a moment.
            self._ended.wait(max(0.0, _DIAL_SECONDS - (time.monotonic() - begun)))
            return _DIAL_SECONDS
        except PlanrunnerError:
            return 0.0  # no password or certificate now: nothing is known of the line
        try:
            return 0.0 if self._answered(session) else _SLICE_SECONDS
        except psycopg.Error:
            self._drop()
            return 0.0

    def _answered(self, session: psycopg.Connection[Any]) -> bool:
        conn = session.pgconn
        if not self._asked:
            conn.send_query(_QUESTION)
            self._asked = True
        poll = select.poll()
        poll.register(conn.socket, select.POLLIN)
        if not poll.poll(_SLICE_SECONDS * 1000):
            return False
        conn.consume_input()
        while not conn.is_busy():
            result = conn.get_result()
            if result is None:
                self._asked = False
                return True
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError("the server has ended the session")
        return False

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session, self._asked = None, False


def _silence(server: Server, seconds: float) -> Silence:
    facts = endpoint_facts(server.endpoint)
    return Silence(
        message=f"{facts['side']}: {facts['place']} has answered nothing for {seconds:.0f} s, on no session: the line is"
        " silent, and its sessions were cut",
        remedy="A firewall, proxy or load balancer between swallows what is sent, or the server hangs."
        f" {facts['network']} Then run again: what was finished stays finished.",
    )
