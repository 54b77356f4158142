"""What AWS noted about an RDS instance in the past two weeks: its events, and the times away that they show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from mypy_boto3_rds.client import RDSClient

    from planrunner.aws import failures
    from planrunner.model import RdsInstance
else:
    # Whoever wants the values alone loads nothing of AWS's.
    failures = on_demand("planrunner.aws.failures")

# AWS keeps events for 14 days, and DescribeEvents counts in minutes.
KEPT_DAYS = 14
_KEPT_MINUTES = KEPT_DAYS * 24 * 60
# The API gives no event ids, only these texts: RDS-EVENT-0004, 0006, 0013, 0049, 0087 in the RDS User Guide.
SHUTDOWN = "DB instance shutdown"
RESTARTED = "DB instance restarted"
FAILING_OVER = "Multi-AZ instance failover started"
FAILED_OVER = "Multi-AZ instance failover completed"
STOPPED = "DB instance stopped"
# A failover's own restart is noted up to some seconds after it.
_LATENESS = timedelta(minutes=2)


@dataclass(frozen=True, kw_only=True)
class InstanceEvent:
    """One event: when it was noted and what it says."""

    at: datetime
    message: str

    def says(self, text: str) -> bool:
        """True when it is that event; AWS ends some of its texts with a full stop."""
        return self.message.rstrip(". ") == text


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A time in which the instance was away: a reboot in place, or a failover to its standby."""

    began: datetime
    ended: datetime
    failover: bool = False

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return (self.ended - self.began).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Outages:
    """The times away that the events show, in order; ``unmeasured`` restarts are noted without a beginning."""

    reboots: tuple[Outage, ...] = ()
    failovers: tuple[Outage, ...] = ()
    unmeasured: int = 0


def instance_events(service: RDSClient, instance: RdsInstance) -> tuple[InstanceEvent, ...]:
    """The instance's events of the past 14 days, the oldest first. CloudError when AWS refuses."""
    with failures.translated("rds", instance):
        pages = service.get_paginator("describe_events").paginate(
            SourceType="db-instance", SourceIdentifier=instance.instance, Duration=_KEPT_MINUTES
        )
        found = [
            InstanceEvent(at=event["Date"].astimezone(UTC), message=event.get("Message", ""))
            for page in pages
            for event in page["Events"]
            if "Date" in event
        ]
    return tuple(sorted(found, key=lambda event: event.at))


def outages(events: Iterable[InstanceEvent]) -> Outages:
    """Pair the beginnings and ends of times away.

    AWS sends events as best it can: they may be missing, and a reboot without a standby often has an end alone.
    So only a beginning right before its end counts, never one with another beginning, or a stop by somebody, between.
    """
    ordered = sorted(events, key=lambda event: (event.at, not event.says(SHUTDOWN)))
    failovers = tuple(_pairs(ordered, FAILING_OVER, FAILED_OVER, failover=True))
    measured = [pair for pair in _pairs(ordered, SHUTDOWN, RESTARTED) if not _within(pair, failovers)]
    ends = {pair.ended for pair in measured}
    lone = (e for e in ordered if e.says(RESTARTED) and e.at not in ends and not _follows(e.at, failovers))
    return Outages(reboots=tuple(measured), failovers=failovers, unmeasured=sum(1 for _ in lone))


def _pairs(
    events: Iterable[InstanceEvent], beginning: str, end: str, *, failover: bool = False
) -> Iterable[Outage]:
    began: datetime | None = None
    for event in events:
        if event.says(beginning):
            began = event.at
        elif event.says(STOPPED):
            began = None
        elif event.says(end) and began is not None:
            yield Outage(began=began, ended=event.at, failover=failover)
            began = None


def _within(pair: Outage, failovers: Iterable[Outage]) -> bool:
    return any(pair.began <= other.ended and other.began <= pair.ended for other in failovers)


def _follows(at: datetime, failovers: Iterable[Outage]) -> bool:
    """True for the restart that belongs to a failover: AWS notes it some seconds after."""
    return any(other.began <= at <= other.ended + _LATENESS for other in failovers)
