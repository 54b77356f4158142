"""The evidence of a migration as frozen values: what the page, the Markdown and the JSON tell alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from planrunner.model import Json


class Tone(Enum):
    """How a verdict is to be taken."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first sentence of the report, and what it rests on."""

    tone: Tone
    text: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the evidence is of: a page and its JSON belong together when these and the digest agree."""

    planrunner: str
    plan_digest: str
    lineage: str | None
    serial: int | None


@dataclass(frozen=True, kw_only=True)
class ServerLine:
    """One of the two databases, as the last run met it; None where no run recorded it."""

    side: str
    version: str | None
    host: str | None
    port: str | None
    database: str | None
    user: str | None
    sslmode: str | None
    system_identifier: str | None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt at a step; ``ended`` is None while it goes on, or when its runner was killed."""

    began: datetime
    ended: datetime | None
    ending: str


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One step of the report; ``skipped`` says why it was not done."""

    id: str
    uses: str
    status: str
    seconds: float | None
    attempts: int
    error: str | None
    runs: tuple[Attempt, ...] = ()
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pause:
    """How long writers were stopped, and by what; ``parts_ms`` in the order in which they happened."""

    total_ms: float
    parts_ms: Mapping[str, float]
    at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """What the comparison found for one table; of equal tables only the one count may be known."""

    table: str
    source_rows: int | None
    target_rows: int | None
    equal: bool
    detail: str | None
    how: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProofLine:
    """One thing that was looked at before the commit, beside the rows; ``detail`` names what does not hold.

    ``stops`` tells whether it stops a cutover when it does not hold, None where nobody said so.
    """

    name: str
    equal: bool
    text: str
    detail: tuple[str, ...] = ()
    stops: bool | None = None

    @property
    def word(self) -> str:
        """Its verdict in words."""
        if self.equal:
            return "holds"
        return "noted" if self.stops is False else "does not hold"


@dataclass(frozen=True, kw_only=True)
class SequenceLine:
    """Where a sequence stood on the source, where the target's goes on, and how far beyond that is."""

    sequence: str
    source: int | None
    target: int | None
    headroom: int | None


@dataclass(frozen=True, kw_only=True)
class SwitchLine:
    """One hook that moved the traffic."""

    name: str
    phase: str
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What was copied in a stretch of time, on average; ``by`` samples, or by the units finished in it."""

    began: datetime
    ended: datetime
    bytes_per_second: float
    by: str


@dataclass(frozen=True, kw_only=True)
class LagSample:
    """WAL that the target had not confirmed, and that the slots kept; ``run`` counts the runs from 1."""

    at: datetime
    run: int
    lag_bytes: int
    retained_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class ApprovalLine:
    """Who agreed to what, when, and why."""

    step: str
    action: str
    who: str
    when: datetime
    why: str


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """One thing that can be done about what was done, and the command for it."""

    purpose: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a migration. None, or an empty tuple, stands for what no step has told (yet).

    ``rows`` and ``bytes`` are what the copy moved, ``write_pause_ms`` how long the source took no writes.
    ``began`` and ``ended`` are the first and the last event of the journal.
    """

    plan: str
    plan_id: str | None
    result: str
    verdict: Verdict
    origin: Origin
    began: datetime | None
    ended: datetime | None
    servers: tuple[ServerLine, ...]
    steps: tuple[StepLine, ...]
    tables: int | None
    rows: int | None
    bytes: int | None
    write_pause_ms: float | None
    pause: Pause | None
    rehearsals: tuple[Pause, ...]
    rolled_back: Pause | None
    switch: tuple[SwitchLine, ...]
    verified: bool | None
    verification: tuple[VerdictLine, ...]
    proofs: tuple[ProofLine, ...]
    sequences: int | None
    sequence_values: tuple[SequenceLine, ...]
    reverse: Mapping[str, Json]
    throughput: tuple[Rate, ...]
    lag: tuple[LagSample, ...]
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]
    approvals: tuple[ApprovalLine, ...]
    way_back: tuple[WayBack, ...]
    state_file: str
    report_file: str
    html_file: str = field(default="")
