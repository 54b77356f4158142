"""Named points around side effects at which a test ends or freezes the process, or raises.

``PLANRUNNER_FAILPOINTS`` holds a comma-separated list of ``name:kill`` (SIGKILL to ourselves), ``name:stop``
(SIGSTOP: frozen until someone sends SIGCONT) or ``name:raise``;
a name may end in ``#N``: only the Nth passage counts. The name ``*`` is every point: ``*#90:kill`` ends the process
at the ninetieth that it passes. Unset, a point costs a dictionary look-up.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

from planrunner.errors import StepFailed

_lock = threading.Lock()
_passed: Counter[str] = Counter()


def _parse(text: str) -> dict[str, str]:
    return dict(entry.rsplit(":", 1) for entry in text.split(",") if ":" in entry)


_armed = _parse(os.environ.get("PLANRUNNER_FAILPOINTS", ""))


def failpoint(name: str) -> None:
    """Pass the point ``name``; when it is armed, die or raise as it says."""
    if not _armed:
        return
    with _lock:
        _passed.update((name, "*"))
        action = _armed.get(f"{name}#{_passed[name]}") or _armed.get(name) or _armed.get(f"*#{_passed['*']}")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "stop":
        # To this very thread: sent to the process the main thread takes it, and this one runs on until that comes by.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    if action == "raise":
        raise StepFailed(f"failpoint {name} was reached")
