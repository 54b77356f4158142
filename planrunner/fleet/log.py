"""What a member's run wrote to its terminal, and the error in it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.reading import regular

if TYPE_CHECKING:
    from pathlib import Path

_TAIL_BYTES = 65_536
_LONGEST_ERROR = 2_000


def error_in(log: Path, begin: int = 0) -> str | None:
    """The last error that was written to the log behind ``begin``, with what to do about it."""
    lines = tail_of(log, begin).splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return None
    first, *rest = lines[starts[-1] :]
    below = [line.strip() for line in rest if line.startswith("  ")]
    return "\n".join((first.removeprefix("error: "), *below))[:_LONGEST_ERROR]


def tail_of(log: Path, begin: int = 0) -> str:
    """The end of what was written behind ``begin``; nothing where it can't be read."""
    with suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - _TAIL_BYTES))
        return file.read().decode(errors="replace")
    return ""


def opened(log: Path) -> int:
    """A descriptor that appends to the log; StateUnfit when there is none."""
    try:
        return regular(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise StateUnfit(
            f"cannot open {log}: {error.strerror}", remedy="Make the fleet's folder writable."
        ) from error


def append(log: Path, text: str) -> None:
    """Append what a run elsewhere wrote; StateUnfit when it can't be."""
    with os.fdopen(opened(log), "w", encoding="utf-8") as file:
        file.write(text)
    failpoint("errand.logged")
