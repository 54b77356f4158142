"""What CloudWatch has measured of an RDS instance in the past week, hour by hour, in one question."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from planrunner.aws.failures import translated
from planrunner.aws.hourly import HOUR_SECONDS, Hourly
from planrunner.aws.session import client
from planrunner.aws.week import Metric, Week

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from planrunner.model import RdsInstance

DAYS = 7
_NAMESPACE = "AWS/RDS"
_DIMENSION = "DBInstanceIdentifier"


class CloudWatchClient(Protocol):
    """What is used of boto3's client."""

    def get_metric_data(self, **given: Any) -> Any:
        """Figures of metrics over a time, in pages."""
        ...


# What of an hour counts: its mean for rates, its worst moment for what must not run out.
_STATISTICS: Mapping[Metric, str] = {
    Metric.FREE_STORAGE: "Minimum",
    Metric.WAL_ON_DISK: "Maximum",
    Metric.WAL_RATE: "Average",
    Metric.SLOT_LAG: "Maximum",
    Metric.CPU: "Average",
    Metric.READS: "Average",
    Metric.WRITES: "Average",
    Metric.BURST: "Minimum",
    Metric.SESSIONS: "Maximum",
}


def week(instance: RdsInstance, now: datetime) -> Week:
    """Ask CloudWatch for the instance's week; CloudError when it refuses or does not answer."""
    service: CloudWatchClient = client("cloudwatch", instance)
    hour = now.replace(minute=0, second=0, microsecond=0)
    given: dict[str, Any] = {
        "MetricDataQueries": [_query(metric, instance.instance) for metric in Metric],
        "StartTime": hour - timedelta(days=DAYS),
        "EndTime": now,
        "ScanBy": "TimestampAscending",
    }
    points: dict[Metric, dict[datetime, float]] = {metric: {} for metric in Metric}
    with translated("cloudwatch", instance):
        for result in _results(service, given):
            # boto3 tells times in this machine's zone; hours of the day are UTC's.
            hours = (moment.astimezone(UTC) for moment in result["Timestamps"])
            points[_metric(result["Id"])].update(zip(hours, result["Values"], strict=True))
    figures = {metric: Hourly(points=tuple(sorted(found.items()))) for metric, found in points.items()}
    return Week(until=now, figures=figures)


def _results(service: CloudWatchClient, given: Mapping[str, Any]) -> Iterator[Any]:
    """Every result of every page: a metric may be told in several parts."""
    more: dict[str, str] = {}
    while True:
        page = service.get_metric_data(**given, **more)
        yield from page["MetricDataResults"]
        if not page.get("NextToken"):
            return
        more = {"NextToken": page["NextToken"]}


def _query(metric: Metric, instance: str) -> dict[str, Any]:
    named = {
        "Namespace": _NAMESPACE,
        "MetricName": metric.value,
        "Dimensions": [{"Name": _DIMENSION, "Value": instance}],
    }
    stat = {"Metric": named, "Period": HOUR_SECONDS, "Stat": _STATISTICS[metric]}
    return {"Id": metric.name.lower(), "MetricStat": stat, "ReturnData": True}


def _metric(query: str) -> Metric:
    return Metric[query.upper()]
