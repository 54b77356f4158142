"""Takes back at cleanup what was changed for logical replication: the former group, or the former values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from planrunner import clearing, own_server
from planrunner.aws.carrier import Carrier, looking
from planrunner.aws.parameters import CLUSTER, INSTANCE, Change, Level
from planrunner.enabling import record
from planrunner.enabling.actions import calls, calm
from planrunner.errors import StepBlocked
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import headroom
from planrunner.replication.names import Names
from planrunner.step import IRREVERSIBLE, NO_LOCKS, NOTHING_STAYS, Action

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.aws.carrier import Standing
    from planrunner.enabling.record import Record, Was
    from planrunner.step import Run

_PENDING = "it stays as it is in force until the next reboot of {name}, which planrunner does not make"


def leftovers(run: Run) -> Sequence[Action]:
    """What is to be taken back where the plan says ``undo: true``; else the records alone."""
    known = record.read(run)
    if known.empty:
        return ()
    taken = list(_taken_back(run, known)) if run.option("undo", False) else []  # noqa: FBT003  # its default
    return [*taken, clearing.forget_step(run.plan_id, record.STEP, what="the source's parameters")]


def _taken_back(run: Run, known: Record) -> Iterator[Action]:
    if known.settings:
        yield _slots_in_the_way(run) or own_server.setting_back(known.settings)
    if run.cloud is None or not (known.made or known.attached or known.values):
        return
    carrier = Carrier(run.cloud)
    view = _View(run=run, carrier=carrier, now=carrier.look(), known=known)
    found = [*_reattaching(view), *_setting_back(view)]
    if found and (blocked := _slots_in_the_way(run)) is not None:
        yield blocked
        return
    yield from found
    yield from _deleting(view)


@dataclass(frozen=True, kw_only=True)
class _View:
    """How it stands at AWS beside what is on record."""

    run: Run
    carrier: Carrier
    now: Standing
    known: Record

    @property
    def level(self) -> Level:
        """Where the groups on record are attached."""
        return CLUSTER if self.known.level == CLUSTER.noun else INSTANCE


def _slots_in_the_way(run: Run) -> Action | None:
    # Our own are gone by the time that it is performed.
    left = headroom.foreign_slots(run.source, Names(plan_id=run.plan_id).plan_prefix)
    if not left:
        return None
    return own_server.blocked_action(
        "undo",
        f"logical replication slots are on the source: {', '.join(left)}",
        "A server that has one does not start without logical replication. Drop them once nobody needs them (SELECT"
        " pg_drop_replication_slot('NAME');), or leave undo out of the plan; then run cleanup again.",
    )


def _no_slots(run: Run) -> None:
    left = headroom.foreign_slots(run.source)
    if left:
        raise StepBlocked(
            f"source: logical replication slots are left: {', '.join(left)}",
            remedy="A server that has one does not start without logical replication. Drop them, then run cleanup again.",
        )


def _reattaching(view: _View) -> Iterator[Action]:
    known, now, carrier = view.known, view.now, view.carrier
    if known.attached is None or known.former is None or now.group != known.attached:
        return

    def perform(run: Run) -> None:
        _no_slots(run)
        calm(run, carrier)
        failpoint("rds.before_reattach_call")
        carrier.patiently(partial(_reattach, carrier, known.former or ""), lambda: calm(run, carrier))
        failpoint("rds.after_reattach_call")
        calm(run, carrier)

    noun = "DBCluster" if now.cluster else "DBInstance"
    yield Action(
        name="reattach_group",
        summary=f"attach parameter group {known.former} to {now.name} again in place of {now.group};"
        f" {_PENDING.format(name=now.rebooted)}",
        where=Side.AWS,
        perform=perform,
        statements=(carrier.attaching(now, known.former),),
        locks=NO_LOCKS,
        needs=(f"rds:Modify{noun}", *looking(now)),
        adjusts=True,
        undo=carrier.attaching(now, now.group),
        lasting=NOTHING_STAYS,
    )


def _reattach(carrier: Carrier, group: str) -> None:
    now = carrier.look()
    if now.group != group:
        carrier.attach(now, group)


def _setting_back(view: _View) -> Iterator[Action]:
    level, carrier = view.level, view.carrier
    for group, values in view.known.values.items():
        changes = _changed_since(view, group, values)
        if not changes:
            continue
        gone, given = _parted(changes)
        told = ", ".join(f"{c.name}={'its default' if c.value is None else c.value}" for c in changes)
        iam = (*((level.iam("Reset"),) if gone else ()), *((level.iam("Modify"),) if given else ()))
        yield Action(
            name=f"set_back {group}",
            summary=f"set {told} in parameter group {group} again;"
            f" {_PENDING.format(name=view.now.rebooted) if any(c.static for c in changes) else 'at once'}",
            where=Side.AWS,
            perform=partial(_set_back, view=view, group=group, values=values),
            statements=(
                *calls(carrier, level, "reset", group, gone),
                *calls(carrier, level, "modify", group, given),
            ),
            locks=NO_LOCKS,
            needs=(*iam, *looking(view.now)),
            adjusts=True,
            undo="; ".join(calls(carrier, level, "modify", group, _ours(values))),
            lasting=NOTHING_STAYS,
        )


def _ours(values: Mapping[str, Was]) -> list[Change]:
    return [Change(name=name, value=was.ours, method=was.method) for name, was in values.items()]


def _parted(changes: Sequence[Change]) -> tuple[list[Change], list[Change]]:
    return [c for c in changes if c.value is None], [c for c in changes if c.value is not None]


def _changed_since(view: _View, group: str, values: Mapping[str, Was]) -> list[Change]:
    """What still has our value: what somebody else has set since is not ours to change."""
    groups = view.carrier.groups(view.level)
    if groups.find(group) is None:
        return []
    there = groups.parameters(group)
    return [
        Change(name=name, value=was.before, method=was.method)
        for name, was in values.items()
        if name in there and there[name].user and there[name].value == was.ours and was.before != was.ours
    ]


def _set_back(run: Run, *, view: _View, group: str, values: Mapping[str, Was]) -> None:
    _no_slots(run)
    calm(run, view.carrier)
    gone, given = _parted(_changed_since(view, group, values))
    groups = view.carrier.groups(view.level)
    failpoint("rds.before_set_back_call")
    view.carrier.patiently(lambda: groups.reset(group, gone), lambda: calm(run, view.carrier))
    view.carrier.patiently(lambda: groups.set(group, given), lambda: calm(run, view.carrier))
    failpoint("rds.after_set_back_call")


def _deleting(view: _View) -> Iterator[Action]:
    name, level, carrier = view.known.made, view.level, view.carrier
    groups = carrier.groups(level)
    found = groups.find(name) if name else None
    if name is None or found is None or found.description != record.DESCRIPTION:
        return
    ours = view.now.name if view.known.former and view.now.group == name else None
    others = [user for user in groups.users(name) if user != ours]
    if others:
        view.run.tell(
            f"parameter group {name} stays: it is used by {', '.join(others)}",
            {"parameter_group": name, "used_by": list(others)},
        )
        return
    option = (level.group_option, name)

    def perform(run: Run) -> None:
        calm(run, carrier)
        failpoint("rds.before_delete_call")
        carrier.patiently(lambda: groups.delete(name), lambda: calm(run, carrier))
        failpoint("rds.after_delete_call")

    yield Action(
        name="delete_group",
        summary=f"delete parameter group {name}, which this plan made and nothing uses any more",
        where=Side.AWS,
        perform=perform,
        statements=(carrier.rds.command(f"delete-{level.words}-parameter-group", *option),),
        locks=NO_LOCKS,
        needs=(level.iam("Delete"), *looking(view.now)),
        undo=f"{IRREVERSIBLE}: it would have to be made anew",
        lasting=NOTHING_STAYS,
        destructive=True,
    )
