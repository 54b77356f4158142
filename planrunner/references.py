"""Reads a reference to a secret as a plan writes it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from planrunner.model import SecretKind, SecretRef

if TYPE_CHECKING:
    from pathlib import Path


def reference(secret: Any, folder: Path) -> SecretRef:
    """The reference that a ``secret`` mapping of a valid plan holds; files are relative to ``folder``."""
    kind = next(kind for kind in SecretKind if kind.value in secret)
    locator = secret[kind.value]
    if kind is SecretKind.FILE:
        locator = str((folder / locator).resolve())
    elif isinstance(locator, list):
        locator = shlex.join(locator)
    return SecretRef(kind=kind, locator=locator, key=secret.get("key"))
