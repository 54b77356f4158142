"""Whether another process runs the same program: what it is called, and a digest of its text."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import planrunner
from planrunner.errors import PoolUnfit


@cache
def digest() -> str:
    """Of every module of planrunner, as it lies on this machine."""
    root = Path(planrunner.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        text = path.read_bytes()
        found.update(f"{path.relative_to(root).as_posix()} {len(text)}\n".encode() + text)
    return found.hexdigest()[:16]


def introduction(_perform: object = None) -> tuple[str, str]:
    """Version and digest, as a worker tells them; whoever is sent the function that performs has then loaded it."""
    return planrunner.__version__, digest()


def refuse_another(code: str) -> None:
    """PoolUnfit when the program of that digest, which asks for work, is not ours."""
    if code != digest():
        raise PoolUnfit(
            f"a worker has another planrunner ({planrunner.__version__}, {digest()}) than the one that asks ({code})",
            remedy="Install the same planrunner on every worker as here, and start them again.",
        )
