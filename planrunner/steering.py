"""What work that takes long is asked to heed at each of its unit boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    Steering: TypeAlias = "Callable[[], Steer]"


@dataclass(frozen=True, kw_only=True)
class Steer:
    """``paused``: begin nothing new. The limits stand for the plan's own where they are not None.

    ``jobs`` streams of the copy, ``index_jobs`` builders at a time, and no new unit while more than ``max_load``
    sessions of others are active on the source.
    """

    paused: bool = False
    jobs: int | None = None
    index_jobs: int | None = None
    max_load: int | None = None


def unsteered() -> Steer:
    """As the plan says."""
    return Steer()
