"""What RDS does and moto does not: parameter groups that wait for a reboot, and reboots that happen."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from moto.rds.exceptions import (
    DBInstanceNotFoundError,
    DBParameterGroupNotFoundError,
    RDSClientError,
)
from moto.rds.models import DBInstance

from planrunner.sandbox.rds_events import RESTARTED, SHUTDOWN

if TYPE_CHECKING:
    from planrunner.sandbox.servers import PostgresServer

Params: TypeAlias = Mapping[str, str]

_LOGICAL = "rds.logical_replication"
# Parameters of a group that the stand-in knows, with RDS's defaults; all are static there.
_PARAMETERS: Mapping[str, str | None] = {
    _LOGICAL: "0",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
}
_FAMILIES = tuple(f"postgres{major}" for major in range(11, 19))
_GROUP_NAME = re.compile(r"\A[a-zA-Z](?:-?[a-zA-Z0-9])*\Z")


class StandInInstance(DBInstance):  # pyright: ignore[reportImplicitAbstractClass]  # so is moto's
    """An instance whose endpoint is a sandbox server and whose group has an apply status of its own."""

    def __init__(self, backend: Any, *, host: str, **facts: Any) -> None:
        super().__init__(backend, **facts)
        self._host = host
        self.apply_status = "in-sync"

    @property
    def address(self) -> str:
        """The server's own address."""
        return self._host

    @property
    def db_parameter_group_status_list(self) -> Any:
        """The attached group with the status that AWS would tell."""
        groups = self.db_parameter_groups()
        for group in groups:
            vars(group)["ParameterApplyStatus"] = self.apply_status
        return groups


class Rules:
    """The behaviour of one instance over one region's moto backend.

    ``before`` and ``after`` are called around moto with the action's name and parameters; ``before``
    raises moto's errors where AWS refuses. ``phase`` is how long ``applying`` and ``rebooting`` last
    beside the real restart, in seconds.
    """

    def __init__(
        self, backend: Any, server: PostgresServer, instance: StandInInstance, *, phase: float = 0.3
    ) -> None:
        self.reboots = 0
        self.note: Callable[[str, str], None] = _unnoted
        self._backend = backend
        self._server = server
        self._instance = instance
        self._phase = phase
        self._lock = threading.RLock()
        self._gone = threading.Event()
        self._threads: list[threading.Thread] = []
        self._before: Mapping[str, Callable[[Params], None]] = {
            "CreateDBParameterGroup": self._check_new_group,
            "DescribeDBParameterGroups": self._check_named_group,
            "ModifyDBParameterGroup": self._check_parameters,
            "ModifyDBInstance": self._check_modification,
            "RebootDBInstance": self._begin_reboot,
        }
        self._after: Mapping[str, Callable[[Params], None]] = {
            "CreateDBParameterGroup": lambda params: self.seed(_group_name(params)),
            "ModifyDBParameterGroup": self._parameters_changed,
            "ModifyDBInstance": self._group_attached,
        }

    def before(self, action: str, params: Params) -> None:
        """Refuse what AWS refuses, and begin what moto does not do."""
        self._before.get(action, _nothing)(params)

    def after(self, action: str, params: Params) -> None:
        """Carry on where moto stopped."""
        self._after.get(action, _nothing)(params)

    def close(self) -> None:
        """Wait for what still runs in the background; a reboot under way is carried to its end."""
        self._gone.set()
        for thread in self._threads:
            thread.join(60)

    def seed(self, name: str) -> None:
        """Give a group the parameters and defaults that RDS gives it."""
        group = self._backend.db_parameter_groups[name]
        for parameter, value in _PARAMETERS.items():
            group.parameters[parameter] = {
                "ParameterName": parameter,
                "ParameterValue": value,
                "Source": "system",
                "ApplyType": "static",
                "DataType": "boolean" if parameter == _LOGICAL else "integer",
                "IsModifiable": True,
                "ApplyMethod": "pending-reboot",
            }

    def _check_new_group(self, params: Params) -> None:
        name, family = params.get("DBParameterGroupName", ""), params.get("DBParameterGroupFamily", "")
        if not _GROUP_NAME.match(name) or len(name) > 255:
            raise RDSClientError(
                "InvalidParameterValue",
                "The parameter DBParameterGroupName is not a valid identifier. Identifiers must begin with"
                " a letter; must contain only ASCII letters, digits, and hyphens; and must not end with a"
                " hyphen or contain two consecutive hyphens.",
            )
        if family not in _FAMILIES:
            raise RDSClientError(
                "InvalidParameterValue",
                f"ParameterGroupFamily {family} is not a valid parameter group family",
            )

    def _check_named_group(self, params: Params) -> None:
        if "DBParameterGroupName" in params:
            self._group(params)

    def _check_parameters(self, params: Params) -> None:
        group = self._group(params)
        if group.name.startswith("default."):
            raise RDSClientError("InvalidParameterValue", "Cannot modify a default parameter group.")
        for position in range(1, 21):
            prefix = f"Parameters.Parameter.{position}."
            name = params.get(f"{prefix}ParameterName")
            if name is not None:
                _check_parameter(name, params.get(f"{prefix}ApplyMethod", ""))

    def _check_modification(self, params: Params) -> None:
        self._must_be_available(params)
        if "DBParameterGroupName" not in params:
            return
        group = self._group(params)
        family, _ = self._instance.default_db_parameter_group_details()
        if group.family != family:
            raise RDSClientError(
                "InvalidParameterCombination",
                f"The parameter group {group.name} with DBParameterGroupFamily {group.family} can't be used"
                f" for this instance. Please use a Parameter Group with DBParameterGroupFamily {family}.",
            )

    def _parameters_changed(self, params: Params) -> None:
        name = _group_name(params)
        for parameter in self._group(params).parameters.values():
            given = [k for k, v in params.items() if v == parameter["ParameterName"]]
            parameter["Source"] = "user" if given else parameter["Source"]
        if self._attached().name == name:
            self._apply_later()

    def _group_attached(self, params: Params) -> None:
        if params.get("DBInstanceIdentifier") == self._instance.db_instance_identifier and (
            "DBParameterGroupName" in params
        ):
            self._apply_later()

    def _apply_later(self) -> None:
        with self._lock:
            self._instance.apply_status = "applying"
        self._in_background(self._applied)

    def _applied(self) -> None:
        self._gone.wait(self._phase)
        with self._lock:
            if self._instance.apply_status == "applying":
                self._instance.apply_status = "pending-reboot"

    def _begin_reboot(self, params: Params) -> None:
        with self._lock:
            self._must_be_available(params)
            self._instance.status = "rebooting"
            self.reboots += 1
            # As on RDS, a group that is still being applied is not part of this reboot.
            settings = {} if self._instance.apply_status == "applying" else self._settings()
        self._in_background(lambda: self._reboot(settings))

    def _reboot(self, settings: Mapping[str, str]) -> None:
        self._gone.wait(self._phase)
        self.note(self._instance.db_instance_identifier, SHUTDOWN)
        try:
            self._server.restart(settings)
            self.note(self._instance.db_instance_identifier, RESTARTED)
            self._gone.wait(self._phase)
        except Exception:
            self._instance.status = "failed"
            raise
        with self._lock:
            self._instance.status = "available"
            if settings:
                self._instance.apply_status = "in-sync"

    def _settings(self) -> dict[str, str]:
        values = {name: str(p["ParameterValue"]) for name, p in self._attached().parameters.items()}
        level = "logical" if values.pop(_LOGICAL, "0") == "1" else "replica"
        return {"wal_level": level, **values}

    def _attached(self) -> Any:
        return self._instance.db_parameter_groups()[0]

    def _group(self, params: Params) -> Any:
        name = _group_name(params)
        if name not in self._backend.db_parameter_groups:
            raise DBParameterGroupNotFoundError(name)
        return self._backend.db_parameter_groups[name]

    def _must_be_available(self, params: Params) -> None:
        name = params.get("DBInstanceIdentifier", "")
        if name not in self._backend.databases:
            raise DBInstanceNotFoundError(name)
        if self._instance.status != "available":
            raise RDSClientError(
                "InvalidDBInstanceState",
                f"Database instance: {name} is not currently in the available state.",
            )

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="rds stand-in", daemon=True)
        self._threads.append(thread)
        thread.start()


def _group_name(params: Params) -> str:
    return params.get("DBParameterGroupName", "").lower()


def _check_parameter(name: str, method: str) -> None:
    if name not in _PARAMETERS:
        raise RDSClientError("InvalidParameterValue", f"Could not find parameter with name: {name}")
    if method != "pending-reboot":
        raise RDSClientError(
            "InvalidParameterCombination", "cannot use immediate apply method for static parameter"
        )


def _unnoted(_instance: str, _message: str) -> None:
    pass


def _nothing(_: Params) -> None:
    """What most actions need beside moto."""
