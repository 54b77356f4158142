"""The RDS client against moto's server, and what its errors tell."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.exceptions import ClientError

from planrunner.aws.carrier import Carrier
from planrunner.aws.failures import translated
from planrunner.aws.names import group_name_for
from planrunner.aws.parameters import INSTANCE, Change, ParameterGroups
from planrunner.aws.rds import Rds
from planrunner.clock import SystemClock
from planrunner.errors import CloudError
from planrunner.model import Json, RdsInstance

if TYPE_CHECKING:
    from collections.abc import Mapping


class FastClock:
    """Sleeping costs nothing but moves the clock."""

    def __init__(self) -> None:
        self.passed = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


def _client_error(code: str, message: str = "no", operation: str = "ModifyDBInstance") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def _told(error: Exception, instance: RdsInstance | None = None) -> CloudError:
    with pytest.raises(CloudError) as caught, translated("rds", instance):
        raise error
    return caught.value


@pytest.fixture
def rds(instance: RdsInstance) -> Rds:
    return Rds(instance, SystemClock())


def test_missing_instance_names_the_region(rds: Rds) -> None:
    with pytest.raises(CloudError, match="orders not found") as caught:
        rds.describe()
    assert "instance orders in region us-east-1" in (caught.value.remedy or "")


def groups(rds: Rds) -> ParameterGroups:
    return Carrier(rds).groups(INSTANCE)


def test_missing_group_is_none(rds: Rds) -> None:
    assert groups(rds).find("no-such-group") is None


def test_created_group_has_family_and_parameters(rds: Rds) -> None:
    change = Change(name="rds.logical_replication", value="1", method="pending-reboot")
    groups(rds).create("made", "postgres16", "for a test")
    groups(rds).set("made", [change])

    found = groups(rds).find("made")
    assert found is not None
    assert found.family == "postgres16"
    assert not found.immutable
    assert groups(rds).parameters("made")["rds.logical_replication"].value == "1"
    assert "max_wal_senders" not in groups(rds).parameters("made")


def test_made_again_after_a_lost_answer_a_group_of_ours_is_ours_and_another_is_not(rds: Rds) -> None:
    groups(rds).create("twice", "postgres16", "for a test")
    groups(rds).create("twice", "postgres16", "for a test")

    with pytest.raises(CloudError, match="already exists"):
        groups(rds).create("twice", "postgres16", "for another")


@pytest.fixture
def halted(moto_url: str) -> RdsInstance:
    service = boto3.client("rds", endpoint_url=moto_url)
    with suppress(ClientError):
        service.create_db_parameter_group(
            DBParameterGroupName="g", DBParameterGroupFamily="postgres16", Description="x"
        )
        service.create_db_instance(
            DBInstanceIdentifier="halted",
            DBInstanceClass="db.m6g.large",
            Engine="postgres",
            EngineVersion="16.4",
            DBParameterGroupName="g",
            MasterUsername="master",
            MasterUserPassword="password",
        )
    return RdsInstance(instance="halted", endpoint_url=moto_url)


def carrier_of(instance: RdsInstance) -> tuple[Carrier, FastClock]:
    clock = FastClock()
    rds = Rds(instance, clock)
    rds._families["postgres 16.4"] = "postgres16"  # moto does not list engine versions
    return Carrier(rds), clock


def test_waiting_for_an_instance_that_was_stopped_says_how_to_start_it(halted: RdsInstance) -> None:
    boto3.client("rds", endpoint_url=halted.endpoint_url).stop_db_instance(DBInstanceIdentifier="halted")

    with pytest.raises(CloudError, match="halted is stopped") as caught:
        carrier_of(halted)[0].calm(60, lambda _, __: None)

    assert "aws rds start-db-instance --db-instance-identifier halted" in (caught.value.remedy or "")


def test_waiting_for_an_instance_ends_with_its_status(
    halted: RdsInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier, clock = carrier_of(halted)
    there = replace(carrier.rds.describe(), status="modifying")
    monkeypatch.setattr(carrier.rds, "describe", lambda: there)
    news: list[object] = []

    def tell(_: str, fields: Mapping[str, Json]) -> None:
        news.append(fields["status"])

    with pytest.raises(CloudError, match="after 60 s still halted is modifying") as caught:
        carrier.calm(60, tell)

    assert "aws rds describe-events" in (caught.value.remedy or "")
    assert news == ["modifying"]
    assert 60 < clock.passed < 70


def test_denied_action_is_named_from_the_answer_or_the_call() -> None:
    words = "User: arn:aws:iam::1:user/x is not authorized to perform: rds:RebootDBInstance on resource: y"

    assert "IAM does not allow rds:RebootDBInstance" in _told(_client_error("AccessDenied", words)).message
    assert "rds:ModifyDBInstance" in _told(_client_error("AccessDeniedException", "")).message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ExpiredToken", "have expired"),
        ("InvalidClientTokenId", "are not valid"),
        ("SignatureDoesNotMatch", "are not valid"),
    ],
)
def test_bad_credentials_say_how_to_give_good_ones(code: str, words: str) -> None:
    error = _told(_client_error(code))

    assert words in error.message
    assert "AWS_PROFILE" in (error.remedy or "")


def test_no_credentials_say_how_to_give_some(rds: Rds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(CloudError, match="no credentials were found") as caught:
        rds.describe()
    assert "aws sts get-caller-identity" in (caught.value.remedy or "")


def test_unknown_profile_is_told(instance: RdsInstance) -> None:
    with pytest.raises(CloudError, match="nobody") as caught:
        Rds(replace(instance, profile="nobody"), SystemClock()).describe()
    assert "aws configure list-profiles" in (caught.value.remedy or "")


def test_missing_region_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    with pytest.raises(CloudError, match="no region") as caught:
        Rds(RdsInstance(instance="orders"), SystemClock()).describe()
    assert "connections.source.rds.region" in (caught.value.remedy or "")


def test_unreachable_api_is_told(instance: RdsInstance) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CloudError, match="does not answer"):
            Rds(replace(instance, endpoint_url=url), SystemClock()).describe()


def test_commands_are_quoted_for_a_shell(instance: RdsInstance) -> None:
    rds = Rds(replace(instance, profile="my profile"), SystemClock())

    assert (
        rds.command("reboot-db-instance", "--db-instance-identifier", "a b")
        == "aws rds reboot-db-instance --db-instance-identifier 'a b' --region us-east-1 --profile 'my profile'"
    )


@pytest.mark.parametrize(
    ("instance_name", "group"),
    [("orders-prod", "planrunner-orders-prod"), ("A_b.C", "planrunner-a-b-c"), ("x" * 300, None)],
)
def test_group_names_follow_rds(instance_name: str, group: str | None) -> None:
    name = group_name_for(instance_name)

    assert len(name) <= 255
    assert group is None or name == group
