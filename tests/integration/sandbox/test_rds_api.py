"""The stand-in RDS API is truthful where moto is not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import boto3
import psycopg
import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.sandbox.rds_api import RdsApi
    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.server
LOGICAL = {
    "ParameterName": "rds.logical_replication",
    "ParameterValue": "1",
    "ApplyMethod": "pending-reboot",
}


@pytest.fixture
def rds(api: RdsApi) -> Any:
    return boto3.client("rds", endpoint_url=api.endpoint_url)


@pytest.fixture
def group(rds: Any) -> str:
    rds.create_db_parameter_group(
        DBParameterGroupName="own", DBParameterGroupFamily="postgres16", Description="x"
    )
    rds.modify_db_parameter_group(DBParameterGroupName="own", Parameters=[LOGICAL])
    return "own"


def _instance(rds: Any) -> dict[str, Any]:
    told: dict[str, Any] = rds.describe_db_instances(DBInstanceIdentifier="shop-prod")["DBInstances"][0]
    return told


def _status(rds: Any) -> tuple[str, str]:
    told = _instance(rds)
    return told["DBInstanceStatus"], told["DBParameterGroups"][0]["ParameterApplyStatus"]


def _until(rds: Any, *wish: str) -> None:
    deadline = time.monotonic() + 20
    while _status(rds) != wish:
        assert time.monotonic() < deadline, _status(rds)


def _refusal(call: Callable[..., Any], **params: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**params)
    return str(caught.value.response["Error"]["Code"])


def test_instance_tells_the_servers_own_version_and_address(rds: Any, server: PostgresServer) -> None:
    told = _instance(rds)

    assert told["Engine"] == "postgres"
    assert told["EngineVersion"] == ".".join(map(str, server.version))
    assert told["Endpoint"] == {"Address": "127.0.0.1", "Port": server.port}
    assert told["DBParameterGroups"][0]["DBParameterGroupName"] == "default.postgres16"


def test_default_group_is_immutable(rds: Any) -> None:
    change = {"DBParameterGroupName": "default.postgres16", "Parameters": [LOGICAL]}
    assert _refusal(rds.modify_db_parameter_group, **change) == "InvalidParameterValue"


def test_attached_group_waits_for_a_reboot(
    rds: Any, group: str, api: RdsApi, wal_level: Callable[[], str]
) -> None:
    api.world.phase = 1.0  # long enough to be seen on a busy machine
    rds.modify_db_instance(DBInstanceIdentifier="shop-prod", DBParameterGroupName=group)

    assert _status(rds) == ("available", "applying")
    _until(rds, "available", "pending-reboot")
    assert wal_level() == "replica"


def test_reboot_really_restarts_with_the_groups_settings(
    rds: Any, group: str, server: PostgresServer, wal_level: Callable[[], str]
) -> None:
    rds.modify_db_instance(DBInstanceIdentifier="shop-prod", DBParameterGroupName=group)
    _until(rds, "available", "pending-reboot")
    session = psycopg.connect(server.superuser_dsn)

    answer = rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")

    assert answer["DBInstance"]["DBInstanceStatus"] == "rebooting"
    _until(rds, "available", "in-sync")
    assert wal_level() == "logical"
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


def test_reboot_with_the_default_group_stays_at_replica(rds: Any, wal_level: Callable[[], str]) -> None:
    rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")
    _until(rds, "available", "in-sync")

    assert wal_level() == "replica"


def test_reboot_while_the_group_is_applied_does_not_take_it(
    rds: Any, group: str, api: RdsApi, wal_level: Callable[[], str]
) -> None:
    api.world.phase = 1.0
    rds.modify_db_instance(DBInstanceIdentifier="shop-prod", DBParameterGroupName=group)
    rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")

    _until(rds, "available", "pending-reboot")
    assert wal_level() == "replica"
    assert api.reboots == 1


def test_instance_that_reboots_takes_no_second_call(rds: Any, group: str, api: RdsApi) -> None:
    api.world.phase = 1.0
    rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")

    own = {"DBInstanceIdentifier": "shop-prod"}
    assert _refusal(rds.reboot_db_instance, **own) == "InvalidDBInstanceState"
    change = {**own, "DBParameterGroupName": group}
    assert _refusal(rds.modify_db_instance, **change) == "InvalidDBInstanceState"
    assert api.reboots == 1
    _until(rds, "available", "in-sync")


def test_group_of_another_family_is_not_attached(rds: Any) -> None:
    rds.create_db_parameter_group(
        DBParameterGroupName="old", DBParameterGroupFamily="postgres15", Description="x"
    )
    change = {"DBInstanceIdentifier": "shop-prod", "DBParameterGroupName": "old"}

    assert _refusal(rds.modify_db_instance, **change) == "InvalidParameterCombination"


@pytest.mark.parametrize(
    ("parameter", "code"),
    [
        ({**LOGICAL, "ApplyMethod": "immediate"}, "InvalidParameterCombination"),
        ({**LOGICAL, "ParameterName": "wal_level"}, "InvalidParameterValue"),
    ],
)
def test_parameters_are_refused_as_on_rds(parameter: dict[str, str], code: str, rds: Any, group: str) -> None:
    change = {"DBParameterGroupName": group, "Parameters": [parameter]}
    assert _refusal(rds.modify_db_parameter_group, **change) == code


@pytest.mark.parametrize("name", ["1st", "a--b", "a-", "default.mine", "a_b"])
def test_group_names_follow_rds(name: str, rds: Any) -> None:
    new = {"DBParameterGroupName": name, "DBParameterGroupFamily": "postgres16", "Description": "x"}
    assert _refusal(rds.create_db_parameter_group, **new) == "InvalidParameterValue"


def test_calls_are_recorded_with_their_parameters(rds: Any, group: str, api: RdsApi) -> None:
    assert api.changes == ["CreateDBParameterGroup", "ModifyDBParameterGroup"]
    assert api.calls[0].params["DBParameterGroupFamily"] == "postgres16"


WORK_MEM = {"ParameterName": "work_mem", "ParameterValue": "8192", "ApplyMethod": "immediate"}


def _show(server: PostgresServer, name: str) -> str:
    with psycopg.connect(server.superuser_dsn) as session:
        row = session.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def test_more_than_twenty_parameters_in_a_call_are_refused(rds: Any, group: str) -> None:
    names = [p["ParameterName"] for p in _parameters(rds, group) if p["IsModifiable"]][:21]
    sent = [{"ParameterName": n, "ParameterValue": "1", "ApplyMethod": "pending-reboot"} for n in names]

    assert (
        _refusal(rds.modify_db_parameter_group, DBParameterGroupName=group, Parameters=sent)
        == "InvalidParameterValue"
    )
    rds.modify_db_parameter_group(DBParameterGroupName=group, Parameters=sent[:20])


def _parameters(rds: Any, group: str) -> list[dict[str, Any]]:
    pages = rds.get_paginator("describe_db_parameters").paginate(DBParameterGroupName=group)
    return [parameter for page in pages for parameter in page["Parameters"]]


def test_parameters_come_page_by_page(rds: Any, group: str) -> None:
    first = rds.describe_db_parameters(DBParameterGroupName=group)
    assert len(first["Parameters"]) == 100
    assert first["Marker"]
    names = [parameter["ParameterName"] for parameter in _parameters(rds, group)]
    assert len(names) == len(set(names)) > 100
    assert "rds.logical_replication" in names[100:]
    few = {"DBParameterGroupName": group, "MaxRecords": 19}
    assert _refusal(rds.describe_db_parameters, **few) == "InvalidParameterValue"


def test_a_dynamic_parameter_of_an_attached_group_takes_effect_at_once(
    rds: Any, group: str, server: PostgresServer
) -> None:
    rds.modify_db_instance(DBInstanceIdentifier="shop-prod", DBParameterGroupName=group)
    _until(rds, "available", "pending-reboot")
    rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")
    _until(rds, "available", "in-sync")

    rds.modify_db_parameter_group(DBParameterGroupName=group, Parameters=[WORK_MEM])

    _until(rds, "available", "in-sync")
    deadline = time.monotonic() + 20
    while _show(server, "work_mem") != "8MB":
        assert time.monotonic() < deadline


def test_a_dynamic_parameter_of_a_newly_attached_group_waits_for_the_reboot(
    rds: Any, group: str, server: PostgresServer
) -> None:
    rds.modify_db_parameter_group(DBParameterGroupName=group, Parameters=[WORK_MEM])
    rds.modify_db_instance(DBInstanceIdentifier="shop-prod", DBParameterGroupName=group)
    _until(rds, "available", "pending-reboot")
    assert _show(server, "work_mem") == "4MB"

    rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")
    _until(rds, "available", "in-sync")
    assert _show(server, "work_mem") == "8MB"


def test_a_group_in_use_is_not_deleted(rds: Any, group: str) -> None:
    rds.modify_db_instance(DBInstanceIdentifier="shop-prod", DBParameterGroupName=group)

    deletion = {"DBParameterGroupName": group}
    assert _refusal(rds.delete_db_parameter_group, **deletion) == "InvalidDBParameterGroupState"


def test_a_default_group_is_not_copied(rds: Any) -> None:
    copy = {
        "SourceDBParameterGroupIdentifier": "default.postgres16",
        "TargetDBParameterGroupIdentifier": "mine",
        "TargetDBParameterGroupDescription": "x",
    }
    assert _refusal(rds.copy_db_parameter_group, **copy) == "InvalidParameterValue"


def test_a_reset_gives_the_default_back(rds: Any, group: str) -> None:
    rds.reset_db_parameter_group(
        DBParameterGroupName=group,
        ResetAllParameters=False,
        Parameters=[{"ParameterName": "rds.logical_replication", "ApplyMethod": "pending-reboot"}],
    )

    found = next(p for p in _parameters(rds, group) if p["ParameterName"] == "rds.logical_replication")
    assert (found["ParameterValue"], found["Source"]) == ("0", "system")


def test_aurora_is_not_rebooted_as_a_cluster_and_needs_a_group_of_its_family(rds: Any, api: RdsApi) -> None:
    api.add_cluster("shop", readers=["reader"])
    told = rds.describe_db_clusters(DBClusterIdentifier="shop")["DBClusters"][0]

    assert [(m["DBInstanceIdentifier"], m["IsClusterWriter"]) for m in told["DBClusterMembers"]] == [
        ("shop-prod", True),
        ("reader", False),
    ]
    assert _refusal(rds.reboot_db_cluster, DBClusterIdentifier="shop") == "InvalidParameterCombination"
    rds.create_db_cluster_parameter_group(
        DBClusterParameterGroupName="old", DBParameterGroupFamily="aurora-postgresql15", Description="x"
    )
    change = {"DBClusterIdentifier": "shop", "DBClusterParameterGroupName": "old"}
    assert _refusal(rds.modify_db_cluster, **change) == "InvalidParameterCombination"


def test_failover_is_for_multi_az_alone(rds: Any, api: RdsApi) -> None:
    forced = {"DBInstanceIdentifier": "shop-prod", "ForceFailover": True}
    assert _refusal(rds.reboot_db_instance, **forced) == "InvalidParameterCombination"

    api.world.main.multi_az = True
    rds.reboot_db_instance(**forced)
    _until(rds, "available", "in-sync")
    assert api.reboots == 1
