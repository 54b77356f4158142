"""Temporary folders in memory, where there is enough of it: the data directories of hundreds of servers.

A database system's cluster is a thousand small files. Each test makes some and removes them, and ext4 looks through
those removed in the last seconds for every file it makes: 10 % of the CPU time of a run of the network faults. What
pytest keeps of a test for whoever looks into a failure stays on the disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_SHARED = Path("/dev/shm")
_PREFIX = "planrunner-tests-"
# The servers of three workers came to 5 GB at most.
_FREE_BYTES = 10 << 30


def begin() -> Path | None:
    """Let temporary folders be made in memory from here on; None, and nothing changed, where that won't do."""
    if not _fits():
        return None
    _forget_the_dead()
    folder = _SHARED / f"{_PREFIX}{os.getpid()}"
    folder.mkdir()
    # The servers' account passes through.
    folder.chmod(0o755)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    return folder


def end(folder: Path) -> None:
    """Remove the folder of ``begin`` with what is left in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _fits() -> bool:
    try:
        inside = Path(tempfile.gettempdir()).resolve().is_relative_to(_SHARED)
        place = os.statvfs(_SHARED)
        memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return False
    free = min(place.f_bavail * place.f_frsize, int(memory["MemAvailable"].split()[0]) << 10)
    return (
        not inside
        and os.access(_SHARED, os.W_OK)
        and not place.f_flag & (os.ST_NOEXEC | os.ST_RDONLY)
        and free >= _FREE_BYTES
    )


def _forget_the_dead() -> None:
    for left in _SHARED.glob(f"{_PREFIX}*"):
        with suppress(OSError, ValueError):
            if not Path("/proc", str(int(left.name.removeprefix(_PREFIX)))).exists():
                shutil.rmtree(left)
