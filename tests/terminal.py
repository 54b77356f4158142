"""A pseudo-terminal with a child process at its other end, for what only happens when a person sits there."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

from contextlib import contextmanager

_PATIENCE_SECONDS = 60


class Terminal:
    """The near side: what was shown so far, and a keyboard."""

    def __init__(self, child: int, handle: int) -> None:
        self._child = child
        self._handle = handle
        self._seen = 0
        self.shown = ""
        self.code: int | None = None

    def expect(self, text: str) -> None:
        """Read until ``text`` is shown after what was expected before."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (place := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.shown}"
            assert self._read(), f"ended without {text!r}:\n{self.shown}"
        self._seen = place + len(text)

    def type(self, text: str) -> None:
        """Type a line."""
        self.press(f"{text}\n")

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._handle, keys.encode())

    def answer(self, question: str, text: str = "") -> None:
        """Wait for a question and type a line."""
        self.expect(question)
        self.type(text)

    def interrupt(self) -> None:
        """Press Ctrl-C until something comes of it.

        Python loses a signal that arrives between the prompt and the read that waits for the answer: the handler
        has run, but nothing interrupts the read. A person presses the key again.
        """
        for _ in range(_PATIENCE_SECONDS):
            os.write(self._handle, b"\x03")
            if self._answers():
                return
        raise AssertionError(f"nothing came of Ctrl-C after:\n{self.shown}")

    def _answers(self) -> bool:
        # The echo of the key itself is no answer.
        before = self.shown.replace("^C", "")
        deadline = time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._handle], [], [], left)
            if ready and (not self._read() or self.shown.replace("^C", "") != before):
                return True
        return False

    def wait(self) -> int:
        """Read to the end; the child's exit code."""
        while self._read():
            pass
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        return self.code

    def _read(self) -> bool:
        ready, _, _ = select.select([self._handle], [], [], _PATIENCE_SECONDS)
        assert ready, f"nothing more came after:\n{self.shown}"
        try:
            block = os.read(self._handle, 65536)
        except OSError:
            # How Linux says that the other end is closed.
            return False
        self.shown += block.decode("utf-8", "replace")
        return bool(block)


@contextmanager
def terminal(
    arguments: list[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    kind: str = "dumb",
    program: tuple[str, ...] = (sys.executable, "-m", "planrunner"),
) -> Iterator[Terminal]:
    """``planrunner ARGUMENTS``, or another program, in a pseudo-terminal of that TERM; it is ended with the block."""
    child, handle = pty.fork()
    if child == 0:
        try:
            os.chdir(folder)
            os.execve(program[0], [*program, *arguments], {**environment, "TERM": kind, "NO_COLOR": "1"})
        finally:
            os._exit(127)
    there = Terminal(child, handle)
    try:
        yield there
    finally:
        os.close(handle)
        if there.code is None:
            # The hang-up ends a child that still waits for an answer.
            os.waitpid(child, 0)
