"""Reads a reference to a secret, and how AWS is reached, as a plan writes them."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Any

from planrunner.model import AssumedRole, RdsInstance, SecretKind, SecretRef

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_REACH = ("region", "profile", "endpoint_url", "assume_role")


def reference(secret: Any, folder: Path) -> SecretRef:
    """The reference that a ``secret`` mapping of a valid plan holds; files are relative to ``folder``."""
    kind = next(kind for kind in SecretKind if kind.value in secret)
    locator = secret[kind.value]
    if kind is SecretKind.FILE:
        # Not Path.resolve(): a loop of links is told by whoever reads the file.
        locator = os.path.realpath(folder / locator)
    elif isinstance(locator, list):
        locator = shlex.join(locator)
    reach = {name: secret[name] for name in _REACH if name in secret}
    return SecretRef(
        kind=kind,
        locator=locator,
        key=secret.get("key"),
        access=access(locator, reach) if reach else None,
    )


def access(what: str, given: Mapping[str, Any]) -> RdsInstance:
    """How AWS is reached for ``what``, as a mapping of a valid plan says it; its other keys are passed over."""
    # It is told alike for everything at AWS; what is reached goes by its own name.
    reach = {name: given[name] for name in _REACH if name in given}
    role = reach.pop("assume_role", None)
    return RdsInstance(instance=what, **reach, assume_role=AssumedRole(**role) if role else None)
