"""Ends a process when the one that started it is gone: both hold an end of a pipe, which the system closes."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.clock import SystemClock
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The descriptor that a child follows; its parent says it.
LIFELINE = "PLANRUNNER_LIFELINE"
# A run stops where it can go on; one that can't is stopped at once, and in the end by force.
_PATIENCE_SECONDS = 20.0


@contextmanager
def held() -> Iterator[tuple[int, Mapping[str, str]]]:
    """The end that a child is given, and what its environment says of it; ours is open for the length of the block."""
    theirs, ours = os.pipe()
    try:
        yield theirs, {LIFELINE: str(theirs)}
    finally:
        os.close(theirs)
        os.close(ours)


def follow(descriptor: int) -> None:
    """From now on this process is asked to stop once the other end is closed; nothing that it starts follows, too."""
    os.set_inheritable(descriptor, False)  # noqa: FBT003  # its name is in the function's
    threading.Thread(target=_watch, args=[descriptor], name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    clock = SystemClock()
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        failpoint("lifeline.cut")
        os.kill(os.getpid(), number)
        clock.sleep(_PATIENCE_SECONDS)
