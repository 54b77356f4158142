"""What RDS does and moto does not: which call is refused, answered by us, or carried on where moto stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from moto.rds.exceptions import DBInstanceNotFoundError, RDSClientError

from planrunner.sandbox.rds_clusters import Clusters
from planrunner.sandbox.rds_groups import Groups
from planrunner.sandbox.rds_world import StandInCluster, StandInInstance, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.sandbox.rds_clones import Clones
    from planrunner.sandbox.rds_restores import Restores

Params: TypeAlias = Mapping[str, str]
_KINDS = ("DBParameterGroup", "DBClusterParameterGroup")


class Rules:
    """The behaviour of one world over its moto backend.

    ``before`` and ``after`` are called around moto with the action's name and parameters, ``answer`` instead of it;
    what AWS refuses they refuse with moto's errors.
    """

    def __init__(self, world: World, restores: Restores, clones: Clones) -> None:
        self.world = world
        self.groups, self.cluster_groups = (Groups(world=world, kind=kind) for kind in _KINDS)
        clusters = Clusters(world=world)
        self._before: dict[str, Callable[[Params], None]] = {
            "ModifyDBInstance": self._check_modification,
            "RebootDBInstance": self._reboot,
        }
        self._after: dict[str, Callable[[Params], None]] = {
            "ModifyDBInstance": self._group_attached,
            "DescribeDBInstances": self._all_looked_at(clones),
            "CreateDBSnapshot": restores.taken,
            "DeleteDBInstance": restores.deleted,
            "DeleteDBSnapshot": restores.dropped,
        }
        self._answers: dict[str, Callable[[Params], str | None]] = {
            "DescribeDBClusters": clusters.described,
            "ModifyDBCluster": clusters.modified,
            "RebootDBCluster": clusters.rebooted,
            "RestoreDBInstanceFromDBSnapshot": restores.restored,
            "RestoreDBClusterToPointInTime": clones.cloned,
            "CreateDBInstance": clones.populated,
            "DeleteDBInstance": clones.unmanned,
            "DeleteDBCluster": clones.dropped,
        }
        for kind, groups in zip(_KINDS, (self.groups, self.cluster_groups), strict=True):
            self._before |= {
                f"Create{kind}": groups.check_new,
                f"Copy{kind}": groups.check_copy,
                f"Modify{kind}": groups.check_changes,
                f"Delete{kind}": groups.check_deletion,
                f"Describe{kind}s": self._checking_name(groups),
            }
            self._after |= {f"Create{kind}": groups.created, f"Modify{kind}": groups.changed}
            self._answers |= {
                f"Reset{kind}": groups.reset,
                f"Describe{kind.removesuffix('Group')}s": groups.listed,
            }
        for group in world.main.db_parameter_groups():
            self.groups.seed(group.name)

    def before(self, action: str, params: Params) -> None:
        """Refuse what AWS refuses, and begin what moto does not do."""
        self._before.get(action, _nothing)(params)

    def after(self, action: str, params: Params) -> None:
        """Carry on where moto stopped."""
        self._after.get(action, _nothing)(params)

    def answer(self, action: str, params: Params) -> str | None:
        """The result of a call that moto is not asked; None for one that it is."""
        found = self._answers.get(action)
        return found(params) if found else None

    def add_cluster(self, name: str, engine: str, *readers: StandInInstance) -> StandInCluster:
        """Make the main instance the writer of a cluster, with AWS's own cluster group."""
        main = self.world.main
        major = str(main.engine_version).split(".", maxsplit=1)[0]
        cluster = StandInCluster(
            identifier=name,
            engine=engine,
            engine_version=str(main.engine_version),
            group=f"default.{engine}{major}",
            members=[main, *readers],
            subnets=str(main.db_subnet_group.name),
            security_groups=list(main.vpc_security_group_ids),
        )
        for member in cluster.members:
            member.engine = engine
            member.db_cluster_identifier = name
            member.db_parameter_group_name = f"default.{engine}{major}"
            for group in member.db_parameter_groups():
                self.groups.seed(group.name)
        self.world.clusters[name] = cluster
        self.cluster_groups.add_default(cluster)
        return cluster

    def _checking_name(self, groups: Groups) -> Callable[[Params], None]:
        def check(params: Params) -> None:
            if f"{groups.kind}Name" in params:
                groups.named(params)

        return check

    def _check_modification(self, params: Params) -> None:
        instance = self._named(params)
        self.world.must_take_changes(instance.status)
        if "DBParameterGroupName" not in params:
            return
        group = self.groups.named(params)
        family, _ = instance.default_db_parameter_group_details()
        if group.family != family:
            raise RDSClientError(
                "InvalidParameterCombination",
                f"The parameter group {group.name} with DBParameterGroupFamily {group.family} can't be used"
                f" for this instance. Please use a Parameter Group with DBParameterGroupFamily {family}.",
            )

    def _group_attached(self, params: Params) -> None:
        if "DBParameterGroupName" in params:
            self.world.apply_later(self._named(params))

    def _all_looked_at(self, clones: Clones) -> Callable[[Params], None]:
        def look(params: Params) -> None:
            self._looked_at(params)
            clones.looked_at(params)

        return look

    def _looked_at(self, params: Params) -> None:
        for instance in self._seen(params):
            instance.looked_at()

    def _seen(self, params: Params) -> Iterator[StandInInstance]:
        for instance in self.world.backend.databases.values():
            wanted = params.get("DBInstanceIdentifier") in {None, instance.db_instance_identifier}
            if wanted and isinstance(instance, StandInInstance):
                yield instance

    def _reboot(self, params: Params) -> None:
        with self.world.lock:
            instance = self._named(params)
            self.world.must_take_changes(instance.status)
            if params.get("ForceFailover") == "true" and not instance.multi_az:
                raise RDSClientError(
                    "InvalidParameterCombination",
                    "Cannot reboot with failover: it is not a Multi-AZ instance.",
                )
            self.world.reboot(instance)

    def _named(self, params: Params) -> StandInInstance:
        name = params.get("DBInstanceIdentifier", "").lower()
        found = self.world.backend.databases.get(name)
        if not isinstance(found, StandInInstance):
            raise DBInstanceNotFoundError(name)
        return found


def _nothing(_: Params) -> None:
    """What most actions need beside moto."""
