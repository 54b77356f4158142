"""Runs a program to its end and tells what it took: wall and processor seconds, memory, all its children included."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SAMPLE_SECONDS = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a program took. ``cpu`` counts it and every child it waited for; ``peak_bytes`` is the resident
    memory of all its processes together, at the highest of the samples taken five times a second.
    """

    code: int
    wall: float
    cpu: float
    peak_bytes: int


def measured(
    argv: Sequence[str | Path], *, environment: Mapping[str, str], log: Path, timeout: float
) -> Usage:
    """Run it in the folder of ``log``, which takes what it prints; killed with its children after ``timeout``."""
    with log.open("ab") as output:
        begun = time.monotonic()
        # Its own process group, so that a time-out ends the children too.
        child = subprocess.Popen(
            [str(word) for word in argv],
            cwd=log.parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        with _Sampler(child.pid) as sampler:
            killer = threading.Timer(timeout, os.killpg, (child.pid, signal.SIGKILL))
            killer.start()
            _, status, used = os.wait4(child.pid, 0)
            wall = time.monotonic() - begun
            killer.cancel()
    # We have waited for it ourselves; Popen must not try again.
    child.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    return Usage(code=child.returncode, wall=wall, cpu=cpu, peak_bytes=sampler.peak)


def reaped_cpu(pid: int) -> float:
    """Processor seconds of the children that a process has seen the end of: the sessions of a server."""
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / _TICKS


class _Sampler:
    """Looks at the memory of a process and its descendants until it is left."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, sum(_resident(pid) for pid in _family(self._pid)))


def _family(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields:
                parents[int(entry.name)] = int(fields[1])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _resident(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0  # it has ended since


def _stat(pid: int) -> list[str]:
    """The fields of its stat file that follow the name, the state first; empty when it has ended."""
    try:
        # The name stands in brackets and may hold blanks.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
