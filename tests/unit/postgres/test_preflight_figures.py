"""What AWS has measured, against what a migration needs: each verdict at its threshold."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from planrunner.aws.hourly import Hourly
from planrunner.aws.outlook import Span
from planrunner.aws.storage import GIB, Storage
from planrunner.aws.week import Metric, Week
from planrunner.errors import StepFailed
from planrunner.model import Mark, Side
from planrunner.postgres.preflight_figures import Seen, figures

if TYPE_CHECKING:
    from planrunner.model import Finding

NOW = datetime(2026, 3, 8, 12, 30, tzinfo=UTC)
STORAGE = Storage(status="available", kind="gp2", allocated=100 * GIB)
SOME = Span(low=5 * GIB, high=8 * GIB)


def week(**values: float) -> Week:
    moments = [NOW.replace(minute=0) - timedelta(hours=n) for n in range(47, -1, -1)]
    return Week(
        until=NOW,
        figures={
            Metric[name.upper()]: Hourly(points=tuple((m, value) for m in moments))
            for name, value in values.items()
        },
    )


def found(
    told: Week | str,
    storage: Storage | str = STORAGE,
    need: Span | None = SOME,
    side: Side = Side.SOURCE,
) -> dict[str, Finding]:
    seen = Seen(side=side, instance="orders", storage=storage, week=told)
    return {finding.code: finding for finding in figures(seen, lambda: need)}


def test_room_for_the_wal_of_the_copy_passes() -> None:
    room = found(week(free_storage=50 * GIB))["PR1011"]
    assert room.mark is Mark.PASS
    assert "takes 5 GB to 8 GB, 50 GB are free" in room.text
    assert (room.section, room.why is not None) == ("AWS", True)


@pytest.mark.parametrize(("free", "mark"), [(4, Mark.FAIL), (5, Mark.FAIL), (7, Mark.WARN), (9, Mark.PASS)])
def test_storage_that_the_slot_would_fill_fails_and_one_that_it_may_fill_warns(free: int, mark: Mark) -> None:
    room = found(week(free_storage=free * GIB))["PR1011"]
    assert room.mark is mark
    assert room.remedy is None or "--allocated-storage" in room.remedy


def test_autoscaling_turns_a_failure_into_a_warning_and_says_that_it_lasts() -> None:
    scaling = replace(STORAGE, limit=500 * GIB)
    assert found(week(free_storage=4 * GIB), scaling)["PR1011"].mark is Mark.WARN
    enlarged = found(week(free_storage=16 * GIB), scaling)["PR1011"]
    assert enlarged.mark is Mark.WARN
    assert "never shrinks" in (enlarged.remedy or "")
    assert found(week(free_storage=50 * GIB), scaling)["PR1011"].mark is Mark.PASS


def test_autoscaling_at_its_limit_helps_nobody() -> None:
    assert found(week(free_storage=4 * GIB), replace(STORAGE, limit=100 * GIB))["PR1011"].mark is Mark.FAIL


@pytest.mark.parametrize(("rate", "mark"), [(1 << 20, Mark.WARN), (100 << 10, Mark.PASS)])
def test_where_the_copy_is_not_measured_a_day_of_the_busiest_hour_must_fit(rate: float, mark: Mark) -> None:
    room = found(week(free_storage=50 * GIB, wal_rate=rate), need=None)["PR1011"]
    assert room.mark is mark
    assert "at the rate of the busiest hour" in room.text


def test_a_need_that_can_not_be_measured_costs_no_preflight() -> None:
    def need() -> Span | None:
        raise StepFailed("no rights yet")

    seen = Seen(side=Side.SOURCE, instance="orders", storage=STORAGE, week=week(free_storage=50 * GIB))
    assert [f.mark for f in figures(seen, need)] == [Mark.PASS]


def test_storage_full_fails_and_nearly_full_warns() -> None:
    assert found(week(free_storage=0), replace(STORAGE, status="storage-full"))["PR1012"].mark is Mark.FAIL
    assert found("no", replace(STORAGE, status="storage-full"))["PR1012"].mark is Mark.FAIL
    assert found(week(free_storage=9 * GIB))["PR1012"].mark is Mark.WARN
    assert "PR1012" not in found(week(free_storage=11 * GIB))


@pytest.mark.parametrize(
    ("code", "metric", "bad", "good"),
    [
        ("PR1013", "burst", 19, 20),
        ("PR1015", "slot_lag", 11 * GIB, 10 * GIB),
    ],
)
def test_what_runs_low_warns(code: str, metric: str, bad: float, good: float) -> None:
    room = {"free_storage": 50 * GIB}
    assert found(week(**room, **{metric: bad}))[code].mark is Mark.WARN
    assert code not in found(week(**room, **{metric: good}))


def test_cpu_above_eighty_percent_warns() -> None:
    assert found(week(free_storage=50 * GIB, cpu=81))["PR1014"].mark is Mark.WARN
    assert found(week(free_storage=50 * GIB, cpu=80))["PR1014"].mark is Mark.PASS


def test_provisioned_io_that_is_nearly_used_up_warns() -> None:
    storage = replace(STORAGE, kind="io1", iops=1000)
    assert found(week(free_storage=50 * GIB, reads=500, writes=301), storage)["PR1017"].mark is Mark.WARN
    assert "PR1017" not in found(week(free_storage=50 * GIB, reads=500, writes=300), storage)
    assert "PR1017" not in found(week(free_storage=50 * GIB, reads=500, writes=900))


def test_what_is_not_known_warns_and_names_the_action_that_would_tell() -> None:
    refused = found("aws: IAM does not allow cloudwatch:GetMetricData")
    assert list(refused) == ["PR1016"]
    assert refused["PR1016"].mark is Mark.WARN
    assert "cloudwatch:GetMetricData" in refused["PR1016"].text
    assert found(week())["PR1016"].mark is Mark.WARN


def test_a_target_is_measured_by_what_the_copy_brings() -> None:
    small = found(week(free_storage=4 * GIB), side=Side.TARGET)
    assert small["PR1011"].mark is Mark.FAIL
    assert small["PR1011"].text.startswith("Target's instance orders would be full: the copy takes")
    assert "PR1015" not in found(week(free_storage=50 * GIB, slot_lag=50 * GIB), side=Side.TARGET)


def test_aurora_has_room() -> None:
    assert found(week(), replace(STORAGE, elastic=True))["PR1011"].mark is Mark.PASS
