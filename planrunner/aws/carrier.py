"""Who carries the parameter group that rules the source: an instance by itself, or the cluster that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planrunner.aws import clusters
from planrunner.aws.parameters import CLUSTER, INSTANCE, Level, ParameterGroups
from planrunner.aws.statuses import Course, applied, meaning
from planrunner.errors import CloudError
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_rds.client import RDSClient

    from planrunner.aws import failures, session
    from planrunner.aws.clusters import DbCluster
    from planrunner.aws.rds import DbInstance, Rds
    from planrunner.model import Json
else:
    failures = on_demand("planrunner.aws.failures")
    session = on_demand("planrunner.aws.session")

_POLL_SECONDS = 5.0
_FIRST_POLLS = (0.1, 0.2, 0.5, 1.0, 2.0)
# Somebody else's change is under way: it takes ours in a moment.
BUSY = frozenset(
    {
        "InvalidDBInstanceState",
        "InvalidDBInstanceStateFault",
        "InvalidDBClusterStateFault",
        "InvalidDBParameterGroupState",
        "InvalidDBParameterGroupStateFault",
    }
)
_TRIES = 5


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The instance, its cluster if it has one, and the parameter group that rules both, as AWS tells of them now."""

    instance: DbInstance
    cluster: DbCluster | None = None

    @property
    def level(self) -> Level:
        """Where the group is attached."""
        return CLUSTER if self.cluster else INSTANCE

    @property
    def name(self) -> str:
        """What it is attached to."""
        return self.cluster.identifier if self.cluster else self.instance.identifier

    @property
    def group(self) -> str:
        """The attached group."""
        return self.cluster.group if self.cluster else self.instance.group

    @property
    def family(self) -> str:
        """The family that a group must be of."""
        return self.instance.family

    @property
    def apply_status(self) -> str:
        """How far AWS is with the group, on the instance that takes writes."""
        if self.cluster is None:
            return self.instance.apply_status
        return self.cluster.applied.get(self.cluster.writer or self.instance.identifier, "")

    @property
    def window(self) -> str:
        """The weekly maintenance window of what is rebooted, as AWS writes it."""
        return self.cluster.window if self.cluster and self.whole else self.instance.window

    @property
    def whole(self) -> bool:
        """True for a Multi-AZ DB cluster, which is rebooted as a whole."""
        return self.cluster is not None and not self.cluster.aurora

    @property
    def rebooted(self) -> str:
        """The name of what is rebooted."""
        return self.name if self.whole else self.instance.identifier

    @property
    def statuses(self) -> tuple[tuple[str, str, bool], ...]:
        """Name, status, and whether it is a cluster, of everything that must be able to take a change."""
        own = (self.instance.identifier, self.instance.status, False)
        return ((self.cluster.identifier, self.cluster.status, True), own) if self.cluster else (own,)

    @property
    def course(self) -> Course:
        """What its statuses ask for: the one that asks most."""
        found = {meaning(status, name, cluster=c).course for name, status, c in self.statuses}
        return next(course for course in (Course.ACT, Course.WAIT, Course.GO) if course in found)

    @property
    def remedy(self) -> str:
        """What a person has to do where the course is ACT."""
        found = (meaning(status, name, cluster=c) for name, status, c in self.statuses)
        return next((m.remedy for m in found if m.course is Course.ACT), "")

    @property
    def settled(self) -> bool:
        """True when it takes changes and AWS is through with the group."""
        return self.course is Course.GO and applied(self.apply_status)

    @property
    def told(self) -> str:
        """Its statuses for people."""
        whole = ", ".join(f"{name} is {status}" for name, status, _ in self.statuses)
        return f"{whole}, parameter group {self.group} {self.apply_status or 'of unknown status'}"


class Carrier:
    """The API calls on what carries the group; ``calm`` waits, and leaves with CloudError what a person must mend."""

    def __init__(self, rds: Rds) -> None:
        self.rds = rds
        self._clock = rds.clock

    @cached_property
    def _once(self) -> RDSClient:
        # A reboot whose answer was lost must not be asked for again before anybody has looked.
        return session.client("rds", self.rds.instance, retried=False)

    def look(self) -> Standing:
        """Everything as it is now."""
        instance = self.rds.describe()
        if instance.cluster is None:
            return Standing(instance=instance)
        found = clusters.find(self.rds.client, self.rds.instance, instance.cluster)
        return Standing(instance=instance, cluster=found)

    def groups(self, level: Level) -> ParameterGroups:
        """The parameter groups of a level."""
        return ParameterGroups(level=level, instance=self.rds.instance, service=self.rds.client)

    def attach(self, now: Standing, group: str) -> None:
        """Attach a group; AWS applies it in the background, see ``calm``."""
        with failures.translated("rds", self.rds.instance):
            if now.cluster is not None:
                self.rds.client.modify_db_cluster(
                    DBClusterIdentifier=now.name, DBClusterParameterGroupName=group, ApplyImmediately=True
                )
            else:
                self.rds.client.modify_db_instance(
                    DBInstanceIdentifier=now.name, DBParameterGroupName=group, ApplyImmediately=True
                )

    def reboot(self, now: Standing) -> None:
        """Ask for a reboot, in one request that is never repeated by itself."""
        with failures.translated("rds", self.rds.instance):
            if now.whole:
                self._once.reboot_db_cluster(DBClusterIdentifier=now.name)
            else:
                self._once.reboot_db_instance(DBInstanceIdentifier=now.instance.identifier)

    def calm(self, timeout: float, tell: Callable[[str, Mapping[str, Json]], None]) -> Standing:
        """Wait until it takes changes and its group is applied or waits for a reboot; then how it stands.

        ``timeout`` is in seconds; CloudError when it passes, and for a status that a person must mend. ``tell`` hears
        of every change of status.
        """
        deadline = self._clock.monotonic() + timeout
        polls = iter(_FIRST_POLLS)
        told = ""
        while not (now := self.look()).settled:
            if now.course is Course.ACT:
                raise CloudError(f"aws: {now.told}", remedy=f"{now.remedy} Then run again.")
            if now.told != told:
                tell(now.told, {"status": now.instance.status, "apply": now.apply_status})
                told = now.told
            if self._clock.monotonic() > deadline:
                raise CloudError(
                    f"aws: after {timeout:.0f} s still {now.told}",
                    remedy=f"See what AWS says of it, then run again: {self.events(now)}",
                )
            self._clock.sleep(next(polls, _POLL_SECONDS))
        return now

    def patiently(self, act: Callable[[], None], wait: Callable[[], object]) -> None:
        """Do ``act``; where AWS says that something else is under way, ``wait`` and do it again."""
        for left in reversed(range(_TRIES)):
            try:
                act()
            except CloudError as error:
                if error.code not in BUSY or not left:
                    raise
                self._clock.sleep(_FIRST_POLLS[-1] if left < _TRIES - 1 else _FIRST_POLLS[0])
                wait()
            else:
                return

    def events(self, now: Standing) -> str:
        """The command that shows what AWS has to say."""
        kind = ("--source-type", f"db-{now.level.noun}", "--source-identifier", now.name)
        return self.rds.command("describe-events", *kind)

    def describing(self, now: Standing) -> str:
        """The command that shows how it stands."""
        return self.rds.command(f"describe-db-{now.level.noun}s", now.level.identifier_option, now.name)

    def attaching(self, now: Standing, group: str) -> str:
        """The command of ``attach``."""
        words = (now.level.identifier_option, now.name, now.level.group_option, group)
        return self.rds.command(f"modify-db-{now.level.noun}", *words, "--apply-immediately")

    def rebooting(self, now: Standing) -> str:
        """The command of ``reboot``."""
        noun = "cluster" if now.whole else "instance"
        return self.rds.command(f"reboot-db-{noun}", f"--db-{noun}-identifier", now.rebooted)


def looking(now: Standing) -> tuple[str, ...]:
    """The IAM actions of every look, before, between and after the changes."""
    own = ("rds:DescribeDBEngineVersions", "rds:DescribeDBInstances")
    groups = (now.level.iam("Describe") + "s", f"rds:Describe{now.level.group.removesuffix('Group')}s")
    return (*own, *(("rds:DescribeDBClusters",) if now.cluster else ()), *groups)
