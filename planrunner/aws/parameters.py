"""Parameter groups of both levels, an instance's and a cluster's: what is in them, who uses them, and their changes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planrunner.errors import CloudError
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mypy_boto3_rds.client import RDSClient

    from planrunner.aws import failures
    from planrunner.model import RdsInstance
else:
    failures = on_demand("planrunner.aws.failures")

# AWS takes at most so many in one call.
CALL_LIMIT = 20
_MISSING = frozenset(
    {
        "DBParameterGroupNotFound",
        "DBParameterGroupNotFoundFault",
        "DBClusterParameterGroupNotFound",
        "DBClusterParameterGroupNotFoundFault",
    }
)
_EXISTS = frozenset({"DBParameterGroupAlreadyExists", "DBParameterGroupAlreadyExistsFault"})
# What separates the parts of a value where the AWS command line reads ``name=value,name=value``.
_SEPARATING = frozenset(" ,=\"'[]{}")


@dataclass(frozen=True, kw_only=True)
class Level:
    """Where a parameter group is attached; the names that AWS's API and command line give it there."""

    noun: str
    words: str
    group: str
    member: str

    @property
    def cluster(self) -> bool:
        """True for the level of a whole cluster."""
        return self.noun == "cluster"

    @property
    def group_option(self) -> str:
        """The command line's option that names a group: ``--db-parameter-group-name``."""
        return f"--{self.words}-parameter-group-name"

    @property
    def identifier_option(self) -> str:
        """The command line's option that names what the group is attached to."""
        return f"--db-{self.noun}-identifier"

    def iam(self, verb: str) -> str:
        """The IAM action of a verb on a group: ``rds:ModifyDBParameterGroup``."""
        return f"rds:{verb}{self.group}"


INSTANCE = Level(noun="instance", words="db", group="DBParameterGroup", member="DBParameterGroupName")
CLUSTER = Level(
    noun="cluster",
    words="db-cluster",
    group="DBClusterParameterGroup",
    member="DBClusterParameterGroupName",
)


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """A parameter group and the engine family it is for."""

    name: str
    family: str
    description: str = ""

    @property
    def immutable(self) -> bool:
        """True for AWS's own groups, which can't be changed."""
        return self.name.startswith("default.")


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a group; ``value`` is None where the engine's own default rules, and may be a formula.

    ``user``: somebody set it in this group.
    """

    name: str
    value: str | None
    static: bool
    modifiable: bool
    user: bool

    @property
    def method(self) -> str:
        """How AWS is to apply a change of it: it refuses ``immediate`` for a static one."""
        return "pending-reboot" if self.static else "immediate"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A parameter that is to be given a value; None gives it back to the family's default."""

    name: str
    value: str | None
    method: str

    @property
    def worded(self) -> str:
        """As the AWS command line takes it."""
        given = "" if self.value is None else f",ParameterValue={_quoted(self.value)}"
        return f"ParameterName={self.name}{given},ApplyMethod={self.method}"

    @property
    def sent(self) -> dict[str, str]:
        """As the API takes it."""
        given = {} if self.value is None else {"ParameterValue": self.value}
        return {"ParameterName": self.name, **given, "ApplyMethod": self.method}

    @property
    def static(self) -> bool:
        """True when it takes effect with a reboot."""
        return self.method == "pending-reboot"


def _quoted(value: str) -> str:
    if not value or _SEPARATING & set(value):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value


@dataclass(frozen=True, kw_only=True)
class ParameterGroups:
    """The API calls on the groups of one level; every refusal leaves as CloudError with cause and remedy."""

    level: Level
    instance: RdsInstance
    service: RDSClient = field(repr=False)

    def find(self, name: str) -> ParameterGroup | None:
        """The group of that name, None when there is none."""
        try:
            found = self._call("describe", "s", **{self.level.member: name})[f"{self.level.group}s"]
        except CloudError as error:
            if error.code in _MISSING:
                return None
            raise
        return self._group(found[0], name) if found else None

    def _group(self, told: Mapping[str, str], name: str) -> ParameterGroup:
        return ParameterGroup(
            name=told.get(self.level.member, name),
            family=told.get("DBParameterGroupFamily", ""),
            description=told.get("Description", ""),
        )

    def parameters(self, name: str) -> dict[str, Parameter]:
        """Everything in a group by name; AWS gives it page by page."""
        listing = f"describe_{_snake(self.level)}_parameters"
        pages = self._pages(listing, **{self.level.member: name})
        return {p["ParameterName"]: _parameter(p) for page in pages for p in page["Parameters"]}

    def users(self, name: str) -> tuple[str, ...]:
        """The instances (or clusters) that use a group: what is set in it reaches all of them."""
        if self.level.cluster:
            pages = self._pages("describe_db_clusters")
            found = (c for page in pages for c in page["DBClusters"])
            using = (c["DBClusterIdentifier"] for c in found if c.get("DBClusterParameterGroup") == name)
            return tuple(sorted(using))
        pages = self._pages("describe_db_instances")
        return tuple(
            sorted(
                one["DBInstanceIdentifier"]
                for page in pages
                for one in page["DBInstances"]
                if any(g.get("DBParameterGroupName") == name for g in one.get("DBParameterGroups", ()))
            )
        )

    def create(self, name: str, family: str, description: str) -> None:
        """Create a group with the family's defaults; harmless when one of that name and description is there."""
        given = {self.level.member: name, "DBParameterGroupFamily": family, "Description": description}
        with self._ours(name, description):
            self._call("create", **given)

    def copy(self, of: str, name: str, description: str) -> None:
        """Create a group with every value that ``of`` has; harmless as ``create`` is."""
        which = f"{self.level.group}Identifier"
        given = {f"Source{which}": of, f"Target{which}": name}
        with self._ours(name, description):
            self._call("copy", **given, **{f"Target{self.level.group}Description": description})

    @contextmanager
    def _ours(self, name: str, description: str) -> Iterator[None]:
        """A block that makes a group: a call that is made again, its answer lost, says that it is there already."""
        try:
            yield
        except CloudError as error:
            there = self.find(name) if error.code in _EXISTS else None
            if there is None or there.description != description:
                raise

    def set(self, name: str, changes: Iterable[Change]) -> None:
        """Set parameters, in as many calls as AWS needs."""
        for some in batches(changes):
            self._change("modify", name, some)

    def reset(self, name: str, changes: Iterable[Change]) -> None:
        """Give parameters back to the family's default, in as many calls as AWS needs."""
        for some in batches(changes):
            self._change("reset", name, some, ResetAllParameters=False)

    def _change(self, verb: str, name: str, some: Sequence[Change], **given: Any) -> None:
        given |= {self.level.member: name, "Parameters": [change.sent for change in some]}
        self._call(verb, **given)

    def delete(self, name: str) -> None:
        """Delete a group; harmless when it is gone. AWS refuses while something uses it."""
        try:
            self._call("delete", **{self.level.member: name})
        except CloudError as error:
            if error.code not in _MISSING:
                raise

    def _call(self, verb: str, ending: str = "", **given: Any) -> Any:
        call: Any = getattr(self.service, f"{verb}_{_snake(self.level)}_parameter_group{ending}")
        with failures.translated("rds", self.instance):
            return call(**given)

    def _pages(self, listing: str, **given: str) -> Iterator[Any]:
        service: Any = self.service
        with failures.translated("rds", self.instance):
            yield from service.get_paginator(listing).paginate(**given)


def batches(changes: Iterable[Change]) -> Iterator[tuple[Change, ...]]:
    """Changes as calls take them."""
    left = tuple(changes)
    while left:
        yield left[:CALL_LIMIT]
        left = left[CALL_LIMIT:]


def _snake(level: Level) -> str:
    return level.words.replace("-", "_")


def _parameter(told: Mapping[str, Any]) -> Parameter:
    return Parameter(
        name=told["ParameterName"],
        value=told.get("ParameterValue"),
        # AWS tells dynamic or static; what it does not tell is safe to call static.
        static=told.get("ApplyType", "static") != "dynamic",
        modifiable=bool(told.get("IsModifiable", True)),
        user=told.get("Source") == "user",
    )


def differing(
    one: Mapping[str, Parameter], other: Mapping[str, Parameter], but: Sequence[str] = ()
) -> tuple[str, ...]:
    """The parameters whose values differ between two groups."""
    names = sorted({*one, *other} - set(but))
    return tuple(n for n in names if _value(one, n) != _value(other, n))


def _value(group: Mapping[str, Parameter], name: str) -> str | None:
    found = group.get(name)
    return found.value if found else None
