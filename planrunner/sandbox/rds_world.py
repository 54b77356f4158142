"""The stand-in's world: one instance over a real server, its cluster and neighbours, and what time does to them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from moto.rds.exceptions import RDSClientError
from moto.rds.models import DBInstance

from planrunner.aws.statuses import Course, meaning
from planrunner.sandbox.rds_catalog import server_settings
from planrunner.sandbox.rds_events import RESTARTED, SHUTDOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.sandbox.servers import PostgresServer


class StandInInstance(DBInstance):  # pyright: ignore[reportImplicitAbstractClass]  # so is moto's
    """An instance whose endpoint is a sandbox server and whose group has an apply status of its own.

    ``passing`` are statuses that it tells one after the other, each at one look, before it is as it is.
    """

    def __init__(self, backend: Any, *, host: str, **facts: Any) -> None:
        self.passing: list[str] = []
        self._now = "available"
        super().__init__(backend, **facts)
        self._host = host
        self.apply_status = "in-sync"

    @property
    def status(self) -> str:
        """What AWS would tell: a reboot hides everything else."""
        return self.passing[0] if self.passing and self._now != "rebooting" else self._now

    @status.setter
    def status(self, value: str) -> None:
        self._now = value

    def looked_at(self) -> None:
        """A look has seen the first of the passing statuses."""
        if self.passing and self._now != "rebooting":
            self.passing.pop(0)

    @property
    def address(self) -> str:
        """The server's own address."""
        return self._host

    @property
    def db_parameter_group_status_list(self) -> Any:
        """The attached group with the status that AWS would tell; a cluster's group has the statuses instead."""
        groups = self.db_parameter_groups()
        for group in groups:
            vars(group)["ParameterApplyStatus"] = (
                "in-sync" if self.db_cluster_identifier else self.apply_status
            )
        return groups


@dataclass(kw_only=True)
class StandInCluster:
    """A cluster of instances by name, the writer first; ``passing`` as an instance's.

    ``lag``: how far what can be restored of it is behind what it has committed. ``capacity``: of its instances without a
    size of their own, the least and the most.
    """

    identifier: str
    engine: str
    engine_version: str
    group: str
    members: list[StandInInstance] = field(default_factory=list)
    status: str = "available"
    window: str = "sun:03:00-sun:04:00"
    copies: str = ""
    passing: list[str] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)
    subnets: str = ""
    security_groups: list[str] = field(default_factory=list)
    lag: timedelta = timedelta(0)
    capacity: tuple[str, str] | None = None

    @property
    def told(self) -> str:
        """The status that a look is told."""
        return self.passing.pop(0) if self.passing else self.status


class World:
    """Instances, clusters and groups of one region's moto backend, and the server behind ``main``.

    ``phase`` is how long ``applying`` and ``rebooting`` last beside the real restart, in seconds. ``unfit``: AWS
    fails to apply the next group. ``note`` hears of what AWS would list as an event of an instance.
    """

    def __init__(self, backend: Any, server: PostgresServer, main: StandInInstance, *, phase: float) -> None:
        self.backend = backend
        self.server = server
        self.main = main
        self.phase = phase
        self.clusters: dict[str, StandInCluster] = {}
        self.reboots = 0
        self.unfit = False
        self.note: Callable[[str, str], None] = _unnoted
        self.lock = threading.RLock()
        self._base = server.settings
        # What groups have brought to the server; everything else there is its owner's.
        self._laid: set[str] = set()
        self._gone = threading.Event()
        self._threads: list[threading.Thread] = []

    def close(self) -> None:
        """Wait for what still runs in the background; a reboot under way is carried to its end."""
        self._gone.set()
        for thread in self._threads:
            thread.join(60)

    def cluster_of(self, instance: StandInInstance) -> StandInCluster | None:
        """The cluster that it is a member of."""
        return self.clusters.get(str(instance.db_cluster_identifier))

    def ruling(self, instance: StandInInstance) -> Any:
        """The group whose parameters its server gets."""
        cluster = self.cluster_of(instance)
        if cluster is None:
            return instance.db_parameter_groups()[0]
        return self.backend.db_cluster_parameter_groups[cluster.group]

    def using(self, group: Any) -> Iterator[StandInInstance]:
        """The instances that a group rules."""
        for instance in list(self.backend.databases.values()):
            if isinstance(instance, StandInInstance) and self.ruling(instance) is group:
                yield instance

    def must_take_changes(self, *statuses: str, code: str = "InvalidDBInstanceState") -> None:
        """Refuse as AWS does where a status forbids changes."""
        for status in statuses:
            if meaning(status, "").course is not Course.GO:
                raise RDSClientError(code, f"It is {status} and not currently in the available state.")

    def group_changed(self, group: Any, names: set[str]) -> None:
        """Parameters of a group were set or reset: the dynamic ones at once, the others with the next reboot."""
        static = any(group.parameters[name]["ApplyMethod"] != "immediate" for name in names)
        for instance in self.using(group):
            waits = static or instance.apply_status == "pending-reboot"
            self.apply_later(instance, "pending-reboot" if waits else "in-sync")
        if self.ruling(self.main) is group:
            dynamic = {n for n in names if group.parameters[n]["ApplyMethod"] == "immediate"}
            values = server_settings({n: group.parameters[n]["ParameterValue"] for n in dynamic})
            del values["wal_level"]
            self.server.reload(*self._over(values, self._laid & (dynamic - set(values))))

    def _over(self, values: Mapping[str, str], gone: set[str]) -> tuple[dict[str, str], set[str]]:
        """The settings to lay over the server's, those in which a group is silent again as before, and those to drop."""
        self._laid |= set(values)
        self._laid -= gone
        former = {name: self._base[name] for name in gone if name in self._base}
        return {**former, **values}, gone - set(former)

    def apply_later(self, instance: StandInInstance, then: str = "pending-reboot") -> None:
        """Let AWS apply the instance's group in the background."""
        with self.lock:
            instance.apply_status = "applying"
        end = "failed-to-apply" if self.unfit else then
        self.unfit = False
        self._in_background(lambda: self._applied(instance, end))

    def _applied(self, instance: StandInInstance, end: str) -> None:
        self._gone.wait(self.phase)
        with self.lock:
            if instance.apply_status == "applying":
                instance.apply_status = end

    def reboot(self, *members: StandInInstance) -> None:
        """Restart what is rebooted; the server behind ``main`` really restarts, under its group."""
        with self.lock:
            self.reboots += 1
            # As on RDS, a group that is still being applied is not part of this reboot.
            taken = [member for member in members if member.apply_status != "applying"]
            settings = self._settings() if self.main in taken else {}
            for member in members:
                member.status = "rebooting"
        self._in_background(lambda: self._rebooted(members, taken, settings))

    def _rebooted(
        self,
        members: tuple[StandInInstance, ...],
        taken: list[StandInInstance],
        settings: Mapping[str, str],
    ) -> None:
        self._gone.wait(self.phase)
        self._note(members, SHUTDOWN)
        try:
            if self.main in members:
                gone = self._laid - set(settings) if settings else set[str]()
                self.server.restart(*self._over(settings, gone))
                self._note(members, RESTARTED)
                self._gone.wait(self.phase)
        except Exception:
            # It does not start with what its group says.
            for member in members:
                member.status = "incompatible-parameters"
            raise
        with self.lock:
            for member in members:
                member.status = "available"
            for member in taken:
                member.apply_status = "in-sync"

    def _note(self, members: tuple[StandInInstance, ...], message: str) -> None:
        for member in members:
            self.note(str(member.db_instance_identifier), message)

    def _settings(self) -> dict[str, str]:
        group = self.ruling(self.main)
        return server_settings({name: p["ParameterValue"] for name, p in group.parameters.items()})

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="rds stand-in", daemon=True)
        self._threads.append(thread)
        thread.start()


def _unnoted(_instance: str, _message: str) -> None:
    """Who is not interested."""
