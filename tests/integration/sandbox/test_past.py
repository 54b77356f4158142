"""What AWS tells of an instance's past, through real boto3: events in pages, a week of figures, refusals, gaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from planrunner.aws import calls
from planrunner.aws.carrier import Carrier
from planrunner.aws.events import outages
from planrunner.aws.rds import Rds
from planrunner.aws.week import Metric
from planrunner.clock import SystemClock
from planrunner.errors import CloudError
from planrunner.model import RdsInstance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.sandbox.rds_api import RdsApi

pytestmark = pytest.mark.server


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def ours(api: RdsApi, instance: str | None = None) -> Rds:
    access = RdsInstance(instance=instance or api.instance, region=api.region, endpoint_url=api.endpoint_url)
    return Rds(access, SystemClock())


def put(api: RdsApi, metric: str, values: Mapping[datetime, float], instance: str | None = None) -> None:
    service: Any = boto3.client("cloudwatch", endpoint_url=api.endpoint_url, region_name=api.region)
    named = [{"Name": "DBInstanceIdentifier", "Value": instance or api.instance}]
    data = [
        {"MetricName": metric, "Dimensions": named, "Timestamp": t, "Value": v} for t, v in values.items()
    ]
    service.put_metric_data(Namespace="AWS/RDS", MetricData=data)


def last_hours(now: datetime, count: int) -> list[datetime]:
    hour = now.replace(minute=0, second=0, microsecond=0)
    return [hour - timedelta(hours=n) for n in reversed(range(count))]


def test_a_reboot_of_the_stand_in_leaves_events_with_its_real_length(api: RdsApi) -> None:
    cloud = ours(api)
    carrier = Carrier(cloud)
    carrier.reboot(carrier.look())
    carrier.calm(60, lambda _text, _fields: None)
    found = outages(cloud.events())
    assert len(found.reboots) == 1
    assert 0 < found.reboots[0].seconds < 60
    assert found.unmeasured == 0


def test_events_come_in_pages_and_in_order(api: RdsApi, now: datetime) -> None:
    api.events.page = 3
    for day in range(5):
        began = now - timedelta(days=5 - day)
        api.events.note(api.instance, "DB instance restarted", began + timedelta(seconds=30 + day))
        api.events.note(api.instance, "DB instance shutdown", began)
    found = outages(ours(api).events())
    assert [round(o.seconds) for o in found.reboots] == [30, 31, 32, 33, 34]
    assert [call.action for call in api.calls] == ["DescribeEvents"] * 4
    assert all(o.began.tzinfo is UTC for o in found.reboots)


def test_two_weeks_are_asked_for_and_nothing_of_other_instances(api: RdsApi, now: datetime) -> None:
    api.events.note(api.instance, "too old", now - timedelta(days=15))
    api.events.note("another", "not ours", now - timedelta(days=1))
    api.events.note(api.instance, "old enough", now - timedelta(days=13))
    assert [event.message for event in ours(api).events()] == ["old enough"]


def test_refused_events_name_the_action(api: RdsApi) -> None:
    api.denied.add("DescribeEvents")
    with pytest.raises(CloudError, match="IAM does not allow rds:DescribeEvents"):
        ours(api).events()


def test_a_week_of_figures_is_asked_for_at_once(api: RdsApi, now: datetime) -> None:
    hours = last_hours(now, 168)
    put(api, "TransactionLogsGeneration", {hour: float(n) for n, hour in enumerate(hours)})
    put(api, "FreeStorageSpace", {hours[-1]: 5e9, hours[-1] + timedelta(seconds=1): 4e9})
    put(api, "FreeStorageSpace", {hours[-1]: 1.0}, instance="another")
    asked = len(api.cloudwatch.calls)
    week = ours(api).week()
    assert week.of(Metric.WAL_RATE).points == tuple((h, float(n)) for n, h in enumerate(hours))
    # Of what must not run out the hour's worst moment counts.
    assert week.of(Metric.FREE_STORAGE).newest(week.until) == 4e9
    assert not week.of(Metric.BURST)
    assert len(api.cloudwatch.calls) - asked == 1


def test_figures_in_pages_are_put_together(api: RdsApi, now: datetime) -> None:
    hours = last_hours(now, 48)
    for metric in Metric:
        put(api, metric.value, {hour: float(n) for n, hour in enumerate(hours)})
    whole = ours(api).week()
    api.cloudwatch.page = 50
    asked = len(api.cloudwatch.calls)
    assert ours(api).week().figures == whole.figures
    assert len(api.cloudwatch.calls) - asked == 9


def test_gaps_stay_gaps(api: RdsApi, now: datetime) -> None:
    hours = last_hours(now, 24)
    known = {hour: 1.0 for n, hour in enumerate(hours) if n % 3}
    put(api, "CPUUtilization", known)
    assert [at for at, _ in ours(api).week().of(Metric.CPU).points] == list(known)


def test_refused_figures_name_the_action(api: RdsApi) -> None:
    api.denied.add("GetMetricData")
    with pytest.raises(CloudError, match="IAM does not allow cloudwatch:GetMetricData") as refused:
        ours(api).week()
    assert "policy" in (refused.value.remedy or "")


def test_without_figures_every_series_is_empty(api: RdsApi) -> None:
    week = ours(api).week()
    assert not any(week.of(metric) for metric in Metric)


def test_storage_is_told_in_bytes_with_how_far_it_grows(api: RdsApi) -> None:
    service: Any = boto3.client("rds", endpoint_url=api.endpoint_url, region_name=api.region)
    service.create_db_instance(
        DBInstanceIdentifier="big",
        Engine="postgres",
        DBInstanceClass="db.m6g.large",
        MasterUsername="u",
        MasterUserPassword="not-a-secret",
        AllocatedStorage=200,
        MaxAllocatedStorage=1000,
        StorageType="io1",
        Iops=3000,
    )
    found = ours(api, "big").storage()
    assert (found.allocated, found.limit, found.iops, found.kind) == (200 << 30, 1000 << 30, 3000, "io1")
    assert found.scales
    assert found.step == 20 << 30
    with pytest.raises(CloudError, match="not found"):
        ours(api, "nowhere").storage()


def test_calls_are_counted_by_action(api: RdsApi) -> None:
    before = dict(calls.made())
    cloud = ours(api)
    cloud.storage()
    cloud.week()
    now = calls.made()
    assert now["rds:DescribeDBInstances"] == before.get("rds:DescribeDBInstances", 0) + 1
    assert now["cloudwatch:GetMetricData"] == before.get("cloudwatch:GetMetricData", 0) + 1
