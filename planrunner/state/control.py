"""What an operator asks of a run from a second terminal: to pause, or to take fewer or more jobs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING

from planrunner.errors import StateUnfit
from planrunner.steering import Steer

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS = tuple(f.name for f in fields(Steer) if f.name != "paused")


@dataclass(frozen=True, kw_only=True)
class Control:
    """The wishes as they stand, who last changed them, and when. They hold until they are changed again."""

    steer: Steer = field(default_factory=Steer)
    who: str = ""
    when: datetime | None = None

    def changed(self, *, who: str, when: datetime, wishes: Mapping[str, int | bool | None]) -> Control:
        """These wishes with those changed; None gives a limit back to the plan."""
        return Control(steer=replace(self.steer, **wishes), who=who, when=when)  # type: ignore[arg-type]

    def __str__(self) -> str:
        told = ["paused"] if self.steer.paused else []
        told += [f"{name}={value}" for name in LIMITS if (value := getattr(self.steer, name)) is not None]
        if not told:
            return "as the plan says"
        when = "" if self.when is None else f" since {self.when:%Y-%m-%d %H:%M:%S}"
        return f"{', '.join(told)} (by {self.who}{when})"


def to_json(control: Control) -> str:
    """The control as indented JSON with a final newline."""
    when = None if control.when is None else control.when.isoformat()
    return json.dumps({**asdict(control.steer), "who": control.who, "when": when}, indent=2) + "\n"


def from_json(text: str, place: str) -> Control:
    """Read what ``to_json`` wrote; StateUnfit for anything else."""
    try:
        tree = json.loads(text)
        steer = Steer(paused=_flag(tree["paused"]), **{name: _limit(tree[name]) for name in LIMITS})
        when = tree["when"] and datetime.fromisoformat(tree["when"])
        return Control(steer=steer, who=str(tree["who"]), when=when or None)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StateUnfit(
            f"control file {place} is damaged: {error}",
            remedy="Write it anew: planrunner pause PLAN, resume PLAN or throttle PLAN jobs=plan.",
        ) from error


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"paused is {value!r}")
    return value


def _limit(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise TypeError(f"a limit is {value!r}")
    return value
