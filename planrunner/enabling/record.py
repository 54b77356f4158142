"""What the ledger on the target remembers of the source's parameters: what was before, and the one reboot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from planrunner.failpoints import failpoint
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json
    from planrunner.step import Run

STEP = "enable_logical"
DESCRIPTION = "Logical replication for a migration by planrunner"
_GROUP, _ATTACHED, _VALUES, _REBOOT, _SETTINGS = "group", "attached", "values", "reboot", "settings"


@dataclass(frozen=True, kw_only=True)
class Was:
    """A parameter of a group: its value before (None: the family's default), ours, and how AWS applies a change."""

    before: str | None
    ours: str
    method: str


@dataclass(frozen=True, kw_only=True)
class Reboot:
    """The reboot that was asked for: of what, and since when the server had been running then."""

    of: str
    running_since: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything on record. ``level`` is ``instance`` or ``cluster``, ``attached`` the group that we attached.

    ``made``: we created that group. ``values`` are by group and parameter, ``settings`` those of ALTER SYSTEM.
    """

    level: str = "instance"
    made: str | None = None
    attached: str | None = None
    former: str | None = None
    values: Mapping[str, Mapping[str, Was]] = field(default_factory=dict)
    settings: Mapping[str, str | None] = field(default_factory=dict)
    reboot: Reboot | None = None
    empty: bool = True


def read(run: Run) -> Record:
    """What the ledger says; an empty record where there is none."""
    effects = workspace(run).ledger.effects(STEP)
    attached, reboot = effects.get(_ATTACHED, {}), effects.get(_REBOOT)
    made = effects.get(_GROUP, {})
    values = effects.get(_VALUES, {})
    return Record(
        level=str((made or attached or values).get("level", "instance")),
        made=made.get("name"),
        attached=attached.get("group"),
        former=attached.get("former"),
        values={
            group: {name: Was(**was) for name, was in found.items()}
            for group, found in values.get("groups", {}).items()
        },
        settings=effects.get(_SETTINGS, {}),
        reboot=Reboot(**reboot) if reboot else None,
        empty=not effects,
    )


def making(run: Run, level: str, group: str) -> None:
    """We are about to create a group."""
    workspace(run).done(STEP, _GROUP, {"level": level, "name": group})


def attaching(run: Run, level: str, *, former: str, group: str) -> None:
    """We are about to attach a group; the first one that was attached before any of ours stays on record."""
    known = read(run).former
    workspace(run).done(STEP, _ATTACHED, {"level": level, "former": known or former, "group": group})


def setting(run: Run, level: str, group: str, values: Mapping[str, Was]) -> None:
    """We are about to set parameters of a group; what was before the first time stays on record."""
    known = {name: dict(found) for name, found in read(run).values.items()}
    for name, was in values.items():
        first = known.setdefault(group, {}).get(name)
        known[group][name] = Was(
            before=first.before if first else was.before, ours=was.ours, method=was.method
        )
    told = {name: {n: vars(w) for n, w in found.items()} for name, found in known.items()}
    workspace(run).done(STEP, _VALUES, {"level": level, "groups": cast("Json", told)})


def altering(run: Run, settings: Mapping[str, str | None]) -> None:
    """We are about to set these on a server of one's own; the values before, None where none was set."""
    known: dict[str, Any] = dict(read(run).settings)
    workspace(run).done(STEP, _SETTINGS, {**settings, **known})


def rebooting(run: Run, of: str, running_since: str) -> None:
    """We are about to ask for the one reboot."""
    workspace(run).done(STEP, _REBOOT, {"of": of, "running_since": running_since})


def not_rebooted(run: Run) -> None:
    """AWS refused it, so it did not happen."""
    space = workspace(run)
    with space.writing() as session:
        space.ledger.forget_effects(session, STEP, _REBOOT)
    failpoint("rds.reboot_withdrawn")
