"""Clones of an Aurora cluster: what AWS refuses and what we do, of clusters that are not ours or can't be cloned."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from botocore.exceptions import ClientError

from planrunner.aws.clones import Clones
from planrunner.aws.rds import Rds
from planrunner.clock import SystemClock
from planrunner.errors import StepConflict
from planrunner.model import RdsInstance
from planrunner.replication.workspace import Way
from planrunner.restoring import CopiedInstance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planrunner.model import Json
    from planrunner.sandbox.rds_api import RdsApi
    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.server
NAME = "planrunner-abcd-g1"
CLONE: dict[str, Any] = {
    "DBClusterIdentifier": NAME,
    "SourceDBClusterIdentifier": "shop",
    "RestoreType": "copy-on-write",
    "UseLatestRestorableTime": True,
}


@pytest.fixture
def rds(api: RdsApi) -> Any:
    return boto3.client("rds", endpoint_url=api.endpoint_url)


@pytest.fixture
def named(api: RdsApi) -> Rds:
    return Rds(RdsInstance(instance="shop-prod", endpoint_url=api.endpoint_url), SystemClock())


@pytest.fixture
def clones(named: Rds) -> Clones:
    return Clones(named, "abcd", poll=0.05)


def untold(_text: str, _fields: Mapping[str, Json]) -> None:
    """Whoever does not listen."""


def refusal(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


@pytest.fixture
def strange(api: RdsApi, rds: Any) -> RdsApi:
    """A cluster that somebody else has cloned under a name of ours."""
    api.add_cluster("shop")
    rds.restore_db_cluster_to_point_in_time(**CLONE, Tags=[{"Key": "owner", "Value": "them"}])
    return api


def test_a_cluster_of_that_name_which_is_not_ours_is_neither_used_nor_deleted(
    strange: RdsApi, clones: Clones
) -> None:
    before = len(strange.changes)
    with pytest.raises(StepConflict, match="planrunner-abcd-g1 is there and not ours"):
        clones.make(1, untold, datetime.now(UTC))
    with pytest.raises(StepConflict, match="planrunner-abcd-g1 is there and not ours"):
        clones.remove([1])
    assert strange.changes[before:] == []


def test_aws_takes_calls_in_their_order_alone(strange: RdsApi, rds: Any) -> None:
    instance = {"DBInstanceIdentifier": NAME, "DBClusterIdentifier": NAME, "DBInstanceClass": "db.r6g.large"}
    assert refusal(rds.restore_db_cluster_to_point_in_time, **CLONE) == "DBClusterAlreadyExistsFault"
    assert (
        refusal(rds.create_db_instance, Engine="aurora-postgresql", **instance)
        == "InvalidDBClusterStateFault"
    )
    rds.describe_db_clusters(DBClusterIdentifier=NAME)
    rds.create_db_instance(Engine="aurora-postgresql", **instance)
    deletion = {"DBClusterIdentifier": NAME, "SkipFinalSnapshot": True}
    assert refusal(rds.delete_db_cluster, **deletion) == "InvalidDBClusterStateFault"
    rds.delete_db_instance(DBInstanceIdentifier=NAME, SkipFinalSnapshot=True)
    rds.delete_db_cluster(**deletion)
    assert strange.clones.files == {}


@pytest.mark.soak
def test_what_is_being_deleted_is_waited_for_and_made_anew(api: RdsApi, clones: Clones) -> None:
    api.add_cluster("shop").capacity = ("0.5", "16.0")
    api.world.main.db_instance_class = "db.serverless"
    first = clones.make(1, untold, datetime.now(UTC))
    assert clones.found(1) == first
    assert api.world.clusters[NAME].capacity == ("0.5", "16.0")
    clones.remove([1])
    clones.remove([1])
    assert clones.found(1) is None
    assert clones.make(1, untold, datetime.now(UTC)) != first
    assert len(api.clones.servers) == 1
    assert [c for c in api.changes if c.startswith("Delete")] == ["DeleteDBInstance", "DeleteDBCluster"]


@pytest.mark.parametrize(
    ("engine", "way", "lacks"),
    [
        (None, Way.RESTORE, None),
        ("aurora-postgresql", Way.CLONE, None),
        ("postgres", Way.CLONE, "shop-prod is a member of shop, a Multi-AZ DB cluster"),
    ],
)
def test_the_kind_of_the_copy_is_the_sources_to_tell(
    engine: str | None, way: Way, lacks: str | None, api: RdsApi, named: Rds, server: PostgresServer
) -> None:
    assert server.running
    if engine is not None:
        api.add_cluster("shop", engine=engine)
    run = cast("Any", SimpleNamespace(plan_id="abcd"))
    asked = len(api.calls)
    copied = CopiedInstance(run=run, rds=named)
    assert len(api.calls) == asked
    told = copied.lacking()
    assert copied.way() is way
    assert told is None if lacks is None else told is not None and lacks in told
