"""What CloudWatch has measured of an RDS instance in a week, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from planrunner.aws.hourly import Hourly

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


class Metric(Enum):
    """The metrics that are asked for, by AWS's own names."""

    FREE_STORAGE = "FreeStorageSpace"
    WAL_ON_DISK = "TransactionLogsDiskUsage"
    WAL_RATE = "TransactionLogsGeneration"
    SLOT_LAG = "OldestReplicationSlotLag"
    CPU = "CPUUtilization"
    READS = "ReadIOPS"
    WRITES = "WriteIOPS"
    BURST = "BurstBalance"
    SESSIONS = "DatabaseConnections"


@dataclass(frozen=True, kw_only=True)
class Week:
    """The figures of seven days up to ``until``; bytes, bytes a second, percent or counts, as CloudWatch has them."""

    until: datetime
    figures: Mapping[Metric, Hourly] = field(default_factory=dict)

    def of(self, metric: Metric) -> Hourly:
        """A metric's hours; none where CloudWatch has none."""
        return self.figures.get(metric, Hourly())

    def day(self, metric: Metric) -> Hourly:
        """The last day of it."""
        return self.of(metric).since(self.until - timedelta(days=1, hours=1))
