"""Modules that are imported when something of them is first used: a command that needs none of it starts sooner."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _OnDemand:
    """Stands for a module until then. The import lock makes it safe between threads."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(import_module(self._name), attribute)


def on_demand(name: str) -> Any:
    """The module ``name``, absolute; ImportError only when it is used.

    Name it under TYPE_CHECKING too, so that it is checked like any other.
    """
    return _OnDemand(name)
