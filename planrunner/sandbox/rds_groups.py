"""Parameter groups as RDS keeps them, of instances and clusters: limits, refusals, pages, resets, copies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from moto.rds.exceptions import DBParameterGroupNotFoundError, RDSClientError
from moto.rds.models import DBClusterParameterGroup

from planrunner.sandbox.rds_catalog import CATALOG, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.sandbox.rds_world import StandInCluster, World

    Params = Mapping[str, str]

_GROUP_NAME = re.compile(r"\A[a-zA-Z](?:-?[a-zA-Z0-9])*\Z")
_SENT = re.compile(r"\AParameters\.(?:Parameter|member)\.(\d+)\.(\w+)\Z")
_CALL_LIMIT = 20
_PAGE = 100


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of one kind: ``DBParameterGroup`` or ``DBClusterParameterGroup``."""

    world: World
    kind: str

    @property
    def store(self) -> dict[str, Any]:
        """The groups as moto keeps them."""
        backend = self.world.backend
        found: dict[str, Any] = (
            backend.db_parameter_groups
            if self.kind == "DBParameterGroup"
            else backend.db_cluster_parameter_groups
        )
        return found

    def named(self, params: Params) -> Any:
        """The group that a call names."""
        name = params.get(f"{self.kind}Name", "").lower()
        if name not in self.store:
            raise DBParameterGroupNotFoundError(name)
        return self.store[name]

    def seed(self, name: str) -> None:
        """Give a group the parameters and defaults that RDS gives it."""
        parameters = self.store[name].parameters
        for parameter in CATALOG:
            parameters[parameter] = _fresh(parameter)

    def add_default(self, cluster: StandInCluster) -> None:
        """AWS's own group of a cluster's family."""
        if cluster.group not in self.store:
            # moto's base class says that cloud formation is still to be added.
            make: Any = DBClusterParameterGroup
            self.store[cluster.group] = make(
                backend=self.world.backend,
                db_cluster_parameter_group_name=cluster.group,
                db_parameter_group_family=cluster.group.removeprefix("default."),
                description=f"Default cluster parameter group for {cluster.group}",
            )
            self.seed(cluster.group)

    def check_new(self, params: Params) -> None:
        """CreateDBParameterGroup."""
        _check_name(params.get(f"{self.kind}Name", ""), f"{self.kind}Name")
        family = params.get("DBParameterGroupFamily", "")
        if family not in FAMILIES:
            raise RDSClientError(
                "InvalidParameterValue",
                f"ParameterGroupFamily {family} is not a valid parameter group family",
            )

    def check_copy(self, params: Params) -> None:
        """CopyDBParameterGroup: AWS's own groups can't be copied."""
        name = params.get(f"Source{self.kind}Identifier", "").lower()
        if name not in self.store:
            raise DBParameterGroupNotFoundError(name)
        if name.startswith("default."):
            raise RDSClientError("InvalidParameterValue", "Cannot copy a default parameter group.")
        _check_name(params.get(f"Target{self.kind}Identifier", ""), f"Target{self.kind}Identifier")

    def created(self, params: Params) -> None:
        """A group that was made holds its family's defaults."""
        self.seed(params.get(f"{self.kind}Name", "").lower())

    def check_changes(self, params: Params) -> None:
        """ModifyDBParameterGroup and ResetDBParameterGroup."""
        group = self.named(params)
        if group.name.startswith("default."):
            raise RDSClientError("InvalidParameterValue", "Cannot modify a default parameter group.")
        sent = _sent(params)
        if len(sent) > _CALL_LIMIT:
            raise RDSClientError(
                "InvalidParameterValue",
                f"The request has {len(sent)} parameters; at most {_CALL_LIMIT} can be modified in one request.",
            )
        for parameter in sent:
            _check_parameter(parameter["ParameterName"], parameter.get("ApplyMethod", ""))

    def changed(self, params: Params) -> None:
        """Somebody's values are in the group."""
        group = self.named(params)
        names = {parameter["ParameterName"] for parameter in _sent(params)}
        for name in names:
            group.parameters[name]["Source"] = "user"
        self.world.group_changed(group, names)

    def reset(self, params: Params) -> str:
        """ResetDBParameterGroup, which moto does not know."""
        self.check_changes(params)
        group = self.named(params)
        methods = {p["ParameterName"]: p["ApplyMethod"] for p in _sent(params)}
        if params.get("ResetAllParameters") == "true":
            methods = {n: p["ApplyMethod"] for n, p in group.parameters.items() if p["Source"] == "user"}
        for name, method in methods.items():
            group.parameters[name] = {**_fresh(name), "ApplyMethod": method}
        self.world.group_changed(group, set(methods))
        return f"<{self.kind}Name>{escape(group.name)}</{self.kind}Name>"

    def check_deletion(self, params: Params) -> None:
        """DeleteDBParameterGroup: not while something uses it."""
        group = self.named(params)
        clusters = {cluster.group for cluster in self.world.clusters.values()}
        used = group.name in clusters if self.kind != "DBParameterGroup" else self._attached(group.name)
        if used or group.name.startswith("default."):
            raise RDSClientError(
                "InvalidDBParameterGroupState",
                f"One or more database instances are still members of this parameter group {group.name},"
                " so the group cannot be deleted",
            )

    def _attached(self, name: str) -> bool:
        instances = self.world.backend.databases.values()
        return any(group.name == name for one in instances for group in one.db_parameter_groups())

    def listed(self, params: Params) -> str:
        """DescribeDBParameters, page by page."""
        parameters = list(self.named(params).parameters.values())
        begin = int(params.get("Marker", "0"))
        size = int(params.get("MaxRecords", str(_PAGE)))
        if not 20 <= size <= _PAGE:
            raise RDSClientError(
                "InvalidParameterValue", f"Invalid value {size} for MaxRecords. Must be between 20 and 100"
            )
        page = "".join(map(_worded, parameters[begin : begin + size]))
        more = begin + size < len(parameters)
        marker = f"<Marker>{begin + size}</Marker>" if more else ""
        return f"<Parameters>{page}</Parameters>{marker}"


def _fresh(name: str) -> dict[str, Any]:
    known = CATALOG[name]
    return {
        "ParameterName": name,
        "ParameterValue": known.default,
        "Source": "system",
        "ApplyType": "static" if known.static else "dynamic",
        "DataType": "string",
        "IsModifiable": known.modifiable,
        "ApplyMethod": "pending-reboot",
    }


def _worded(parameter: Mapping[str, Any]) -> str:
    known = CATALOG[parameter["ParameterName"]]
    value = parameter["ParameterValue"]
    told = {
        "ParameterName": parameter["ParameterName"],
        **({"ParameterValue": value} if value is not None else {}),
        "Source": parameter["Source"],
        "ApplyType": "static" if known.static else "dynamic",
        "DataType": "string",
        "IsModifiable": str(known.modifiable).lower(),
        "ApplyMethod": parameter["ApplyMethod"],
    }
    return "<Parameter>" + "".join(f"<{k}>{escape(str(v))}</{k}>" for k, v in told.items()) + "</Parameter>"


def _sent(params: Params) -> list[dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for key, value in params.items():
        if (match := _SENT.match(key)) is not None:
            found.setdefault(int(match[1]), {})[match[2]] = value
    return [found[place] for place in sorted(found)]


def _check_name(name: str, what: str) -> None:
    if not _GROUP_NAME.match(name) or len(name) > 255:
        raise RDSClientError(
            "InvalidParameterValue",
            f"The parameter {what} is not a valid identifier. Identifiers must begin with"
            " a letter; must contain only ASCII letters, digits, and hyphens; and must not end with a"
            " hyphen or contain two consecutive hyphens.",
        )


def _check_parameter(name: str, method: str) -> None:
    known = CATALOG.get(name)
    if known is None:
        raise RDSClientError("InvalidParameterValue", f"Could not find parameter with name: {name}")
    if not known.modifiable:
        raise RDSClientError("InvalidParameterValue", f"The parameter {name} cannot be modified.")
    if known.static and method != "pending-reboot":
        raise RDSClientError(
            "InvalidParameterCombination", "cannot use immediate apply method for static parameter"
        )
