"""What a week's figures say of a migration: ranges, warnings in words, and nothing where nothing is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner.aws import outlook
from planrunner.aws.events import Outage, Outages
from planrunner.aws.hourly import Hourly
from planrunner.aws.outlook import Span
from planrunner.aws.storage import GIB, Storage
from planrunner.aws.week import Metric, Week

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.model import Estimate

NOW = datetime(2026, 3, 8, 12, 30, tzinfo=UTC)
MB = 1 << 20
COPY = Span(low=3600, high=7200)
STORAGE = Storage(status="available", kind="gp3", allocated=100 * GIB)


def week(**figures: float | Callable[[int], float]) -> Week:
    """Seven days of each figure, constant or by the hour of the day."""
    first = NOW.replace(minute=0) - timedelta(hours=167)
    moments = [first + timedelta(hours=n) for n in range(168)]
    return Week(
        until=NOW,
        figures={
            Metric[name.upper()]: Hourly(
                points=tuple((m, float(value(m.hour) if callable(value) else value)) for m in moments)
            )
            for name, value in figures.items()
        },
    )


def told(
    found: Week, storage: Storage = STORAGE, copy: Span | None = COPY, allowed: int | None = None
) -> dict[str, Estimate]:
    return {e.name: e for e in outlook.of_copy(found, storage, copy, allowed=allowed)}


def past(*seconds: float, failover: bool = False) -> tuple[Outage, ...]:
    days = [NOW - timedelta(days=len(seconds) - n) for n in range(len(seconds))]
    return tuple(
        Outage(began=day, ended=day + timedelta(seconds=s), failover=failover)
        for day, s in zip(days, seconds, strict=True)
    )


def test_the_last_three_reboots_are_told() -> None:
    found = outlook.reboot(Outages(reboots=past(300, 38, 52, 44)))
    assert (found.low, found.high, found.text) == (38, 52, "the last 3 reboots took 38 to 52 s")
    assert "2026-03-07 12:30 UTC 44 s" in (found.formula or "")


def test_one_reboot_is_told_as_one() -> None:
    assert outlook.reboot(Outages(reboots=past(38))).text == "the last reboot took 38 s"


def test_without_a_reboot_no_figure_is_made_up() -> None:
    found = outlook.reboot(Outages(unmeasured=2, failovers=past(61, 75, failover=True)))
    assert (found.low, found.high, found.text) == (None, None, "")
    assert "no reboot" in (found.reason or "")
    assert "2 restarts without a beginning" in (found.reason or "")
    assert "2 failovers, which a reboot of ours is not, took 61 to 75 s" in (found.reason or "")


def test_the_slot_grows_by_the_wal_of_hours_as_many_as_the_copy_takes() -> None:
    found = told(week(wal_rate=lambda hour: MB * (1 + (hour == 9)), free_storage=50 * GIB))
    held = found["wal_retained_week"]
    assert (held.low, held.high) == (3600 * MB, 3 * 3600 * MB)
    assert held.text == "a slot held for the copy grows to 4 GB to 11 GB"
    assert found["storage_after_copy"].low == 50 * GIB - 3 * 3600 * MB


def test_a_slot_that_the_plan_gives_up_holds_no_more() -> None:
    found = told(week(wal_rate=100 * MB), allowed=20 * GIB)["wal_retained_week"]
    assert (found.low, found.high) == (20 * GIB, 20 * GIB)
    assert "max_wal_retained" in (found.formula or "")


def test_storage_that_would_be_full_is_said_in_capitals() -> None:
    full = told(week(wal_rate=100 * MB, free_storage=10 * GIB))
    assert "FULL before the copy is done" in full["storage_after_copy"].text
    perhaps = told(week(wal_rate=100 * MB, free_storage=500 * GIB), copy=Span(low=60, high=86400))
    assert "in a busy time" in perhaps["storage_after_copy"].text


def test_how_long_the_storage_lasts_needs_no_time_of_the_copy() -> None:
    found = told(week(wal_rate=MB, free_storage=7200 * MB), copy=None)
    assert (found["storage_lasts"].low, found["storage_lasts"].high) == (7200, 7200)
    assert found["wal_retained_week"].reason == "copy_time is not measured"
    assert "storage_after_copy" not in found


def test_autoscaling_is_said_to_be_for_ever() -> None:
    growing = Storage(status="available", kind="gp3", allocated=100 * GIB, limit=500 * GIB)
    found = told(week(wal_rate=MB, free_storage=12 * GIB), growing)
    assert "never shrinks" in found["storage_growth"].text
    assert found["storage_growth"].high == 10 * GIB
    assert "storage_growth" not in told(week(wal_rate=MB, free_storage=90 * GIB), growing)
    assert "storage_growth" not in told(week(wal_rate=MB, free_storage=12 * GIB))


def test_the_quiet_hour_is_by_the_length_of_the_copy() -> None:
    found = told(week(wal_rate=lambda hour: MB * (1 if hour in {3, 4} else 9)))["quiet_time"]
    assert found.text.startswith("WAL is least in 2 hours from 03:00 UTC (1 MB/s)")


def test_the_wal_that_lies_there_already_is_told_with_what_a_slot_holds_of_it() -> None:
    found = told(week(wal_on_disk=3 * GIB, slot_lag=GIB))["wal_on_disk"]
    assert found.text == "3 GB now, of which the oldest slot holds back 1 GB, at most 3 GB in the past week"


def test_what_cloudwatch_does_not_have_is_named() -> None:
    found = told(week())
    assert {name for name, e in found.items() if e.reason} == {
        "wal_rate_week",
        "wal_retained_week",
        "storage_free",
        "quiet_time",
    }
    assert found["storage_free"].reason == "CloudWatch has no FreeStorageSpace of the last hours"


def test_aurora_has_no_free_storage() -> None:
    found = told(
        week(free_storage=GIB), Storage(status="available", kind="aurora", allocated=GIB, elastic=True)
    )
    assert "Aurora's storage grows" in (found["storage_free"].reason or "")


def test_provisioned_operations_are_compared_with_those_used() -> None:
    storage = Storage(status="available", kind="io1", allocated=100 * GIB, iops=3000)
    found = told(week(reads=1000, writes=250), storage)["iops_used"]
    assert found.text.startswith("1250 of 3000 I/O operations a second")


def test_a_target_that_is_too_small_is_said_so() -> None:
    (found, *_) = outlook.of_target(week(free_storage=10 * GIB), STORAGE, Span(low=20 * GIB, high=30 * GIB))
    assert found.text.startswith("the target's storage is too small")
    assert found.high == -10 * GIB


@given(
    rate=st.floats(0, 1e9),
    free=st.floats(0, 1e13),
    low=st.floats(1, 1e6),
    more=st.floats(0, 1e6),
    allowed=st.none() | st.integers(0, 10**12),
)
def test_estimates_are_ranges_in_order(
    rate: float, free: float, low: float, more: float, allowed: int | None
) -> None:
    found = told(week(wal_rate=rate, free_storage=free), copy=Span(low=low, high=low + more), allowed=allowed)
    for estimate in found.values():
        assert (estimate.low is None) == (estimate.reason is not None)
        if estimate.low is not None and estimate.high is not None:
            assert estimate.low <= estimate.high + 1e-9 * abs(estimate.high) + 1e-6
            assert estimate.text
    after, held = found["storage_after_copy"], found["wal_retained_week"]
    assert after.low is not None
    assert held.high is not None
    assert after.low == pytest.approx(free - held.high, abs=1)
    assert allowed is None or held.high <= allowed
