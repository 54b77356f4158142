"""The operator's view of a run as frozen values: how far each step is, and who approved what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from planrunner.model import Json, StepStatus

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

# 2: a step may be skipped; what operators marked is kept. 3: a checksum over all the rest.
FORMAT_VERSION = 3
WHOLE_STEP = "step"


@dataclass(frozen=True, kw_only=True)
class StepState:
    """How far one step is.

    ``started`` is its very first start, ``resumed`` the start of the latest attempt; ``worked`` counts
    the seconds of all attempts that ended, so time spent waiting for a person is not in it.
    ``digest`` is the one the step had when it began, ``parts`` the digest of each of its fields, so
    that an edit can be named, ``values`` each of them as it was then, without secrets. ``touched`` is
    set before its first action is performed. ``intent`` is the unobservable action that was begun and
    whose outcome is not known; ``performed`` lists the unobservable actions that ended well.
    """

    uses: str
    status: StepStatus = StepStatus.PENDING
    digest: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Json] = field(default_factory=dict)
    started: datetime | None = None
    resumed: datetime | None = None
    finished: datetime | None = None
    worked: float = 0.0
    attempts: int = 0
    progress: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None
    touched: bool = False
    intent: str | None = None
    performed: tuple[str, ...] = ()

    @property
    def half_done(self) -> bool:
        """True when the step may have changed something and did not end well."""
        return self.touched and self.status is not StepStatus.DONE

    @property
    def seconds(self) -> float | None:
        """How long it was worked on, None before its first attempt ended."""
        return self.worked or None


@dataclass(frozen=True, kw_only=True)
class ApprovalRecord:
    """One approval: of a whole step (``action`` is ``step``) or of one action, as it stood in ``digest``."""

    step: str
    action: str
    digest: str
    who: str
    when: datetime
    why: str


@dataclass(frozen=True, kw_only=True)
class MarkRecord:
    """Someone's word that a step is at ``status``, against what the runner found."""

    step: str
    status: str
    who: str
    when: datetime
    why: str

    def __str__(self) -> str:
        return f"marked {self.status} by {self.who} at {self.when:%Y-%m-%d %H:%M:%S}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class State:
    """What a resume needs beside the servers: ``lineage`` names one migration, ``serial`` its writes."""

    lineage: str
    plan: str
    plan_digest: str
    serial: int = 0
    plan_id: str | None = None
    steps: Mapping[str, StepState] = field(default_factory=dict)
    approvals: tuple[ApprovalRecord, ...] = ()
    marks: tuple[MarkRecord, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def with_step(self, step_id: str, step: StepState) -> State:
        """This state with another record of that step."""
        return replace(self, steps={**self.steps, step_id: step})

    def without_step(self, step_id: str) -> State:
        """This state with no memory of that step."""
        return replace(self, steps={k: v for k, v in self.steps.items() if k != step_id})

    def status(self, step_id: str) -> StepStatus:
        """How far that step is; pending when nothing is known."""
        known = self.steps.get(step_id)
        return known.status if known else StepStatus.PENDING

    def approves(self, step_id: str, digest: str, action: str = WHOLE_STEP) -> bool:
        """True when the step as it stands, or that action of it, was approved."""
        return any(
            a.step == step_id and a.digest == digest and a.action in {WHOLE_STEP, action}
            for a in self.approvals
        )
