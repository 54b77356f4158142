"""Which databases carry certain tags, asked of moto: pages, clusters, replicas, other engines, tags that differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import boto3
import pytest

from planrunner.aws.discovery import Listed, listed
from planrunner.errors import CloudError
from planrunner.model import RdsInstance

if TYPE_CHECKING:
    from collections.abc import Iterator

WANTED = {"migrate": "shops"}


@pytest.fixture
def rds(instance: RdsInstance) -> Iterator[Any]:
    yield boto3.client("rds", endpoint_url=instance.endpoint_url)
    urlopen(Request(f"{instance.endpoint_url}/moto-api/reset", method="POST")).close()


def tags(**given: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in given.items()]


def make(rds: Any, name: str, *, engine: str = "postgres", **more: Any) -> None:
    rds.create_db_instance(
        DBInstanceIdentifier=name,
        DBInstanceClass="db.t3.micro",
        Engine=engine,
        **{"Tags": tags(**WANTED), **more},
    )


def test_an_instance_is_listed_by_all_its_tags(rds: Any, instance: RdsInstance) -> None:
    make(rds, "shop-2", DBName="two", Port=5433, Tags=tags(migrate="shops", database="two"))
    make(rds, "shop-1", Tags=tags(migrate="shops", database="one"))
    make(rds, "other", Tags=tags(migrate="no"))
    make(rds, "mysql", engine="mysql")

    found = listed(instance, WANTED)

    assert [one.identifier for one in found] == ["shop-1", "shop-2"]
    two = found[1]
    assert (two.value("port"), two.value("database"), two.value("tag:database")) == ("5433", "two", "two")
    assert two.value(
        "endpoint",
    ).startswith("shop-2.")  # type: ignore[union-attr]
    assert two.value("tag:nothing") is None
    assert [one.identifier for one in listed(instance, {**WANTED, "database": "one"})] == ["shop-1"]


def test_more_instances_than_fit_on_a_page_are_all_listed(rds: Any, instance: RdsInstance) -> None:
    for number in range(101):
        make(rds, f"shop-{number:03}")

    assert len(listed(instance, WANTED)) == 101


def test_a_cluster_is_listed_and_its_members_are_not(rds: Any, instance: RdsInstance) -> None:
    rds.create_db_cluster(
        DBClusterIdentifier="aurora",
        Engine="aurora-postgresql",
        MasterUsername="migrator",
        MasterUserPassword="hunter2-hunter2",
        DatabaseName="shop",
        Tags=tags(**WANTED),
    )
    make(rds, "aurora-1", engine="aurora-postgresql", DBClusterIdentifier="aurora")

    (one,) = listed(instance, WANTED)

    assert (one.identifier, one.value("engine"), one.value("database")) == (
        "aurora",
        "aurora-postgresql",
        "shop",
    )
    assert ".cluster-" in (one.value("endpoint") or "")


def test_a_read_replica_is_no_member(rds: Any, instance: RdsInstance) -> None:
    make(rds, "shop")
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier="shop-replica", SourceDBInstanceIdentifier="shop", Tags=tags(**WANTED)
    )

    assert [one.identifier for one in listed(instance, WANTED)] == ["shop"]


def test_an_api_that_does_not_answer_is_told(instance: RdsInstance) -> None:
    away = RdsInstance(instance="x", region="us-east-1", endpoint_url="http://127.0.0.1:1")

    with pytest.raises(CloudError):
        listed(away, WANTED)


def test_a_value_is_an_attribute_or_a_tag() -> None:
    one = Listed(attributes={"identifier": "a"}, tags={"identifier": "b", "x:y": "c"})

    assert [one.value(name) for name in ("identifier", "tag:identifier", "tag:x:y", "tag:", "port")] == [
        "a", "b", "c", None, None,
    ]  # fmt: skip
