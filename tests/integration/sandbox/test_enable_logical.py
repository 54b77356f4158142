"""enable_logical against the stand-in RDS API and a real server, from replica to logical."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import psycopg
import pytest
from psycopg import sql

from planrunner.errors import CloudError, ConnectionFailed, StepConflict, StepFailed

if TYPE_CHECKING:
    from types import ModuleType

    from planrunner.sandbox.rds_api import RdsApi
    from planrunner.sandbox.rds_like import Database
    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.server
OWN = "planrunner-shop-prod"
MakeFacts = Callable[..., Any]


def _rds(api: RdsApi) -> Any:
    return boto3.client("rds", endpoint_url=api.endpoint_url, region_name=api.region)


def _attach_own_group(api: RdsApi, name: str = "own") -> None:
    rds = _rds(api)
    rds.create_db_parameter_group(
        DBParameterGroupName=name, DBParameterGroupFamily="postgres16", Description="ours"
    )
    rds.modify_db_instance(DBInstanceIdentifier=api.instance, DBParameterGroupName=name)
    rds.get_waiter("db_instance_available").wait(DBInstanceIdentifier=api.instance)


def _attached(api: RdsApi) -> tuple[str, str]:
    told = _rds(api).describe_db_instances(DBInstanceIdentifier=api.instance)["DBInstances"][0]
    group = told["DBParameterGroups"][0]
    return group["DBParameterGroupName"], group["ParameterApplyStatus"]


def _in_own_process(facts: Any, failpoint: str) -> int:
    script = Path(__file__).with_name("driver.py")
    environment = {**os.environ, "PLANRUNNER_FAILPOINTS": f"{failpoint}:kill"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, script, facts.dump()]
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode


def test_default_group_is_replaced_by_one_of_our_own_and_rebooted_once(
    api: RdsApi, facts: MakeFacts, driver: ModuleType, wal_level: Callable[[], str]
) -> None:
    performed = driver.perform_all(facts(reboot="allow"))

    assert performed == ["create_group", "set_parameter", "attach_group", "reboot", "wait"]
    assert api.changes == [
        "CreateDBParameterGroup",
        "ModifyDBParameterGroup",
        "ModifyDBInstance",
        "RebootDBInstance",
    ]
    assert wal_level() == "logical"
    assert _attached(api) == (OWN, "in-sync")
    assert api.reboots == 1


def test_planning_changes_nothing_and_shows_the_exact_calls(
    api: RdsApi, facts: MakeFacts, driver: ModuleType
) -> None:
    actions = driver.planned(facts())

    assert api.changes == []
    assert [text for action in actions[:4] for text in action.statements] == [
        f"aws rds create-db-parameter-group --db-parameter-group-name {OWN} --db-parameter-group-family"
        " postgres16 --description 'Logical replication for a migration by planrunner' --region us-east-1",
        f"aws rds modify-db-parameter-group --db-parameter-group-name {OWN} --parameters"
        " ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot"
        " --region us-east-1",
        f"aws rds modify-db-instance --db-instance-identifier shop-prod --db-parameter-group-name {OWN}"
        " --apply-immediately --region us-east-1",
        "aws rds reboot-db-instance --db-instance-identifier shop-prod --region us-east-1",
    ]


def test_reboot_asks_unless_the_plan_allows_it(facts: MakeFacts, driver: ModuleType) -> None:
    asked = {a.name: a.asks for a in driver.planned(facts())}
    allowed = {a.name: a.asks for a in driver.planned(facts(reboot="allow"))}

    assert [name for name, question in asked.items() if question] == ["reboot"]
    assert "shop-prod" in (asked["reboot"] or "")
    assert not any(allowed.values())


def test_reboot_never_is_blocked_with_the_command_to_run(facts: MakeFacts, driver: ModuleType) -> None:
    blocked = {a.name: a.blocked for a in driver.planned(facts(reboot="never")) if a.blocked}

    assert list(blocked) == ["reboot"]
    assert "aws rds reboot-db-instance --db-instance-identifier shop-prod" in blocked["reboot"]


def test_own_group_is_edited_in_place(
    api: RdsApi, facts: MakeFacts, driver: ModuleType, wal_level: Callable[[], str]
) -> None:
    _attach_own_group(api)
    before = len(api.changes)

    performed = driver.perform_all(facts(reboot="allow"))

    assert performed == ["set_parameter", "reboot", "wait"]
    assert api.changes[before:] == ["ModifyDBParameterGroup", "RebootDBInstance"]
    assert wal_level() == "logical"
    assert _attached(api) == ("own", "in-sync")


def test_named_group_is_created_as_the_plan_names_it(
    api: RdsApi, facts: MakeFacts, driver: ModuleType
) -> None:
    driver.perform_all(facts(reboot="allow", parameter_group="PG-Logical-Replication"))

    assert _attached(api) == ("pg-logical-replication", "in-sync")
    assert api.reboots == 1


def test_already_logical_needs_nothing(api: RdsApi, facts: MakeFacts, driver: ModuleType) -> None:
    driver.perform_all(facts(reboot="allow"))

    assert driver.planned(facts()) == []
    assert driver.planned(facts(parameter_group="another")) == []
    assert api.reboots == 1


def test_group_of_another_family_is_a_conflict(api: RdsApi, facts: MakeFacts, driver: ModuleType) -> None:
    _rds(api).create_db_parameter_group(
        DBParameterGroupName="old", DBParameterGroupFamily="postgres15", Description="x"
    )

    with pytest.raises(StepConflict, match=r"old is of family postgres15.*needs postgres16"):
        driver.planned(facts(parameter_group="old"))


def test_default_group_is_never_edited(api: RdsApi, facts: MakeFacts, driver: ModuleType) -> None:
    with pytest.raises(StepFailed, match="can't be changed"):
        driver.planned(facts(parameter_group="default.postgres16"))
    assert api.changes == []


def test_shared_group_names_the_instances_it_reaches(
    api: RdsApi, facts: MakeFacts, driver: ModuleType
) -> None:
    _attach_own_group(api)
    api.add_instance("reports", group="own")

    action = next(a for a in driver.planned(facts(allow_shared=True)) if a.name == "set_parameter")

    assert "reports" in action.summary


@pytest.mark.parametrize(
    "point",
    [
        "rds.after_create_call",
        "logical.create_group.after",
        "rds.after_set_call",
        "rds.after_attach_call",
        "logical.attach_group.after",
        "rds.before_reboot_call",
        "rds.after_reboot_call",
        "logical.reboot.after",
        "logical.wait.before",
    ],
)
def test_resume_after_kill_does_the_rest_and_reboots_once(
    point: str, api: RdsApi, facts: MakeFacts, driver: ModuleType, wal_level: Callable[[], str]
) -> None:
    given = facts(reboot="allow")

    assert _in_own_process(given, point) == -signal.SIGKILL
    driver.perform_all(given)

    assert wal_level() == "logical"
    assert api.reboots == 1
    assert len(api.changes) == len(set(api.changes)) == 4


def test_while_it_reboots_only_waiting_is_left(api: RdsApi, facts: MakeFacts, driver: ModuleType) -> None:
    given = facts(reboot="allow")
    assert _in_own_process(given, "rds.after_reboot_call") == -signal.SIGKILL

    names = [a.name for a in driver.planned(given)]

    assert names in (["wait"], [])  # the second when the reboot is through already
    driver.perform_all(given)
    assert api.reboots == 1


def test_instance_that_reboots_for_another_reason_is_waited_for_first(
    api: RdsApi, facts: MakeFacts, driver: ModuleType, wal_level: Callable[[], str]
) -> None:
    api.world.phase = 0.7  # long enough to be met by the first look, also on a busy machine
    _rds(api).reboot_db_instance(DBInstanceIdentifier=api.instance)

    performed = driver.perform_all(facts(reboot="allow"))

    assert performed[0] == "wait_available"
    assert wal_level() == "logical"
    assert api.reboots == 2


def test_missing_iam_action_is_named(api: RdsApi, facts: MakeFacts, driver: ModuleType) -> None:
    api.denied.add("CreateDBParameterGroup")

    with pytest.raises(CloudError, match="IAM does not allow rds:CreateDBParameterGroup"):
        driver.perform_all(facts(reboot="allow"))


def test_unreachable_source_of_an_available_instance_is_an_error(
    api: RdsApi, facts: MakeFacts, driver: ModuleType, server: PostgresServer
) -> None:
    given = facts()
    server.stop()
    try:
        with pytest.raises(ConnectionFailed):
            driver.planned(given)
    finally:
        server.start()


@pytest.fixture
def plain(server: PostgresServer, shop: Database) -> PostgresServer:
    """The server as one that is not RDS, with nothing configured."""
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("ALTER SYSTEM RESET wal_level")
    server.restart({"wal_level": "replica"})
    return server


@pytest.fixture
def reset(plain: PostgresServer) -> Any:
    yield
    with psycopg.connect(plain.superuser_dsn, autocommit=True) as session:
        session.execute("ALTER SYSTEM RESET wal_level")
        session.execute("REVOKE ALTER SYSTEM ON PARAMETER wal_level FROM migrator")


def test_superuser_sets_it_and_a_restart_is_asked_for(
    plain: PostgresServer, reset: None, target: Database, driver: ModuleType, wal_level: Callable[[], str]
) -> None:
    facts = driver.Facts(
        dsn=plain.dsn("postgres", "shop"),
        password=plain.password,
        target_dsn=target.dsn,
        target_password=target.password,
    )
    setting, restart = driver.planned(facts)

    assert setting.statements == ("ALTER SYSTEM SET wal_level = 'logical'",)
    assert "systemctl restart" in restart.blocked
    setting.perform(driver.make_run(facts))
    assert [a.name for a in driver.planned(facts)] == ["restart"]
    plain.stop()
    plain.start()
    assert driver.planned(facts) == []


def test_role_with_the_parameter_privilege_sets_it(
    plain: PostgresServer, reset: None, shop: Database, target: Database, driver: ModuleType
) -> None:
    grant = sql.SQL("GRANT ALTER SYSTEM ON PARAMETER wal_level TO migrator")
    with psycopg.connect(plain.superuser_dsn, autocommit=True) as session:
        session.execute(grant)
    facts = driver.Facts(
        dsn=shop.dsn, password=shop.password, target_dsn=target.dsn, target_password=target.password
    )

    setting, _ = driver.planned(facts)
    setting.perform(driver.make_run(facts))
    plain.stop()
    plain.start()

    assert driver.planned(facts) == []


def test_role_that_reads_everything_is_asked_no_more_than_it_may_see(
    plain: PostgresServer, shop: Database, driver: ModuleType
) -> None:
    with psycopg.connect(plain.superuser_dsn, autocommit=True) as session:
        session.execute("GRANT pg_read_all_data TO migrator")
        try:
            (only,) = driver.planned(driver.Facts(dsn=shop.dsn, password=shop.password))
        finally:
            session.execute("REVOKE pg_read_all_data FROM migrator")

    assert "ALTER SYSTEM SET wal_level = 'logical'" in only.blocked


def test_role_that_may_not_is_told_what_to_set(
    plain: PostgresServer, shop: Database, driver: ModuleType
) -> None:
    facts = driver.Facts(dsn=shop.dsn, password=shop.password)
    (only,) = driver.planned(facts)

    assert "ALTER SYSTEM SET wal_level = 'logical'" in only.blocked
    with pytest.raises(StepFailed):
        only.perform(driver.make_run(facts))
