"""What a history of enable_logical is made of: a world, what happens meanwhile, and how it must end."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import boto3
import psycopg

from planrunner.clock import SystemClock
from planrunner.sandbox.rds_script import Disturbance, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from planrunner.sandbox.rds_api import RdsApi
    from planrunner.sandbox.servers import PostgresServer

OWN = "planrunner-shop-prod"
_CLOCK = SystemClock()
_PATIENCE_SECONDS = 60


@dataclass(kw_only=True)
class Scene:
    """The world of one history; ``rds`` is the API as somebody else's client sees it, ``facts`` what the step gets."""

    api: RdsApi
    server: PostgresServer
    driver: ModuleType
    make_facts: Callable[..., Any]
    facts: Any = None
    news: list[str] = field(default_factory=list)
    clock: Any = None

    def __post_init__(self) -> None:
        self.clock = self.driver.Hasty()

    @cached_property
    def rds(self) -> Any:
        return boto3.client("rds", endpoint_url=self.api.endpoint_url, region_name=self.api.region)

    def show(self, name: str) -> str:
        with psycopg.connect(self.server.superuser_dsn) as session:
            row = session.execute("SELECT current_setting(%s)", [name]).fetchone()
        assert row is not None
        return str(row[0])

    def group(self, name: str, *, attached: bool = True, **values: object) -> None:
        """Somebody's own group, with values that have been in force since some reboot."""
        family = self.api.world.main.default_db_parameter_group_details()[0]
        self.rds.create_db_parameter_group(
            DBParameterGroupName=name, DBParameterGroupFamily=family, Description="theirs"
        )
        self.api.world.backend.db_parameter_groups[name].parameters.update(
            _given(self.api, "db_parameter_groups", name, values)
        )
        if attached:
            self.api.world.main.db_parameter_group_name = name
            self.server.restart({n: str(v) for n, v in values.items() if "." not in n})

    def cluster(self, *, engine: str = "aurora-postgresql", readers: Sequence[str] = ()) -> Any:
        return self.api.add_cluster("shop", engine=engine, readers=readers)

    def cluster_group(self, name: str, **values: object) -> None:
        """Somebody's own cluster group, attached."""
        cluster = self.api.world.clusters["shop"]
        self.rds.create_db_cluster_parameter_group(
            DBClusterParameterGroupName=name,
            DBParameterGroupFamily=cluster.group.removeprefix("default."),
            Description="theirs",
        )
        self.api.world.backend.db_cluster_parameter_groups[name].parameters.update(
            _given(self.api, "db_cluster_parameter_groups", name, values)
        )
        cluster.group = name

    def value(self, group: str, name: str) -> tuple[str | None, str]:
        """A parameter's value in a group, and who set it."""
        backend = self.api.world.backend
        store = (
            backend.db_parameter_groups
            if group in backend.db_parameter_groups
            else backend.db_cluster_parameter_groups
        )
        found = store[group].parameters[name]
        return found["ParameterValue"], found["Source"]

    @property
    def attached(self) -> tuple[str, str]:
        """The group that rules the server, and its status once AWS has applied what was asked."""
        world = self.api.world
        give_up = _CLOCK.monotonic() + _PATIENCE_SECONDS
        while world.main.apply_status == "applying" and _CLOCK.monotonic() < give_up:
            _CLOCK.sleep(0.01)
        return world.ruling(world.main).name, world.main.apply_status

    @property
    def groups(self) -> set[str]:
        backend = self.api.world.backend
        return {*backend.db_parameter_groups, *backend.db_cluster_parameter_groups}


def _given(api: RdsApi, store: str, name: str, values: Mapping[str, object]) -> dict[str, Any]:
    there = getattr(api.world.backend, store)[name].parameters
    return {n: {**there[n], "ParameterValue": str(v), "Source": "user"} for n, v in values.items()}


def nothing(_: Scene) -> None:
    """Nothing beside what a fresh instance has."""


@dataclass(frozen=True, kw_only=True)
class History:
    """One history: ``error`` is what the first run must say where it fails; then ``heal`` mends it, and it runs again.

    ``killed`` names a failpoint at which the first run dies. ``level`` is asked from the server at the end, ``reboots``
    counted by AWS, ``changes`` are the step's changing calls, ``check`` looks at everything else.
    """

    name: str
    world: Callable[[Scene], None] = nothing
    meanwhile: Callable[[Scene], Sequence[Disturbance]] = lambda _: ()
    options: Mapping[str, object] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    error: str | None = None
    killed: str | None = None
    heal: Callable[[Scene], None] | None = None
    level: str = "logical"
    reboots: int = 1
    changes: tuple[str, ...] | None = None
    attached: str | None = None
    check: Callable[[Scene], None] = nothing


def fault(action: str, what: Fault, *, after: int = 0, times: int = 1) -> Disturbance:
    return Disturbance(action=action, fault=what, after=after, times=times)


def before_window(scene: Scene, hours: float) -> None:
    """Let the time of day be so long before the maintenance window opens."""
    scene.api.world.main.preferred_maintenance_window = "sun:03:00-sun:04:00"
    sunday = datetime(2026, 11, 29, 3, 0, tzinfo=UTC)
    scene.clock.shift = sunday - timedelta(hours=hours) - datetime.now(UTC)
