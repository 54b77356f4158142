"""The referee's client, started in a process of its own and waited for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planrunner.clock import SystemClock
from tests.faults.referee.ledger import End

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CLOCK = SystemClock()
PATIENCE_SECONDS = 120


@dataclass(kw_only=True)
class Writing:
    """The client at work; ``told`` is its own summary once it was stopped."""

    ledger: Path
    child: subprocess.Popen[str]
    told: dict[str, Any]
    _read: int = 0
    _answers: int = 0

    def acknowledged(self) -> int:
        """How many answers there are; only what is new is read, for the ledger grows long."""
        if self.ledger.exists():
            with self.ledger.open("rb") as file:
                file.seek(self._read)
                whole, end, _ = file.read().rpartition(b"\n")
            self._read += len(whole + end)
            self._answers += whole.count(f'"{End.ACKNOWLEDGED}"'.encode())
        return self._answers

    def until(self, more: int) -> None:
        """Wait for so many further answers."""
        wanted, give_up = self.acknowledged() + more, CLOCK.monotonic() + PATIENCE_SECONDS
        while self.acknowledged() < wanted:
            assert self.child.poll() is None, "the client ended"
            assert CLOCK.monotonic() < give_up, f"no {more} answers within {PATIENCE_SECONDS} s"
            CLOCK.sleep(0.05)

    def stop(self) -> dict[str, Any]:
        if not self.told:
            said, _ = self.child.communicate("stop\n", timeout=PATIENCE_SECONDS)
            self.told = json.loads(said)
            assert self.told["failed"] == []
        return self.told


@contextmanager
def writing(
    ledger: Path, source: str, target: str = "", *, seed: int = 0, rate: int = 360
) -> Iterator[Writing]:
    """The client in a process of its own; ended with the block."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.faults.referee",
            "write",
            str(ledger),
            "--seed",
            str(seed),
            "--rate",
            str(rate),
        ],
        cwd=ROOT,
        env={**os.environ, "REFEREE_SOURCE": source, "REFEREE_TARGET": target},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Writing(ledger=ledger, child=child, told={})
    finally:
        child.kill()
        child.communicate()
