"""How planrunner came onto this machine: as Python packages, or as one executable that brings its own Python."""

from __future__ import annotations

import sys
from pathlib import Path

_GUARDIAN = "planrunner-guardian"


def as_executable() -> bool:
    """True inside the executable: there is no interpreter to start, and pip can add nothing to it."""
    return bool(getattr(sys, "frozen", False))


def own_command() -> list[str]:
    """What starts another planrunner like this one; its words come behind."""
    return [sys.executable] if as_executable() else [sys.executable, "-m", "planrunner"]


def guardian_command(script: Path) -> list[str | Path]:
    """What starts the guardian: ``script`` by our interpreter, or the executable's second program."""
    if as_executable():
        return [Path(sys.executable).with_name(_GUARDIAN)]
    # -P: nothing from the folder that the runner happens to be in.
    return [sys.executable, "-P", script]
