"""A process of planrunner's whose words are collected while it runs."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

# How long it may take to end, on a slow machine.
PATIENCE_SECONDS = 420
# Makes a process that is aborted write down where each of its threads is.
STACKS = {"PYTHONFAULTHANDLER": "1"}
_FRAMES = 9


def abort(child: subprocess.Popen[str]) -> None:
    """End a process that hangs, frozen or not; where each of its threads was is the last that it says."""
    for number in (signal.SIGABRT, signal.SIGCONT):
        child.send_signal(number)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()


def shortened(said: str) -> str:
    """The end of what was said, and of each thread's stack where it was: the rest is how it came there."""
    words, fatal, stacks = said.partition("Fatal Python error: ")
    lines: list[str] = []
    frames = 0
    for line in stacks.splitlines():
        frames = frames + 1 if line.startswith("  File") else 0
        if frames <= _FRAMES:
            lines.append(line)
    return "\n".join([words[-1500:], fatal, *lines[-80:]])


class Runner:
    """A process of planrunner's whose words are collected while it runs."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        # It was ended or frozen from outside: what it was armed with is not what ended it.
        self.hit = False
        self._said: list[str] = []
        # A pipe that nobody reads would stop it.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def spoke(self) -> bool:
        return bool(self._said)

    def stopped(self) -> bool:
        try:
            words = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            return False
        return words[0] == "T"

    def ended(self) -> tuple[int, str]:
        """The exit code and everything that was said; killed where it does not end."""
        try:
            self.child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            abort(self.child)
            self.child.wait()
            self._reader.join(10)
            raise AssertionError(f"it does not end: {shortened(''.join(self._said))}") from None
        self._reader.join(10)
        return self.child.returncode, "".join(self._said)

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self._said.append(line)
