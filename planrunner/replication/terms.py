"""What the plan allows while streams are watched: WAL kept on the source's disk, and how often to look."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from planrunner.postgres.dialler import DEFAULT_LIFETIME, Wish
from planrunner.units import human_bytes, seconds, size, span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from planrunner.model import Json

_FLUSHED: Mapping[Json, bool | None] = {"auto": None, True: True, False: False}
# Without a budget nothing is paused or given up, but a disk that fills is still told of.
UNASKED_WARNING = 16 << 30


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many bytes of WAL our slots may keep: told above ``warn``, paused above ``pause``, then given up."""

    warn: int = UNASKED_WARNING
    pause: int | None = None
    give_up: int | None = None

    def problem(self) -> str | None:
        """Why this is no budget, None when it is one: each limit is at least the one before."""
        limits = [("warn", self.warn), ("pause", self.pause), ("give_up", self.give_up)]
        given = [(name, limit) for name, limit in limits if limit is not None]
        for (lower, least), (upper, most) in pairwise(given):
            if least > most:
                return f"{lower} ({human_bytes(least)}) is above {upper} ({human_bytes(most)})"
        return None


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often a source without logical decoding is asked, in seconds: for changed rows, and for vanished ones.

    ``keep`` is how long rounds go on once the target has caught up.
    """

    interval: float = 30.0
    reconcile: float = 600.0
    keep: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How streams are watched; ``poll`` and ``check_every`` (the catalogue) are seconds.

    With a ``pace`` there are no streams: the source is polled. A stream that can't go on is told within four polls,
    so 2 s keep the promise of ten. ``login`` is who the subscriptions log in as, ``login_lifetime`` how long a role
    made for them is valid unless it is renewed. ``synchronous``: whether who applies flushes every
    transaction; None: unless it could not keep up then.
    """

    budget: Budget = field(default_factory=Budget)
    check_every: float = 30.0
    poll: float = 2.0
    failover: bool = False
    login: Wish = Wish.AUTO
    login_lifetime: timedelta = DEFAULT_LIFETIME
    synchronous: bool | None = None
    pace: Pace | None = None


def terms(options: Mapping[str, Json]) -> Terms:
    """The terms that the options of a plan's sync step ask for."""
    return Terms(
        budget=_budget(options.get("max_wal_retained")),
        check_every=seconds(str(options.get("check_every", "30s"))),
        failover=options.get("failover") is True,
        login=Wish(str(options.get("replication_role", Wish.AUTO.value))),
        login_lifetime=span(str(options.get("replication_role_lifetime", "30d"))),
        synchronous=_FLUSHED[options.get("synchronous_commit", "auto")],
        pace=_pace(options) if polls(options) else None,
    )


def polls(options: Mapping[str, Json]) -> bool:
    """Whether a plan's sync step asks the source for changed rows, instead of having them streamed."""
    return options.get("mode", "stream") == "poll"


def _pace(options: Mapping[str, Json]) -> Pace:
    return Pace(
        interval=seconds(str(options.get("interval", "30s"))),
        reconcile=seconds(str(options.get("reconcile_interval", "10m"))),
        keep=seconds(str(options.get("keep_polling", "0s"))),
    )


def _budget(given: Json) -> Budget:
    if isinstance(given, str):
        return Budget(warn=size(given) // 2, give_up=size(given))
    if not isinstance(given, dict):
        return Budget()
    limits = {name: size(str(text)) for name, text in given.items()}
    pause, give_up = limits.get("pause"), limits.get("give_up")
    least = min((limit for limit in (pause, give_up) if limit is not None), default=2 * UNASKED_WARNING)
    return Budget(warn=limits.get("warn", least // 2), pause=pause, give_up=give_up)
