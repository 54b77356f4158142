"""What a preview tells of cost and risk, from planted events and figures of a stand-in RDS; and what stays."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from planrunner.cli.opening import connector
from planrunner.clock import SystemClock
from planrunner.engine import preview_json, preview_markdown, preview_text, privileges_text
from planrunner.engine.looking import View, looking_at
from planrunner.engine.preview import Preview, preview
from planrunner.engine.privileges import wanted
from planrunner.loading import load
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.replication import wal_history
from planrunner.sandbox.demo import Stage, stage
from planrunner.sandbox.rds_api import CREDENTIALS
from planrunner.state.file import FileStore
from tests.acceptance.helpers import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MB = 1 << 20


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    """The demo's stage, its shop big enough for a rate to be measured."""
    with stage(None, None, scale=0.4) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither figures nor refusals of another test."""
    for name, value in {**CREDENTIALS, **scene.environment()}.items():
        monkeypatch.setenv(name, value)
    scene.api.cloudwatch.forget()
    scene.api.denied.clear()


def plant(scene: Stage, **figures: Callable[[int], float] | float) -> None:
    """A week of each metric, constant or by the hour of the day."""
    service: Any = boto3.client("cloudwatch", endpoint_url=scene.api.endpoint_url, region_name="us-east-1")
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    named = [{"Name": "DBInstanceIdentifier", "Value": scene.api.instance}]
    for metric, value in figures.items():
        moments = [hour - timedelta(hours=n) for n in range(168)]
        data = [
            {
                "MetricName": metric,
                "Dimensions": named,
                "Timestamp": moment,
                "Value": float(value(moment.hour) if callable(value) else value),
            }
            for moment in moments
        ]
        service.put_metric_data(Namespace="AWS/RDS", MetricData=data)


@contextmanager
def viewed(scene: Stage) -> Iterator[View]:
    """The plan opened for looking, in this process: all three formats are of one look."""
    variables = dict(text.split("=", 1) for text in scene.variables() if "=" in text)
    plan = load(scene.plan, variables=variables)
    state = FileStore(scene.folder / f"{scene.plan.name}.state.json").load()
    with looking_at(plan, state, connect=connector(), clock=SystemClock()) as view:
        yield view


def looked_at(scene: Stage) -> Preview:
    with viewed(scene) as view:
        return preview(view)


def as_json(found: Preview) -> Any:
    return json.loads(preview_json.to_json(found))


def estimates(tree: Any, step: str) -> dict[str, Any]:
    return {e["name"]: e for s in tree["steps"] if s["id"] == step for e in s["estimates"]}


def findings(tree: Any) -> dict[str, str]:
    return {
        finding["text"]: finding["mark"]
        for step in tree["steps"]
        for finding in step["findings"]
        if finding["section"] == "AWS"
    }


def test_past_reboots_and_busy_hours_are_told_in_every_format(scene: Stage) -> None:
    now = datetime.now(UTC)
    for days, length in ((2, 52), (5, 38), (8, 44)):
        began = now - timedelta(days=days)
        scene.api.events.note(scene.api.instance, "DB instance shutdown", began)
        scene.api.events.note(scene.api.instance, "DB instance restarted", began + timedelta(seconds=length))
    plant(
        scene,
        FreeStorageSpace=4096 * MB,
        TransactionLogsGeneration=lambda hour: MB / 64 if hour == 3 else MB / 8,
        DatabaseConnections=lambda hour: 10 + hour,
        CPUUtilization=85,
    )
    found = looked_at(scene)
    tree = as_json(found)
    reboot = estimates(tree, "logical")["reboot_time"]
    assert (reboot["low"], reboot["high"], reboot["unit"]) == (38.0, 52.0, "s")
    told = (
        "reboot time: the last 3 reboots took 38 to 52 s",
        "sessions cut: 10 to 33; fewest at 00:00 UTC, most at 23:00 UTC",
        "wal rate week: ",
        "storage lasts: 9.1 h at the rate of the busiest hour",
        "quiet time: WAL is least in an hour from 03:00 UTC",
        "its busiest hour of the past day took 85 % CPU",
        "parameter group planrunner-shop-prod",
        "until it is 0 and rebooted",
    )
    for text in (preview_text.to_text(found), preview_markdown.to_markdown(found)):
        assert [words for words in told if words not in text] == []
    assert [text for text, mark in findings(tree).items() if mark == "warn"]
    stays = [trace["text"] for trace in tree["lasting"]["stays"]]
    assert "planrunner-shop-prod stays the parameter group of shop-prod" in stays
    assert any("on purpose" in text for text in stays)


def test_what_iam_refuses_is_told_and_costs_no_preview(scene: Stage) -> None:
    scene.api.denied |= {"GetMetricData", "DescribeEvents"}
    tree = as_json(looked_at(scene))
    logical, copy = estimates(tree, "logical"), estimates(tree, "copy")
    assert "rds:DescribeEvents" in logical["reboot_time"]["reason"]
    assert "cloudwatch:GetMetricData" in logical["sessions_cut"]["reason"]
    assert "cloudwatch:GetMetricData" in copy["storage_and_wal_of_the_week"]["reason"]
    assert copy["heap_bytes"]["low"] > 0
    # The server itself tells what it can: its counters began when it was made, minutes ago.
    assert "too short" in copy["wal_rate_counted"]["reason"]
    assert [mark for text, mark in findings(tree).items() if "cloudwatch:GetMetricData" in text] == ["warn"]


def test_without_figures_nothing_is_made_up(scene: Stage) -> None:
    copy = estimates(as_json(looked_at(scene)), "copy")
    assert copy["wal_rate_week"]["reason"] == "CloudWatch has no TransactionLogsGeneration of the past 7 days"
    assert (copy["storage_free"]["low"], copy["storage_free"]["high"]) == (None, None)


def test_the_policy_sets_apart_what_only_the_preview_reads(scene: Stage) -> None:
    with viewed(scene) as view:
        needed = wanted(view.plan, preview(view, estimating=False), view.context.world)
    told = json.loads(privileges_text.to_json(needed))
    (optional,) = [s for s in told["iam_policy"]["Statement"] if s.get("Sid") in told["optional"]]
    assert optional["Action"] == ["cloudwatch:GetMetricData", "rds:DescribeEvents"]
    for text in (privileges_text.to_text(needed), privileges_text.to_markdown(needed)):
        assert "can be left out" in text


def test_a_copy_that_would_fill_the_disk_is_told_and_stops_the_run(scene: Stage) -> None:
    assert run(scene, "--until", "grant", verb="run").returncode == 0
    plant(scene, FreeStorageSpace=MB, TransactionLogsGeneration=1 << 40)
    tree = as_json(looked_at(scene))
    copy = estimates(tree, "copy")
    assert copy["copy_time"]["reason"] is None
    assert copy["wal_retained_week"]["low"] == pytest.approx(copy["copy_time"]["low"] * (1 << 40))
    assert "FULL before the copy is done" in copy["storage_after_copy"]["text"]
    assert copy["aws_calls"]["low"] >= 2
    assert [mark for text, mark in findings(tree).items() if "would be full" in text] == ["fail"]
    assert tree["lasting"]["not_told"] == ["logical", "grant"]
    refused = run(scene, "--until", "copy", verb="run")
    assert refused.returncode == 1
    assert "would be full" in refused.stdout + refused.stderr
    # The stand-in noted the reboot of the run above.
    assert any(note.message == "DB instance restarted" for note in scene.api.events.noted[-2:])


def test_without_rds_the_servers_own_counter_tells(scene: Stage) -> None:
    source = Server(
        Endpoint(side=Side.SOURCE, dsn=scene.source_database.dsn),
        clock=SystemClock(),
        resolve=lambda _: Secret(scene.source_database.password),
        label="test",
    )
    try:
        found = wal_history.checkpoint(source)
        assert found.reason is None
        assert found.low is not None
        assert found.low >= 0
        assert "too short" in str(wal_history.counted(source).reason)
    finally:
        source.close()
