"""The actions that bring a parameter group about and let it take effect: make, set, attach, wait."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from planrunner.aws.carrier import looking
from planrunner.aws.parameters import batches
from planrunner.enabling import record, wish
from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.step import NO_LOCKS, NO_NEEDS, NOTHING_STAYS, Action
from planrunner.units import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.aws.carrier import Carrier, Standing
    from planrunner.aws.parameters import Change, Level
    from planrunner.enabling.wish import Missing
    from planrunner.postgres.headroom import Headroom
    from planrunner.step import Run

# How long a server that is available again may still tell the old settings.
GRACE_SECONDS = 120.0
_POLL_SECONDS = 0.5
_LEDGER = needs.on(Side.TARGET, needs.CREATE)


def timeout(run: Run) -> float:
    """How long AWS may take for one thing, in seconds."""
    return seconds(run.option("timeout", "30m"))


def calm(run: Run, carrier: Carrier) -> Standing:
    """Wait until it takes changes."""
    return carrier.calm(timeout(run), run.tell)


def assessed(run: Run, carrier: Carrier) -> Missing:
    """What is missing by now, once it takes changes."""
    now = calm(run, carrier)
    return wish.missing(run, carrier, now, wish.room_if_answering(run))


def becoming_available(carrier: Carrier, now: Standing) -> Action:
    """Wait for whatever is under way."""

    def perform(run: Run) -> None:
        calm(run, carrier)

    return Action(
        name="wait_available",
        summary=f"wait until changes are taken: {now.told}",
        where=Side.AWS,
        perform=perform,
        statements=(carrier.describing(now),),
        locks=NO_LOCKS,
        needs=looking(now),
        undo="nothing to undo: it only waits",
        lasting=NOTHING_STAYS,
    )


def creating(carrier: Carrier, now: Standing, name: str, model: str | None) -> Action:
    """Make the group, as a copy of the attached one where that is not AWS's own."""
    level = now.level
    family = f"create parameter group {name} of family {now.family}"
    copied = f"create parameter group {name} as a copy of {model}, with all its values"
    return Action(
        name="create_group",
        summary=copied if model else family,
        where=Side.AWS,
        perform=partial(_create, carrier=carrier),
        statements=(_making(carrier, now, name, model),),
        locks=NO_LOCKS,
        needs=(level.iam("Copy" if model else "Create"), *looking(now), *_LEDGER),
        undo=carrier.rds.command(f"delete-{level.words}-parameter-group", level.group_option, name),
        lasting=f"parameter group {name}",
    )


def _making(carrier: Carrier, now: Standing, name: str, model: str | None) -> str:
    words = now.level.words
    if model is None:
        group = (now.level.group_option, name, "--db-parameter-group-family", now.family)
        return carrier.rds.command(
            f"create-{words}-parameter-group", *group, "--description", record.DESCRIPTION
        )
    which = f"{words}-parameter-group"
    copied = (f"--source-{which}-identifier", model, f"--target-{which}-identifier", name)
    return carrier.rds.command(f"copy-{which}", *copied, f"--target-{which}-description", record.DESCRIPTION)


def _create(run: Run, *, carrier: Carrier) -> None:
    found = assessed(run, carrier)
    if found.group is not None:
        return
    groups = carrier.groups(found.now.level)
    record.making(run, found.now.level.noun, found.name)
    failpoint("rds.before_create_call")
    if found.model is None:
        groups.create(found.name, found.now.family, record.DESCRIPTION)
    else:
        groups.copy(found.model, found.name, record.DESCRIPTION)
    failpoint("rds.after_create_call")


def setting(carrier: Carrier, missing: Missing) -> Action:
    """Set what the group lacks, each parameter as its kind is applied."""
    level, name = missing.now.level, missing.name
    what = ", ".join(f"{c.name}={c.value}" for c in missing.changes)
    static = [c for c in missing.changes if c.static]
    reach = f" (reaches {', '.join(missing.others)} too{', at their next reboot' if static else ''})"
    back = [c for c in missing.changes if missing.group is not None]
    return Action(
        name="set_parameter",
        summary=f"set {what} in parameter group {name}{reach if missing.others else ''}",
        where=Side.AWS,
        perform=partial(_set, carrier=carrier),
        statements=tuple(calls(carrier, level, "modify", name, missing.changes)),
        locks=NO_LOCKS,
        needs=(level.iam("Modify"), *looking(missing.now), *_LEDGER),
        adjusts=missing.group is not None,
        undo="; ".join(_going_back(carrier, missing, back)) or "the group is deleted as a whole",
        lasting=f"{what} in {name}: wal_level stays logical, which writes more WAL, until it is 0 and rebooted",
    )


def calls(carrier: Carrier, level: Level, verb: str, group: str, changes: Sequence[Change]) -> Iterator[str]:
    """The commands that change or reset parameters, as many as AWS takes in one."""
    for some in batches(changes):
        words = (level.group_option, group, "--parameters", *(change.worded for change in some))
        yield carrier.rds.command(f"{verb}-{level.words}-parameter-group", *words)


def _going_back(carrier: Carrier, missing: Missing, changes: Sequence[Change]) -> Iterator[str]:
    level, there = missing.now.level, missing.there
    given = [c for c in changes if there[c.name].user]
    former = [type(c)(name=c.name, value=there[c.name].value, method=c.method) for c in given]
    yield from calls(carrier, level, "modify", missing.name, former)
    gone = [type(c)(name=c.name, value=None, method=c.method) for c in changes if c not in given]
    yield from calls(carrier, level, "reset", missing.name, gone)


def _set(run: Run, *, carrier: Carrier) -> None:
    found = assessed(run, carrier)
    if found.group is None or not found.changes:
        return
    if record.read(run).made != found.name:
        former = {
            c.name: record.Was(before=_former(found, c), ours=c.value or "", method=c.method)
            for c in found.changes
        }
        record.setting(run, found.now.level.noun, found.name, former)
    failpoint("rds.before_set_call")
    groups = carrier.groups(found.now.level)
    carrier.patiently(lambda: groups.set(found.name, found.changes), lambda: calm(run, carrier))
    failpoint("rds.after_set_call")


def _former(found: Missing, change: Change) -> str | None:
    known = found.there[change.name]
    return known.value if known.user else None


def attaching(carrier: Carrier, now: Standing, name: str, also: Sequence[str] = ()) -> Action:
    """Let the group rule the source."""
    more = f"; they differ in {_some(also)} too" if also else ""
    noun = "DBCluster" if now.cluster else "DBInstance"
    return Action(
        name="attach_group",
        summary=f"attach parameter group {name} to {now.name} in place of {now.group}{more}",
        where=Side.AWS,
        perform=partial(_attach, carrier=carrier),
        statements=(carrier.attaching(now, name),),
        locks=NO_LOCKS,
        needs=(f"rds:Modify{noun}", *looking(now), *_LEDGER),
        adjusts=True,
        undo=carrier.attaching(now, now.group),
        lasting=f"{name} stays the parameter group of {now.name}",
    )


def _some(names: Sequence[str]) -> str:
    more = len(names) - 8
    return ", ".join(names[:8]) + (f" and {more} more" if more > 0 else "")


def _attach(run: Run, *, carrier: Carrier) -> None:
    found = assessed(run, carrier)
    if not found.attached:
        record.attaching(run, found.now.level.noun, former=found.now.group, group=found.name)
        failpoint("rds.before_attach_call")
        carrier.patiently(partial(_attach_once, carrier, found.name), lambda: calm(run, carrier))
        failpoint("rds.after_attach_call")
    calm(run, carrier)


def _attach_once(carrier: Carrier, name: str) -> None:
    now = carrier.look()
    # A call whose answer was lost may have done it.
    if now.group != name:
        carrier.attach(now, name)


def waiting(carrier: Carrier, now: Standing, wanted: Sequence[str]) -> Action:
    """Wait until the server itself shows it."""
    named = " and ".join(["SHOW wal_level says logical", *([f"{_some(wanted)} in force"] if wanted else [])])
    return Action(
        name="wait",
        summary=f"wait until {now.rebooted} is available and {named}",
        where=Side.SOURCE,
        perform=partial(_await_in_force, carrier=carrier),
        statements=(carrier.describing(now), "SHOW wal_level"),
        locks=NO_LOCKS,
        needs=NO_NEEDS,
        undo="nothing to undo: it only waits",
        lasting=NOTHING_STAYS,
    )


def _await_in_force(run: Run, *, carrier: Carrier) -> None:
    now = calm(run, carrier)
    deadline = run.clock.monotonic() + GRACE_SECONDS
    while (found := wish.room_if_answering(run)) is None or wish.unmet(run, found):
        if run.clock.monotonic() > deadline:
            # A server that does not answer at all tells why itself.
            found = found or wish.room(run)
            now = carrier.look()
            raise StepFailed(
                f"source: {_shown(run, found)} although {now.instance.identifier} is {now.instance.status} and"
                f" parameter group {now.group} is {now.apply_status}",
                remedy=f"Run again. If it stays so, see what AWS says of it: {carrier.events(now)}",
            )
        run.clock.sleep(_POLL_SECONDS)


def _shown(run: Run, found: Headroom) -> str:
    names = ("wal_level" if n == wish.LOGICAL else n for n in wish.unmet(run, found))
    return ", ".join(f"{name} is {found.settings.get(name, 'unknown')}" for name in names)
