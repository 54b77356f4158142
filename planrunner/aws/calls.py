"""Counts the calls to AWS that this process has made: they are part of what a preview costs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_made: Counter[str] = Counter()


def counted(service: str, client: Any) -> Any:
    """The client, whose calls are counted from now on; a call that is tried again counts each time."""

    def note(model: Any, **_: Any) -> None:
        _made[f"{service}:{model.name}"] += 1

    client.meta.events.register(f"before-call.{client.meta.service_model.service_id.hyphenize()}", note)
    return client


def made() -> Mapping[str, int]:
    """How often each action was called, by ``service:Action``."""
    return dict(sorted(_made.items()))
