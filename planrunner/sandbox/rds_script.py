"""What goes wrong at the stand-in RDS API, as a test writes it: refusals, lost answers, and statuses that pass."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Fault(Enum):
    """How a call fails; ``LOST`` is carried out, ``CUT`` is not, and neither is answered."""

    THROTTLED = "Throttling"
    EXPIRED = "ExpiredToken"
    BUSY = "InvalidDBInstanceState"
    BUSY_GROUP = "InvalidDBParameterGroupState"
    BROKEN = "InternalFailure"
    LOST = "lost"
    CUT = "cut"


@dataclass(kw_only=True)
class Disturbance:
    """Something that happens to calls of ``action`` (``*``: any): ``after`` pass before it, then it strikes ``times``.

    ``then`` is done beside the call, before it is answered: what somebody else does at that moment.
    """

    action: str
    fault: Fault | None = None
    after: int = 0
    times: int = 1
    then: Callable[[], None] | None = None


@dataclass
class Script:
    """The disturbances that are still to come, in order; the first that fits a call strikes."""

    disturbances: list[Disturbance] = field(default_factory=list)

    def strike(self, action: str) -> Disturbance | None:
        """What happens to this call; None when nothing does."""
        for one in self.disturbances:
            if one.action not in {"*", action} or one.times == 0:
                continue
            if one.after > 0:
                one.after -= 1
                continue
            one.times -= 1
            return one
        return None
