"""Whether another process runs the same program: what it is called, and a digest of its text."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import planrunner


@cache
def digest() -> str:
    """Of every module of planrunner, as it lies on this machine."""
    root = Path(planrunner.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        text = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return found.hexdigest()[:16]


def introduction() -> tuple[str, str]:
    """Version and digest, as a worker tells them."""
    return planrunner.__version__, digest()
