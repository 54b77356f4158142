"""Histories of enable_logical: whatever happens on the way, the server says logical, and was rebooted once at most."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.errors import PlanrunnerError
from planrunner.sandbox.rds_script import Disturbance, Fault
from tests.integration.sandbox.histories import OWN, History, Scene, before_window, fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from planrunner.sandbox.rds_api import RdsApi
    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.server
REBOOT = "RebootDBInstance"
FRESH = ("CreateDBParameterGroup", "ModifyDBParameterGroup", "ModifyDBInstance", REBOOT)
IN_PLACE = ("ModifyDBParameterGroup", REBOOT)
CLUSTER = ("CreateDBClusterParameterGroup", "ModifyDBClusterParameterGroup", "ModifyDBCluster", REBOOT)
MANY = {
    **dict.fromkeys(("work_mem", "temp_buffers", "wal_sender_timeout", "log_temp_files"), 4096),
    **dict.fromkeys(("commit_delay", "commit_siblings", "geqo_effort", "geqo_seed", "wal_keep_size"), 1),
    **dict.fromkeys(("autovacuum_naptime", "deadlock_timeout", "statement_timeout", "lock_timeout"), 600),
    **dict.fromkeys(
        ("log_checkpoints", "log_connections", "log_disconnections", "log_duration", "jit"), True
    ),
    **dict.fromkeys(("enable_seqscan", "enable_sort", "enable_tidscan", "geqo"), True),
    "max_locks_per_transaction": 128,
    "max_prepared_transactions": 10,
}


def _own(**values: object) -> Callable[[Scene], None]:
    return lambda scene: scene.group("own", **values)


def _shared(scene: Scene) -> None:
    scene.group("own", work_mem=8192, log_min_duration_statement=500)
    scene.api.add_instance("reports", group="own")
    scene.api.add_instance("billing", group="own")


def _shared_by_many(scene: Scene) -> None:
    scene.group("own")
    for number in range(105):
        scene.api.add_instance(f"many-{number:03}", group="own")


def _aurora(scene: Scene) -> None:
    scene.cluster(readers=["shop-reader"])


def _aurora_own(scene: Scene) -> None:
    _aurora(scene)
    scene.cluster_group("own")


def _aurora_shared(scene: Scene) -> None:
    _aurora_own(scene)
    world = scene.api.world
    world.clusters["other"] = replace(world.clusters["shop"], identifier="other", members=[])


def _passing(*statuses: str) -> Callable[[Scene], None]:
    def world(scene: Scene) -> None:
        scene.api.world.main.passing = [status for status in statuses for _ in range(4)]

    return world


def _status(status: str) -> Callable[[Scene], None]:
    def world(scene: Scene) -> None:
        scene.api.world.main.status = status

    return world


def _available(scene: Scene) -> None:
    scene.api.world.main.status = "available"


def _written_and_waiting(scene: Scene) -> None:
    scene.group("own")
    scene.api.world.backend.db_parameter_groups["own"].parameters["rds.logical_replication"].update(
        ParameterValue="1", Source="user"
    )
    scene.api.world.main.apply_status = "pending-reboot"


def _written_shared(scene: Scene) -> None:
    _written_and_waiting(scene)
    scene.api.add_instance("reports", group="own")


def _logical(**values: object) -> Callable[[Scene], None]:
    def world(scene: Scene) -> None:
        scene.group("own", **{"rds.logical_replication": 1, **values})
        scene.server.restart({"wal_level": "logical"})

    return world


def _says(group: str, **values: object) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        found = {name: scene.value(group, name)[0] for name in values}
        assert found == {name: str(value) for name, value in values.items()}

    return check


def _shows(**values: object) -> Callable[[Scene], None]:
    def check(scene: Scene) -> None:
        assert {name: scene.show(name) for name in values} == {n: str(v) for n, v in values.items()}

    return check


def _copied(scene: Scene) -> None:
    assert scene.value("mine", "work_mem") == ("8192", "user")
    assert scene.value("mine", "log_min_duration_statement") == ("500", "user")
    assert scene.value("own", "rds.logical_replication") == ("0", "system")
    assert scene.show("work_mem") == "8MB"


def _formula_stays(scene: Scene) -> None:
    assert scene.value(OWN, "max_worker_processes") == ("GREATEST({DBInstanceVCPU*2},8)", "system")


def _two_calls(scene: Scene) -> None:
    calls = [c for c in scene.api.calls if c.action == "ModifyDBParameterGroup"]
    sizes = [len([k for k in c.params if k.endswith("ParameterName")]) for c in calls]
    assert sizes == [20, len(MANY) + 1 - 20]
    methods = {
        call.params[key.replace("ApplyMethod", "ParameterName")]: value
        for call in calls
        for key, value in call.params.items()
        if key.endswith("ApplyMethod")
    }
    assert methods["max_locks_per_transaction"] == methods["rds.logical_replication"] == "pending-reboot"
    assert methods["work_mem"] == methods["jit"] == "immediate"
    assert scene.show("max_locks_per_transaction") == "128"
    assert scene.show("work_mem") == "4MB"


def _somebodys_group_first(scene: Scene) -> list[Disturbance]:
    return [
        Disturbance(action="CreateDBParameterGroup", then=lambda: scene.group(OWN, attached=False), times=1)
    ]


def _somebody_reboots_first(scene: Scene) -> list[Disturbance]:
    return [Disturbance(action=REBOOT, then=lambda: scene.api.world.reboot(scene.api.world.main))]


def _somebody_takes_it_back(scene: Scene) -> list[Disturbance]:
    def take_back() -> None:
        group = scene.api.world.ruling(scene.api.world.main)
        group.parameters["rds.logical_replication"]["ParameterValue"] = "0"

    return [Disturbance(action=REBOOT, then=take_back)]


def _unfit(scene: Scene) -> None:
    scene.group("own")
    scene.api.world.unfit = True


def _fit(scene: Scene) -> None:
    scene.api.world.main.apply_status = "pending-reboot"


def _deny(*actions: str) -> Callable[[Scene], None]:
    return lambda scene: scene.api.denied.update(actions)


def _aurora_denied(scene: Scene) -> None:
    _aurora(scene)
    scene.api.denied.add("DescribeDBClusters")


def _allow(scene: Scene) -> None:
    scene.api.denied.clear()


def _reboot_by_hand(scene: Scene) -> None:
    scene.rds.reboot_db_instance(DBInstanceIdentifier="shop-prod")
    scene.rds.get_waiter("db_instance_available").wait(
        DBInstanceIdentifier="shop-prod", WaiterConfig={"Delay": 1}
    )


def _waited_for_the_window(scene: Scene) -> None:
    told = [text for text in scene.news if "maintenance window" in text]
    assert len(told) == 1
    assert "sun:03:00-sun:04:00 UTC: waiting until Sun 2026-11-29 03:00 UTC" in told[0]
    moment = scene.clock.now()
    assert (moment.weekday(), moment.hour) == (6, 3)


def _no_wait(scene: Scene) -> None:
    assert not any("maintenance window" in text for text in scene.news)


WAITED = (
    *("backing-up", "modifying", "configuring-enhanced-monitoring", "upgrading"),
    *("maintenance", "starting", "a-status-of-next-year"),
)
HISTORIES = [
    # Whose group it is.
    History(name="a default group is replaced", changes=FRESH, attached=OWN, check=_formula_stays),
    History(name="an own group is edited in place", world=_own(), changes=IN_PLACE, attached="own"),
    History(
        name="a group that is there is attached",
        world=lambda s: s.group("mine", attached=False),
        options={"parameter_group": "mine"},
        changes=("ModifyDBParameterGroup", "ModifyDBInstance", REBOOT),
        attached="mine",
    ),
    History(
        name="a shared group is refused and names the others",
        world=_shared,
        error=r"own is used by billing, reports too.*allow_shared: true",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="a shared group is changed where the plan allows it",
        world=_shared,
        options={"allow_shared": True},
        changes=IN_PLACE,
        attached="own",
    ),
    History(
        name="a group beside a shared one is its copy",
        world=_shared,
        options={"parameter_group": "mine"},
        changes=("CopyDBParameterGroup", "ModifyDBParameterGroup", "ModifyDBInstance", REBOOT),
        attached="mine",
        check=_copied,
    ),
    History(
        name="a shared group that says it already is not changed",
        world=_written_shared,
        changes=(REBOOT,),
        attached="own",
    ),
    History(
        name="others on the second page are named too",
        world=_shared_by_many,
        error=r"many-104 too",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="a multi-az instance",
        world=lambda s: setattr(s.api.world.main, "multi_az", True),
        changes=FRESH,
        attached=OWN,
    ),
    # Where nothing can be done.
    History(
        name="a read replica names its source",
        world=lambda s: setattr(s.api.world.main, "source_db_instance_identifier", "shop-primary"),
        error=r"shop-prod is a read replica of shop-primary.*name shop-primary as",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="another engine",
        world=lambda s: setattr(s.api.world.main, "engine", "mysql"),
        error=r"of engine mysql, not PostgreSQL",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="a reader of a cluster names the writer",
        world=lambda s: s.cluster(readers=["shop-writer"]).members.reverse(),
        error=r"shop-prod is a reader of cluster shop; its writer is shop-writer.*Name shop-writer",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="a cluster that is a replica names its source",
        world=lambda s: setattr(s.cluster(), "copies", "arn:aws:rds:eu-west-1:1:cluster:first"),
        error=r"cluster shop is a replica of arn:aws:rds:eu-west-1:1:cluster:first",
        level="replica",
        reboots=0,
        changes=(),
    ),
    # Clusters.
    History(name="aurora with a default group", world=_aurora, changes=CLUSTER, attached="planrunner-shop"),
    History(
        name="aurora with its own group",
        world=_aurora_own,
        changes=("ModifyDBClusterParameterGroup", REBOOT),
        attached="own",
    ),
    History(
        name="aurora with a group that another cluster uses",
        world=_aurora_shared,
        error=r"own is used by other too",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="aurora beside a shared group takes a copy",
        world=_aurora_shared,
        options={"parameter_group": "mine"},
        changes=("CopyDBClusterParameterGroup", *CLUSTER[1:]),
        attached="mine",
    ),
    History(
        name="aurora while it fails over",
        world=lambda s: setattr(s.cluster(), "passing", ["failing-over"] * 4),
        changes=CLUSTER,
    ),
    History(
        name="aurora when the answer to its attaching is lost",
        world=_aurora,
        meanwhile=lambda _: [fault("ModifyDBCluster", Fault.LOST)],
        attached="planrunner-shop",
    ),
    History(
        name="a multi-az db cluster is rebooted as a whole",
        world=lambda s: s.cluster(engine="postgres", readers=["one", "two"]),
        changes=(*CLUSTER[:3], "RebootDBCluster"),
        attached="planrunner-shop",
    ),
    # Limits and further parameters.
    History(
        name="slots and senders are raised",
        world=_own(max_replication_slots=1, max_wal_senders=1),
        changes=IN_PLACE,
        check=_shows(max_replication_slots=2, max_wal_senders=2),
    ),
    History(
        name="more streams need more slots",
        world=_own(max_replication_slots=3),
        others={"snapshot": {"streams": 3}},
        check=_shows(max_replication_slots=4, max_wal_senders=20),
    ),
    History(
        name="a way back needs workers on the source",
        world=_own(max_logical_replication_workers=0, max_worker_processes=1),
        others={"cutover_verify": {"reverse": True}},
        check=_shows(max_logical_replication_workers=1, max_worker_processes=2),
    ),
    History(
        name="without a way back workers stay as they are",
        world=_own(max_logical_replication_workers=0),
        check=_shows(max_logical_replication_workers=0),
    ),
    History(
        name="what is enough is not lowered",
        world=_own(max_replication_slots=50),
        check=_shows(max_replication_slots=50),
    ),
    History(
        name="a logical source with too few slots is raised and rebooted",
        world=_logical(max_replication_slots=1),
        changes=IN_PLACE,
        check=_shows(max_replication_slots=2),
    ),
    History(name="a logical source needs nothing", world=_logical(), changes=(), reboots=0),
    History(
        name="dynamic parameters take no reboot",
        world=_logical(),
        options={"parameters": {"work_mem": 8192, "log_connections": True}},
        changes=("ModifyDBParameterGroup",),
        reboots=0,
        check=_shows(work_mem="8MB", log_connections="on"),
    ),
    History(
        name="more than twenty parameters are two calls",
        options={"parameters": MANY},
        changes=(FRESH[0], FRESH[1], *FRESH[1:]),
        check=_two_calls,
    ),
    History(
        name="a parameter that nobody can change",
        options={"parameters": {"rds.extensions": "pg_cron"}},
        error=r"parameter rds.extensions can't be changed",
        level="replica",
        reboots=0,
        changes=(),
    ),
    History(
        name="a parameter that there is not",
        options={"parameters": {"max_replication_slotz": 5}},
        error=r"no parameter max_replication_slotz",
        level="replica",
        reboots=0,
        changes=(),
    ),
    # What AWS does meanwhile.
    History(
        name="every change is throttled once",
        meanwhile=lambda _: [fault(action, Fault.THROTTLED) for action in FRESH],
        attached=OWN,
    ),
    History(
        name="the reboot is throttled again and again",
        world=_own(),
        meanwhile=lambda _: [fault(REBOOT, Fault.THROTTLED, times=3)],
        changes=("ModifyDBParameterGroup", *[REBOOT] * 4),
    ),
    History(
        name="the answer to the making of the group is lost",
        meanwhile=lambda _: [fault("CreateDBParameterGroup", Fault.LOST)],
        attached=OWN,
    ),
    History(
        name="somebody else makes a group of that name at that moment",
        meanwhile=_somebodys_group_first,
        error=r"already exists",
        heal=lambda _: None,
        attached=OWN,
    ),
    History(
        name="the answer to the setting is lost",
        meanwhile=lambda _: [fault("ModifyDBParameterGroup", Fault.LOST)],
    ),
    History(
        name="the answer to the attaching is lost",
        meanwhile=lambda _: [fault("ModifyDBInstance", Fault.LOST)],
        attached=OWN,
    ),
    History(
        name="the attaching meets another change",
        meanwhile=lambda _: [fault("ModifyDBInstance", Fault.BUSY)],
        changes=(*FRESH[:3], *FRESH[2:]),
    ),
    History(
        name="the setting meets another change of the group",
        meanwhile=lambda _: [fault("ModifyDBParameterGroup", Fault.BUSY_GROUP)],
        changes=(FRESH[0], FRESH[1], *FRESH[1:]),
    ),
    History(
        name="the answer to the reboot is lost",
        meanwhile=lambda _: [fault(REBOOT, Fault.LOST)],
        changes=FRESH,
    ),
    History(
        name="the request for the reboot is lost",
        world=_own(),
        meanwhile=lambda _: [fault(REBOOT, Fault.CUT)],
        changes=(*IN_PLACE, REBOOT),
    ),
    History(
        name="AWS breaks down at the reboot",
        world=_own(),
        meanwhile=lambda _: [fault(REBOOT, Fault.BROKEN)],
        changes=(*IN_PLACE, REBOOT),
    ),
    History(
        name="somebody else reboots at that moment",
        world=_written_and_waiting,
        meanwhile=_somebody_reboots_first,
        changes=(REBOOT,),
    ),
    History(
        name="a reboot that did not help is not repeated",
        world=_own(),
        meanwhile=_somebody_takes_it_back,
        error=r"wal_level is replica although",
        heal=lambda _: None,
        level="replica",
        changes=(*IN_PLACE, "ModifyDBParameterGroup"),
    ),
    History(
        name="credentials expire before the reboot",
        meanwhile=lambda _: [fault(REBOOT, Fault.EXPIRED)],
        error=r"credentials have expired \(RebootDBInstance\)",
        heal=lambda _: None,
        changes=(*FRESH, REBOOT),
    ),
    History(
        name="credentials expire while it reboots",
        meanwhile=lambda s: [
            Disturbance(
                action=REBOOT,
                then=lambda: s.api.script.disturbances.append(fault("DescribeDBInstances", Fault.EXPIRED)),
            )
        ],
        error=r"credentials have expired \(DescribeDBInstances\)",
        heal=lambda _: None,
        changes=FRESH,
    ),
    History(
        name="the right to reboot is missing",
        world=_deny(REBOOT),
        error=r"IAM does not allow rds:RebootDBInstance",
        heal=_allow,
        changes=(*FRESH, REBOOT),
    ),
    History(
        name="the right to attach is missing",
        world=_deny("ModifyDBInstance"),
        error=r"IAM does not allow rds:ModifyDBInstance",
        heal=_allow,
        attached=OWN,
    ),
    History(
        name="the right to look at the cluster is missing",
        world=_aurora_denied,
        error=r"IAM does not allow rds:DescribeDBClusters",
        heal=_allow,
        changes=CLUSTER,
    ),
    *(History(name=f"{status} is waited for", world=_passing(status), changes=FRESH) for status in WAITED),
    History(name="storage-optimization is no hindrance", world=_status("storage-optimization")),
    *(
        History(
            name=f"{status} needs somebody",
            world=_status(status),
            error=words,
            heal=_available,
            changes=FRESH,
            attached=OWN,
        )
        for status, words in (
            ("storage-full", r"shop-prod is storage-full.*--allocated-storage"),
            ("stopped", r"start-db-instance --db-instance-identifier shop-prod"),
            ("inaccessible-encryption-credentials", r"KMS key"),
            ("incompatible-parameters", r"reset-db-parameter-group"),
            ("failed", r"Restore its latest snapshot"),
        )
    ),
    History(
        name="AWS fails to apply the group",
        world=_unfit,
        error=r"own of shop-prod is failed-to-apply|could not apply parameter group own",
        heal=_fit,
        changes=IN_PLACE,
    ),
    # The maintenance window, and who reboots.
    History(
        name="the window is waited for",
        world=lambda s: before_window(s, 0.05),
        options={"reboot": "in_window"},
        changes=FRESH,
        check=_waited_for_the_window,
    ),
    History(
        name="an open window is used",
        world=lambda s: before_window(s, -0.5),
        options={"reboot": "in_window"},
        changes=FRESH,
        check=_no_wait,
    ),
    History(
        name="a person reboots",
        options={"reboot": "never"},
        error=r"the plan says reboot: never.*aws rds reboot-db-instance",
        heal=_reboot_by_hand,
        attached=OWN,
    ),
    # Killed on the way.
    *(
        History(name=f"killed at {point}", killed=point, attached=OWN)
        for point in ("rds.before_create_call", "rds.before_set_call", "rds.before_attach_call")
    ),
    History(name="killed as aurora reboots", world=_aurora, killed="rds.after_reboot_call", changes=CLUSTER),
    History(
        name="killed as a multi-az db cluster is to reboot",
        world=lambda s: s.cluster(engine="postgres"),
        killed="rds.before_reboot_call",
        changes=(*CLUSTER[:3], "RebootDBCluster"),
    ),
]


@pytest.fixture
def scene(api: RdsApi, server: PostgresServer, driver: ModuleType, facts: Callable[..., Any]) -> Scene:
    api.world.phase = 0.02
    return Scene(api=api, server=server, driver=driver, make_facts=facts)


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.name)
def test_history(history: History, scene: Scene) -> None:
    history.world(scene)
    options = {"reboot": "allow", **history.options}
    scene.facts = replace(scene.make_facts(**options), others=dict(history.others))
    before = len(scene.api.changes)
    scene.api.script.disturbances = list(history.meanwhile(scene))

    if history.killed is not None:
        assert _killed(scene, history.killed) == -signal.SIGKILL
    if history.error is not None:
        with pytest.raises(PlanrunnerError) as caught:
            _run(scene)
        assert re.search(history.error, str(caught.value), re.DOTALL), str(caught.value)
    if history.heal is not None:
        history.heal(scene)
    if history.level == "logical":
        _run(scene)
    elif history.heal is not None:
        with pytest.raises(PlanrunnerError, match=r"rebooted once for this plan already"):
            _run(scene)

    assert scene.show("wal_level") == history.level
    assert scene.api.reboots == history.reboots
    if history.changes is not None:
        assert tuple(scene.api.changes[before:]) == history.changes
    if history.attached is not None:
        assert scene.attached == (history.attached, "in-sync")
    history.check(scene)


def test_there_are_at_least_forty_histories() -> None:
    assert len({history.name for history in HISTORIES}) == len(HISTORIES) >= 40


def _run(scene: Scene) -> list[str]:
    done: list[str] = scene.driver.perform_all(
        scene.facts, scene.clock, lambda text, _: scene.news.append(text)
    )
    return done


def _killed(scene: Scene, failpoint: str) -> int:
    script = Path(__file__).with_name("driver.py")
    environment = {**os.environ, "PLANRUNNER_FAILPOINTS": f"{failpoint}:kill"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, script, scene.facts.dump()]
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode
