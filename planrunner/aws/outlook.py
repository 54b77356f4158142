"""What an RDS instance's past says of a migration: how long a reboot takes, how far its storage lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.aws.events import KEPT_DAYS, Outages
from planrunner.aws.hourly import HOUR_SECONDS, Hourly, quietest, totals
from planrunner.aws.storage import SCALING_BELOW
from planrunner.aws.week import Metric
from planrunner.model import Estimate
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.aws.events import Outage
    from planrunner.aws.storage import Storage
    from planrunner.aws.week import Week

_SHOWN = 3
_WEEK_HOURS = 7 * 24
_DAY_HOURS = 24


@dataclass(frozen=True, kw_only=True)
class Span:
    """A range of seconds or bytes; both ends are known."""

    low: float
    high: float


def reboot(past: Outages) -> Estimate:
    """How long a reboot takes, by the last three of the past 14 days; unknown where AWS kept none with both ends."""
    lone = f"; {_counted(past.unmeasured, 'restart')} without a beginning" if past.unmeasured else ""
    if not past.reboots:
        kept = f"AWS keeps events for {KEPT_DAYS} days and has no reboot with beginning and end among them"
        return Estimate(name="reboot_time", unit="s", reason=f"{kept}{lone}{_failovers(past.failovers)}")
    last = past.reboots[-_SHOWN:]
    low, high = min(o.seconds for o in last), max(o.seconds for o in last)
    many = f"the last {len(last)} reboots" if len(last) > 1 else "the last reboot"
    each = "; ".join(f"{o.began:%Y-%m-%d %H:%M} UTC {_exactly(o.seconds)}" for o in reversed(last))
    return Estimate(
        name="reboot_time",
        unit="s",
        low=low,
        high=high,
        text=f"{many} took {_between(low, high)}",
        formula=f"from 'DB instance shutdown' to 'DB instance restarted' in its events of {KEPT_DAYS} days: {each}"
        f"{lone}{_failovers(past.failovers)}",
    )


def _failovers(found: Sequence[Outage]) -> str:
    if not found:
        return ""
    low, high = min(o.seconds for o in found), max(o.seconds for o in found)
    return f"; {_counted(len(found), 'failover')}, which a reboot of ours is not, took {_between(low, high)}"


def sessions(week: Week) -> Estimate:
    """How many sessions a reboot cuts off, by the hours of the past week."""
    found = week.of(Metric.SESSIONS)
    if not found:
        return Estimate(name="sessions_cut", unit="", reason=_absent(Metric.SESSIONS))
    low, high = min(found.values), max(found.values)
    calm = quietest(found)
    when = f"; fewest at {_clock(calm[0][0])}, most at {_clock(calm[1][0])}" if calm and low < high else ""
    return Estimate(
        name="sessions_cut",
        unit="",
        low=low,
        high=high,
        text=f"{low:.0f} to {high:.0f}{when}",
        formula=f"DatabaseConnections, the most of each hour, {_hours(found)}; all of them are cut off",
    )


def of_copy(week: Week, storage: Storage, copy: Span | None, *, allowed: int | None) -> tuple[Estimate, ...]:
    """What the source's storage comes to while a slot is held for the seconds that the copy takes.

    ``allowed`` is the WAL in bytes at which the plan gives its slot up, None where it never does.
    """
    held = retained(week, copy, allowed=allowed)
    return (
        _rate(week),
        _retained(week, copy, held, allowed),
        *_on_disk(week),
        _free(week, storage),
        *(_after(week, storage, held) if held else ()),
        *_lasting(week),
        _quiet(week, copy),
        *_operations(week, storage),
    )


def of_target(week: Week, storage: Storage, needed: Span) -> tuple[Estimate, ...]:
    """What an RDS target's storage has left once everything is there; ``needed`` in bytes."""
    now = free(week, storage)
    if now is None:
        return ()
    low, high = now - needed.high, now - needed.low
    left = (
        f"{human_bytes(max(low, 0))} to {human_bytes(high)} are left"
        if high > 0
        else "the target's storage is too small"
    )
    found = Estimate(
        name="target_storage_left",
        unit="B",
        low=low,
        high=high,
        text=f"{left} of {human_bytes(storage.allocated)}; {human_bytes(now)} are free now",
        formula="FreeStorageSpace of the target, the least of the last hour, minus target_disk",
    )
    return (found, *_growth(storage, low))


def retained(week: Week, copy: Span | None, *, allowed: int | None) -> Span | None:
    """The WAL that a slot holds at the end of the copy, in bytes; None where rate or time are unknown."""
    rate = week.of(Metric.WAL_RATE)
    if not rate or copy is None:
        return None
    low, high = totals(rate, copy.low)[0], totals(rate, copy.high)[1]
    most = float("inf") if allowed is None else allowed
    return Span(low=min(low, most), high=min(high, most))


def free(week: Week, storage: Storage) -> float | None:
    """The free storage in bytes as of the last hours; None where it is unknown, or has no end, as Aurora's."""
    return None if storage.elastic else week.of(Metric.FREE_STORAGE).newest(week.until)


def _rate(week: Week) -> Estimate:
    found = week.of(Metric.WAL_RATE)
    if not found:
        return Estimate(name="wal_rate_week", unit="B/s", reason=_absent(Metric.WAL_RATE))
    low, high = min(found.values), max(found.values)
    return Estimate(
        name="wal_rate_week",
        unit="B/s",
        low=low,
        high=high,
        text=f"{human_bytes(found.mean)}/s in the mean, {human_bytes(high)}/s in the busiest hour",
        formula=f"TransactionLogsGeneration, the mean of each hour, {_hours(found)}",
    )


def _retained(week: Week, copy: Span | None, held: Span | None, allowed: int | None) -> Estimate:
    if held is None or copy is None:
        why = _absent(Metric.WAL_RATE) if not week.of(Metric.WAL_RATE) else "copy_time is not measured"
        return Estimate(name="wal_retained_week", unit="B", reason=why)
    given_up = (
        f"; at most max_wal_retained, {human_bytes(allowed)}, where the plan gives the slot up"
        if allowed
        else ""
    )
    return Estimate(
        name="wal_retained_week",
        unit="B",
        low=held.low,
        high=held.high,
        text=f"a slot held for the copy grows to {human_bytes(held.low)} to {human_bytes(held.high)}",
        formula="the least and the most WAL of the past week in hours as many as copy_time"
        f" ({human_seconds(copy.low)} to {human_seconds(copy.high)}){given_up}",
    )


def _on_disk(week: Week) -> Iterator[Estimate]:
    found, lag = week.of(Metric.WAL_ON_DISK), week.of(Metric.SLOT_LAG).newest(week.until)
    now = found.newest(week.until)
    if now is None:
        return
    held = "" if lag is None else f", of which the oldest slot holds back {human_bytes(lag)}"
    yield Estimate(
        name="wal_on_disk",
        unit="B",
        low=now,
        high=max(found.values),
        text=f"{human_bytes(now)} now{held}, at most {human_bytes(max(found.values))} in the past week",
        formula="TransactionLogsDiskUsage and OldestReplicationSlotLag, the most of each hour",
    )


def _free(week: Week, storage: Storage) -> Estimate:
    if storage.elastic:
        why = "Aurora's storage grows with what is in it, and what it has held is paid by its size"
        return Estimate(name="storage_free", unit="B", reason=why)
    now = free(week, storage)
    if now is None:
        return Estimate(
            name="storage_free", unit="B", reason=_absent(Metric.FREE_STORAGE, "of the last hours")
        )
    grows = f"autoscaling up to {human_bytes(storage.limit)}" if storage.limit else "no autoscaling"
    return Estimate(
        name="storage_free",
        unit="B",
        low=now,
        high=now,
        text=f"{human_bytes(now)} of {human_bytes(storage.allocated)} ({storage.kind}, {grows})",
        formula="FreeStorageSpace, the least of the last hour; AllocatedStorage",
    )


def _after(week: Week, storage: Storage, held: Span) -> Iterator[Estimate]:
    now = free(week, storage)
    if now is None:
        return
    low, high = now - held.high, now - held.low
    if high <= 0:
        text = "the source's storage would be FULL before the copy is done"
    elif low <= 0:
        text = f"between {human_bytes(high)} and nothing: in a busy time the source's storage would be FULL"
    else:
        text = f"{human_bytes(low)} to {human_bytes(high)} are left"
    yield Estimate(
        name="storage_after_copy",
        unit="B",
        low=low,
        high=high,
        text=text,
        formula="storage_free - wal_retained_week",
    )
    yield from _growth(storage, low)


def _growth(storage: Storage, left: float) -> Iterator[Estimate]:
    line = SCALING_BELOW * storage.allocated
    if left > line or not storage.scales:
        return
    assert storage.limit is not None
    step = min(storage.step, storage.limit - storage.allocated)
    yield Estimate(
        name="storage_growth",
        unit="B",
        low=0.0,
        high=float(step),
        text=f"autoscaling would add {human_bytes(step)} or more, which is paid from then on and can't be taken back:"
        " the storage of an RDS instance never shrinks",
        formula=f"AWS adds where less than {SCALING_BELOW:.0%} ({human_bytes(line)}) is free for 5 minutes, the greatest"
        " of 10 GiB, 10 % and its own forecast; then not again for 6 hours",
    )


def _lasting(week: Week) -> Iterator[Estimate]:
    rate, now = week.of(Metric.WAL_RATE), week.of(Metric.FREE_STORAGE).newest(week.until)
    if not rate or now is None or rate.mean <= 0:
        return
    low, high = now / max(rate.values), now / rate.mean
    yield Estimate(
        name="storage_lasts",
        unit="s",
        low=low,
        high=high,
        text=f"{_long(low)} at the rate of the busiest hour, {_long(high)} at the mean",
        formula="storage_free / wal_rate_week, while a slot is held and nothing reads it",
    )


def _quiet(week: Week, copy: Span | None) -> Estimate:
    rate = week.of(Metric.WAL_RATE)
    if not rate:
        return Estimate(name="quiet_time", unit="h", reason=_absent(Metric.WAL_RATE))
    hours = 1 if copy is None else min(_DAY_HOURS, max(1, -(-int(copy.high) // HOUR_SECONDS)))
    found, one = quietest(rate, hours), quietest(rate)
    if found is None or one is None:
        why = f"CloudWatch has TransactionLogsGeneration of {_hours(rate)}, not of every hour of the day"
        return Estimate(name="quiet_time", unit="h", reason=why)
    (least, calm), (most, busy) = found
    length = "an hour" if hours == 1 else f"{hours} hours"
    return Estimate(
        name="quiet_time",
        unit="h",
        low=float(least),
        high=float(least),
        text=f"WAL is least in {length} from {_clock(least)} ({human_bytes(calm)}/s), most from {_clock(most)}"
        f" ({human_bytes(busy)}/s)",
        formula=f"means by the hour of the day, {_hours(rate)}; the single hours: least {_clock(one[0][0])}, most"
        f" {_clock(one[1][0])}",
    )


def operations(week: Week) -> float | None:
    """The reads and writes a second of the busiest hour; None where they are unknown."""
    reads, writes = dict(week.of(Metric.READS).points), dict(week.of(Metric.WRITES).points)
    both = [reads[hour] + writes[hour] for hour in reads.keys() & writes.keys()]
    return max(both, default=None)


def _operations(week: Week, storage: Storage) -> Iterator[Estimate]:
    used = operations(week)
    if storage.iops is None or used is None:
        return
    yield Estimate(
        name="iops_used",
        unit="1/s",
        low=used,
        high=used,
        text=f"{used:.0f} of {storage.iops} I/O operations a second in the busiest hour; the copy reads beside them, and"
        " none are bought for it",
        formula="ReadIOPS + WriteIOPS, the mean of each hour of 7 days; Iops of the instance",
    )


def _absent(metric: Metric, when: str = "of the past 7 days") -> str:
    return f"CloudWatch has no {metric.value} {when}"


def _hours(found: Hourly) -> str:
    return f"{len(found.points)} of {_WEEK_HOURS} hours of the past week"


def _clock(hour: int) -> str:
    return f"{hour:02d}:00 UTC"


def _between(low: float, high: float) -> str:
    if _exactly(low) == _exactly(high):
        return _exactly(low)
    return f"{_exactly(low)} to {_exactly(high)}" if high >= 120 else f"{low:.0f} to {high:.0f} s"


def _exactly(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _long(seconds: float) -> str:
    return human_seconds(seconds) if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
