"""What this machine ran out of, in words: an exhausted limit is no bug, and has a remedy."""

from __future__ import annotations

import errno
import os

from planrunner.errors import MachineExhausted, PlanrunnerError

_RAISE_FILES = "Raise the limit (`ulimit -n`, LimitNOFILE= of a systemd unit), or copy with fewer `jobs`"
_MORE_MEMORY = "Give it more (`ulimit -v`, MemoryMax= of a systemd unit), or copy with fewer `jobs`"
_MAKE_ROOM = "Make room there, or let TMPDIR or --state name another disk"
_SHORT = {
    errno.EMFILE: ("this process may open no more files or connections", _RAISE_FILES),
    errno.ENFILE: ("the machine may open no more files or connections", "Raise fs.file-max of the kernel"),
    errno.ENOMEM: ("there is no memory left for this process", _MORE_MEMORY),
    errno.EAGAIN: (
        "no further process or thread may be started",
        "Raise the limit (`ulimit -u`, TasksMax=; where its memory is limited `ulimit -v`, MemoryMax=)",
    ),
    errno.ENOSPC: ("no space is left on the disk", _MAKE_ROOM),
    errno.EDQUOT: ("the quota of the disk is used up", _MAKE_ROOM),
    errno.EFBIG: ("a file may grow no larger", "Raise the limit (`ulimit -f`)"),
}
_AGAIN = "; then run it again: what was done is on record."


def short(error: BaseException) -> bool:
    """True for an error that says that the machine, not the work, is what lacks."""
    return _cause(error) is not None


def explained(error: BaseException) -> PlanrunnerError | None:
    """The error for people where ``error``, or what it came from, tells of an exhausted limit; None otherwise."""
    seen: BaseException | None = error
    while seen is not None:
        code = _cause(seen)
        if code is not None:
            what, remedy = _SHORT[code]
            where = f": {os.fsdecode(seen.filename)}" if isinstance(seen, OSError) and seen.filename else ""
            return MachineExhausted(f"local: {what}{where}", remedy=remedy + _AGAIN)
        seen = seen.__cause__ or seen.__context__
    return None


def _cause(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno in _SHORT:
        return error.errno
    # The words of CPython, which has no class of its own for it.
    return (
        errno.EAGAIN if isinstance(error, RuntimeError) and "can't start new thread" in str(error) else None
    )
