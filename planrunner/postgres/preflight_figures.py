"""Preflight of what AWS has measured of an RDS instance: storage against what the plan needs, burst, CPU, I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.aws import outlook
from planrunner.aws.storage import SCALING_BELOW, Storage
from planrunner.aws.week import Metric, Week
from planrunner.errors import PlanrunnerError
from planrunner.model import Side
from planrunner.postgres.preflight_section import AWS, Check
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.aws.outlook import Span
    from planrunner.model import Finding

_DAY = 86400
_BURST_PERCENT = 20
_CPU_PERCENT = 80
_IOPS_SHARE = 0.8

ROOM = Check(
    code="PR1011",
    section=AWS,
    title="Free storage for the migration",
    why="A slot keeps the source's WAL until the target has it, and the copy fills the target: an instance whose storage"
    " is full takes no more writes.",
)
LOW = Check(
    code="PR1012",
    section=AWS,
    title="Storage that is full or nearly so",
    why="In the status storage-full an instance refuses every change of its settings, and nobody can write.",
)
BURST = Check(
    code="PR1013",
    section=AWS,
    title="Burst balance of gp2 storage",
    why="Once its credits are used up, gp2 storage falls to its base rate: the copy takes far longer and the application"
    " feels it.",
)
CPU = Check(
    code="PR1014",
    section=AWS,
    title="CPU load",
    why="The copy and the decoding of WAL take CPU beside the application.",
)
SLOT = Check(
    code="PR1015",
    section=AWS,
    title="WAL that slots hold already",
    why="A slot that nobody reads keeps WAL until the storage is full, whatever this migration does.",
)
KNOWN = Check(
    code="PR1016",
    section=AWS,
    title="Figures of the instance",
    why="Without them nobody can say beforehand whether the storage lasts.",
)
IOPS = Check(
    code="PR1017",
    section=AWS,
    title="Provisioned I/O",
    why="The copy reads beside the application; above what is provisioned both wait.",
)
_ENLARGE = (
    "Enlarge it before, knowing that an RDS instance's storage never shrinks: aws rds modify-db-instance"
    " --db-instance-identifier {} --allocated-storage GIB --apply-immediately"
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What AWS told of the instance of one side; a text says why it did not."""

    side: Side
    instance: str
    storage: Storage | str
    week: Week | str

    @property
    def who(self) -> str:
        """The side as a sentence begins with it."""
        return f"{self.side.value.capitalize()}'s instance {self.instance}"


def figures(seen: Seen, need: Callable[[], Span | None]) -> Iterator[Finding]:
    """Every check of one instance; ``need`` tells what the plan will fill of its storage, in bytes.

    It is asked only where the free storage is known, for it may measure for some seconds.
    """
    storage, week = seen.storage, seen.week
    if isinstance(storage, str) or isinstance(week, str):
        yield _unknown(seen, storage if isinstance(storage, str) else str(week))
        if isinstance(storage, str):
            return
    if storage.status == "storage-full":
        yield LOW.failed(f"{seen.who} is storage-full", _ENLARGE.format(seen.instance))
    if isinstance(week, str):
        return
    yield from _storage(seen, storage, week, need)
    yield from _load(seen, storage, week)


def _unknown(seen: Seen, reason: str) -> Finding:
    return KNOWN.warned(
        f"{seen.who}: storage, WAL and load of the past week are not known: {reason}",
        "Allow cloudwatch:GetMetricData and rds:DescribeDBInstances to whoever runs this, or look at FreeStorageSpace,"
        " TransactionLogsGeneration and CPUUtilization in the console. The migration itself does without.",
    )


def _storage(seen: Seen, storage: Storage, week: Week, need: Callable[[], Span | None]) -> Iterator[Finding]:
    if storage.elastic:
        yield ROOM.passed(f"{seen.who} is Aurora's: its storage grows with what is in it")
        return
    free = outlook.free(week, storage)
    if free is None:
        yield KNOWN.warned(
            f"{seen.who}: CloudWatch has no FreeStorageSpace of the last hours",
            "See whether the instance is new or was stopped, and look at its free storage in the console.",
        )
        return
    if storage.allocated and free < SCALING_BELOW * storage.allocated and storage.status != "storage-full":
        left = f"{human_bytes(free)} of {human_bytes(storage.allocated)} are free"
        yield LOW.warned(f"{seen.who} is nearly full: {left}", _ENLARGE.format(seen.instance))
    yield _room(seen, storage, free, _asked(need), week)
    if seen.side is Side.SOURCE:
        yield from _slots(seen, storage, week)


def _asked(need: Callable[[], Span | None]) -> Span | None:
    try:
        return need()
    except PlanrunnerError:
        # What can't be measured yet is told by the estimates; here the rate alone has to do.
        return None


def _room(seen: Seen, storage: Storage, free: float, need: Span | None, week: Week) -> Finding:
    if need is None:
        return _lasting(seen, free, week)
    what = "the WAL of the copy" if seen.side is Side.SOURCE else "the copy"
    takes = f"{what} takes {human_bytes(need.low)} to {human_bytes(need.high)}, {human_bytes(free)} are free"
    if need.low >= free and not storage.scales:
        return ROOM.failed(f"{seen.who} would be full: {takes}", _remedy(seen))
    if need.high >= free:
        return ROOM.warned(f"{seen.who} may become full: {takes}", _remedy(seen))
    if storage.scales and free - need.high < SCALING_BELOW * storage.allocated:
        return ROOM.warned(
            f"{seen.who} would be enlarged by autoscaling: {takes}",
            "What it adds is paid from then on, for an RDS instance's storage never shrinks. "
            + _remedy(seen),
        )
    return ROOM.passed(f"{seen.who} has room: {takes}")


def _remedy(seen: Seen) -> str:
    own = (
        "Begin in a quiet time (the preview names it), copy faster (jobs), or let the plan give the slot up in time"
        " (max_wal_retained in the sync step). "
        if seen.side is Side.SOURCE
        else ""
    )
    return own + _ENLARGE.format(seen.instance)


def _lasting(seen: Seen, free: float, week: Week) -> Finding:
    """Where the time of the copy is unknown: how long the storage takes the WAL of the busiest hour."""
    rate = week.of(Metric.WAL_RATE)
    most = max(rate.values, default=0.0)
    if seen.side is Side.TARGET or not most:
        return ROOM.passed(
            f"{seen.who}: {human_bytes(free)} are free; what the migration will need is not known"
        )
    long = human_seconds(free / most)
    lasts = f"{human_bytes(free)} are free, enough for {long} of WAL at the rate of the busiest hour"
    if free / most < _DAY:
        return ROOM.warned(f"{seen.who}: {lasts}", _remedy(seen))
    return ROOM.passed(f"{seen.who}: {lasts}")


def _slots(seen: Seen, storage: Storage, week: Week) -> Iterator[Finding]:
    held = week.of(Metric.SLOT_LAG).newest(week.until)
    if held is not None and storage.allocated and held > SCALING_BELOW * storage.allocated:
        yield SLOT.warned(
            f"{seen.who}: the oldest replication slot holds {human_bytes(held)} of WAL",
            "See whose it is: SELECT slot_name, active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) FROM"
            " pg_replication_slots; a slot that nobody reads any more can be dropped.",
        )


def _load(seen: Seen, storage: Storage, week: Week) -> Iterator[Finding]:
    burst, cpu = week.day(Metric.BURST), week.day(Metric.CPU)
    if burst and (least := min(burst.values)) < _BURST_PERCENT:
        yield BURST.warned(
            f"{seen.who}: BurstBalance fell to {least:.0f} % in the past day",
            "Copy with fewer jobs or in a quiet time, or go to gp3, whose rate does not depend on credits: aws rds"
            f" modify-db-instance --db-instance-identifier {seen.instance} --storage-type gp3 --apply-immediately",
        )
    if cpu:
        yield _cpu(seen, max(cpu.values))
    used = outlook.operations(week)
    if storage.iops is not None and used is not None and used > _IOPS_SHARE * storage.iops:
        yield IOPS.warned(
            f"{seen.who}: its busiest hour of the past week used {used:.0f} of {storage.iops} I/O operations a second",
            "Copy with fewer jobs, or in a quiet time.",
        )


def _cpu(seen: Seen, most: float) -> Finding:
    text = f"{seen.who}: its busiest hour of the past day took {most:.0f} % CPU"
    if most > _CPU_PERCENT:
        return CPU.warned(text, "Copy with fewer jobs, or in a quiet time.")
    return CPU.passed(text)
