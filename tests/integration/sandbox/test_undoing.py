"""What cleanup takes back of enable_logical: former groups and values, nothing of anybody else's, and no reboot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.enabling import record
from planrunner.errors import StepBlocked
from tests.integration.sandbox.histories import OWN, Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from planrunner.sandbox.rds_api import RdsApi
    from planrunner.sandbox.rds_like import Database
    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.server


@pytest.fixture
def scene(api: RdsApi, server: PostgresServer, driver: ModuleType, facts: Callable[..., Any]) -> Scene:
    api.world.phase = 0.02
    found = Scene(api=api, server=server, driver=driver, make_facts=facts)
    found.facts = facts(reboot="allow", undo=True)
    return found


def _migrated(scene: Scene) -> int:
    scene.driver.perform_all(scene.facts)
    assert scene.show("wal_level") == "logical"
    return len(scene.api.changes)


def _records(scene: Scene) -> bool:
    run = scene.driver.make_run(scene.facts)
    try:
        return not record.read(run).empty
    finally:
        scene.driver.close(run)


def _reboot(scene: Scene) -> None:
    scene.rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")
    scene.rds.get_waiter("db_instance_available").wait(
        DBInstanceIdentifier="shop-prod", WaiterConfig={"Delay": 1}
    )


def test_the_default_group_is_attached_again_and_ours_is_deleted_without_a_reboot(scene: Scene) -> None:
    before = _migrated(scene)

    assert scene.driver.clean(scene.facts) == ["reattach_group", "delete_group", "forget"]

    assert scene.api.changes[before:] == ["ModifyDBInstance", "DeleteDBParameterGroup"]
    assert scene.attached == ("default.postgres16", "pending-reboot")
    assert OWN not in scene.groups
    assert (scene.show("wal_level"), scene.api.reboots) == ("logical", 1)
    assert not _records(scene)
    _reboot(scene)
    assert scene.show("wal_level") == "replica"


def test_the_values_of_an_own_group_are_set_back(scene: Scene) -> None:
    scene.group("own", max_replication_slots=1, work_mem=8192)
    scene.facts = scene.make_facts(reboot="allow", undo=True, parameters={"work_mem": 16384})
    before = _migrated(scene)
    assert scene.value("own", "max_replication_slots")[0] == "2"

    assert scene.driver.clean(scene.facts) == ["set_back own", "forget"]

    assert scene.api.changes[before:] == ["ResetDBParameterGroup", "ModifyDBParameterGroup"]
    assert scene.value("own", "rds.logical_replication") == ("0", "system")
    assert scene.value("own", "max_replication_slots") == ("1", "user")
    assert scene.value("own", "work_mem") == ("8192", "user")
    assert scene.attached == ("own", "pending-reboot")
    assert scene.show("wal_level") == "logical"


def test_what_somebody_has_set_since_stays(scene: Scene) -> None:
    scene.group("own", max_replication_slots=1)
    _migrated(scene)
    scene.api.world.backend.db_parameter_groups["own"].parameters["max_replication_slots"][
        "ParameterValue"
    ] = "7"

    scene.driver.clean(scene.facts)

    assert scene.value("own", "max_replication_slots") == ("7", "user")
    assert scene.value("own", "rds.logical_replication") == ("0", "system")


def test_a_group_that_somebody_else_has_attached_since_stays_attached(scene: Scene) -> None:
    _migrated(scene)
    scene.group("theirs", attached=False)
    scene.api.world.main.db_parameter_group_name = "theirs"

    assert scene.driver.clean(scene.facts) == ["delete_group", "forget"]

    assert scene.attached[0] == "theirs"


def test_our_group_stays_while_another_instance_uses_it(scene: Scene) -> None:
    _migrated(scene)
    scene.api.add_instance("reports", group=OWN)

    assert scene.driver.clean(scene.facts) == ["reattach_group", "forget"]

    assert OWN in scene.groups
    assert scene.attached[0] == "default.postgres16"


def test_a_copy_gives_way_to_the_group_that_it_was_made_of(scene: Scene) -> None:
    scene.group("own", work_mem=8192)
    scene.api.add_instance("reports", group="own")
    scene.facts = scene.make_facts(reboot="allow", undo=True, parameter_group="mine")
    _migrated(scene)

    assert scene.driver.clean(scene.facts) == ["reattach_group", "delete_group", "forget"]

    assert scene.attached == ("own", "pending-reboot")
    assert "mine" not in scene.groups


def test_the_group_of_a_cluster_is_given_back(scene: Scene) -> None:
    scene.cluster()
    before = _migrated(scene)

    assert scene.driver.clean(scene.facts) == ["reattach_group", "delete_group", "forget"]

    assert scene.api.changes[before:] == ["ModifyDBCluster", "DeleteDBClusterParameterGroup"]
    assert scene.attached[0] == "default.aurora-postgresql16"


def test_nothing_is_taken_back_while_a_slot_would_keep_the_server_from_starting(scene: Scene) -> None:
    before = _migrated(scene)
    with psycopg.connect(scene.server.superuser_dsn, dbname="shop", autocommit=True) as session:
        session.execute("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')")
        with pytest.raises(StepBlocked, match=r"logical replication slots are on the source: cdc") as caught:
            scene.driver.clean(scene.facts)
        assert scene.api.changes[before:] == []
        session.execute("SELECT pg_drop_replication_slot('cdc')")

    assert "pg_drop_replication_slot" in str(caught.value.remedy)
    scene.driver.clean(scene.facts)
    assert scene.attached[0] == "default.postgres16"


def test_without_undo_only_the_records_go(scene: Scene) -> None:
    scene.facts = scene.make_facts(reboot="allow")
    before = _migrated(scene)

    assert scene.driver.clean(scene.facts) == ["forget"]

    assert scene.api.changes[before:] == []
    assert scene.attached == (OWN, "in-sync")
    assert scene.driver.clean(scene.facts) == []


def test_a_plan_that_says_undo_later_is_heard(scene: Scene) -> None:
    scene.facts = scene.make_facts(reboot="allow")
    _migrated(scene)
    scene.facts = replace(scene.facts, options={"reboot": "allow", "undo": True})

    assert "reattach_group" in scene.driver.clean(scene.facts)


def test_a_server_of_ones_own_gets_its_former_configuration(
    scene: Scene, server: PostgresServer, target: Database, driver: ModuleType
) -> None:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("ALTER SYSTEM SET max_replication_slots = 1")
    facts = driver.Facts(
        dsn=server.dsn("postgres", "shop"),
        password=server.password,
        target_dsn=target.dsn,
        target_password=target.password,
        options={"undo": True},
    )
    server.restart()
    try:
        setting, restart = driver.planned(facts)
        assert setting.statements == (
            "ALTER SYSTEM SET wal_level = 'logical'",
            "ALTER SYSTEM SET max_replication_slots = 2",
        )
        run = driver.make_run(facts)
        setting.perform(run)
        driver.close(run)
        server.restart()
        assert driver.planned(facts) == []
        assert (scene.show("wal_level"), scene.show("max_replication_slots")) == ("logical", "2")
        assert "restart the source" in restart.summary

        assert driver.clean(facts) == ["alter_system_back", "forget"]
        server.restart()
        assert (scene.show("wal_level"), scene.show("max_replication_slots")) == ("replica", "1")
    finally:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("ALTER SYSTEM RESET ALL")
