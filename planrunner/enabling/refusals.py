"""Why a source can't be brought to logical replication as the plan names it, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner import own_server
from planrunner.aws.clusters import AURORA
from planrunner.aws.statuses import FAILED_TO_APPLY, Course
from planrunner.errors import ServerError
from planrunner.model import Side

if TYPE_CHECKING:
    from planrunner.aws.carrier import Carrier, Standing
    from planrunner.enabling.wish import Missing
    from planrunner.step import Action, Run

_ENGINES = ("postgres", AURORA)


def of_place(run: Run, now: Standing) -> Action | None:
    """A place from which nothing can be migrated, whatever its settings."""
    own = now.instance
    if own.engine not in _ENGINES:
        text = f"{own.identifier} is of engine {own.engine}, not PostgreSQL"
        return _blocked("engine", text, "Name an instance of RDS for PostgreSQL or Aurora PostgreSQL.")
    if own.copies is not None:
        text = f"{own.identifier} is a read replica of {own.copies}"
        return _blocked("replica", text, _instead(own.copies))
    if now.cluster is not None and now.cluster.copies is not None:
        text = f"cluster {now.cluster.identifier} is a replica of {now.cluster.copies}"
        return _blocked("replica", text, _instead(f"the writer of {now.cluster.copies}"))
    if _in_recovery(run):
        where = (
            f"the writer endpoint {now.cluster.endpoint}" if now.cluster else f"{own.identifier}'s endpoint"
        )
        text = f"the source's dsn leads to a server in recovery, not to {now.rebooted}"
        return _blocked("recovery", text, f"Name {where} as the host of connections.source.dsn.")
    return None


def _instead(name: str) -> str:
    return (
        f"Logical replication starts at the primary: name {name} as connections.source.rds.instance, and its endpoint"
        " as the host of connections.source.dsn."
    )


def _in_recovery(run: Run) -> bool:
    try:
        return bool(run.source.value("SELECT pg_is_in_recovery()"))
    except ServerError:
        return False


def of_state(carrier: Carrier, now: Standing) -> Action | None:
    """What a person must do before anything can be changed."""
    writer = now.cluster.writer if now.cluster else None
    if writer not in {None, now.instance.identifier}:
        text = f"{now.instance.identifier} is a reader of cluster {now.name}; its writer is {writer}"
        return _blocked("reader", text, f"Name {writer} as connections.source.rds.instance, then run again.")
    if now.course is Course.ACT:
        found = " and ".join(f"{name} is {status}" for name, status, _ in now.statuses)
        return _blocked("status", found, f"Bring it to the status available, then run again. {now.remedy}")
    if now.apply_status == FAILED_TO_APPLY:
        text = f"AWS could not apply parameter group {now.group} to {now.name}"
        remedy = (
            f"See which parameter it names: {carrier.events(now)}; set that one back, or attach the former group, and"
            " run again."
        )
        return _blocked("failed_to_apply", text, remedy)
    return None


def of_sharing(run: Run, missing: Missing) -> Action | None:
    """A change of a group that others use, unless the plan allows it."""
    if not missing.others or not missing.changes:
        return None
    if run.option("allow_shared", False):  # noqa: FBT003  # the option's default
        return None
    names = ", ".join(change.name for change in missing.changes)
    text = f"parameter group {missing.name} is used by {', '.join(missing.others)} too, and would change {names} there"
    remedy = (
        "Give the step a parameter_group that does not exist yet: it is made as a copy, changed, and attached to"
        f" {missing.now.name} alone. Or let the others have it too: allow_shared: true."
    )
    return _blocked("shared_group", text, remedy)


def _blocked(name: str, text: str, remedy: str) -> Action:
    return own_server.blocked_action(name, text, remedy, where=Side.AWS)
