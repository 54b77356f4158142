"""Brings the source to ``wal_level = logical``: on RDS by its parameter group and at most one reboot."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from planrunner import own_server, prospects
from planrunner.aws.carrier import Carrier
from planrunner.aws.outline import described_only, unknown
from planrunner.aws.parameters import Change
from planrunner.aws.statuses import Course
from planrunner.enabling import actions, project, reboot, record, refusals, undoing, wish
from planrunner.errors import ServerError
from planrunner.postgres.failures import dsn_parameters
from planrunner.replication import upkeep
from planrunner.step import NOTHING_STAYS, TAKEN_BACK, Seen, outlined
from planrunner.workspace import polls

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.aws.carrier import Standing
    from planrunner.aws.parameters import Level
    from planrunner.enabling.wish import Missing
    from planrunner.model import Estimate, Upkeep
    from planrunner.postgres.headroom import Headroom
    from planrunner.step import Action, Draft, Run


# The calls on a group by which cleanup takes an action back, beside those that the action itself makes.
_TAKING_BACK = {"create_group": ("Delete",), "set_parameter": ("Reset",)}


_NOTHING = "nothing to enable: the sync step polls, and the source stays at its wal_level"


class EnableLogical:
    """Wishes that ``SHOW wal_level`` on the source says ``logical`` and that its limits leave room for the plan.

    It believes the server and nothing else. What it changes stays, unless the plan says ``undo: true``.
    """

    uses: ClassVar[str] = record.STEP
    upkeep: ClassVar[tuple[Upkeep, ...]] = upkeep.OWN

    def actions(self, run: Run) -> Sequence[Action]:
        """The missing AWS calls in order, or on other servers ALTER SYSTEM and what a person must do.

        Where the target is a project of SerenDB's and the plan wants a way back: that project's setting too.
        """
        if polls(run.plan):
            _tell_once(run)
            return ()
        return [*_on_source(run), *project.missing(run)]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The calls it may come to; which of them are missing, AWS and the source tell."""
        source = draft.plan.source
        if polls(draft.plan):
            return ()
        if source.rds is None:
            return outlined([own_server.altering({"wal_level": "logical"}), *project.outline(draft)])
        # Only the words of the calls are asked of it, never AWS.
        carrier = described_only(source.rds)
        now = unknown(source.rds, clustered=".cluster-" in dsn_parameters(source).get("host", ""))
        group = draft.option("parameter_group", "").lower() or "…"
        asked = (Change(name=wish.LOGICAL, value="1", method="pending-reboot"),)
        lacking = wish.nothing_known(now, group, asked)
        consent = draft.option("reboot", "ask")
        missing = [
            actions.creating(carrier, now, group, None),
            actions.setting(carrier, lacking),
            actions.attaching(carrier, now, group),
            reboot.rebooting(carrier, now, consent, None),
            actions.waiting(carrier, now, ()),
        ]
        made = _undone(missing, now.level) if draft.option("undo", False) else missing  # noqa: FBT003
        return outlined([*made, *project.outline(draft)])

    def estimates(self, run: Run) -> Sequence[Estimate]:
        """How long past reboots took, and whom this one cuts off; nothing where none is missing."""
        return prospects.of_reboot(run, self.actions(run))

    def satisfied(self, run: Run) -> Sequence[str]:
        """What of wal_level, limits, parameter group and its parameter is as it should be."""
        if polls(run.plan):
            return [_NOTHING]
        found = wish.room_if_answering(run)
        told = ["wal_level is logical already"] if found is not None and found.logical else []
        if run.cloud is None or run.plan.source.rds is None:
            return told
        carrier = Carrier(run.cloud)
        now = carrier.look()
        name = wish.group_name(run, now)
        groups = carrier.groups(now.level)
        group = groups.find(name)
        if group is None:
            return told
        said = groups.parameters(name).get(wish.LOGICAL)
        told += [f"parameter group {name} exists, of family {group.family}"]
        told += [f"parameter group {name} is attached to {now.name}"] if now.group == name else []
        is_set = said is not None and said.value == "1"
        return [*told, *([f"{wish.LOGICAL} is 1 in parameter group {name}"] if is_set else [])]

    def leftovers(self, run: Run) -> Sequence[Action]:
        """With ``undo: true`` the former parameter group, or the former values; the ledger remembers them."""
        return undoing.leftovers(run)


def _on_source(run: Run) -> Sequence[Action]:
    if run.cloud is None or run.plan.source.rds is None:
        return own_server.on_own_server(run, wish.room(run))
    carrier = Carrier(run.cloud)
    now = carrier.look()
    if (refused := refusals.of_place(run, now)) is not None:
        return (refused,)
    # A server that is rebooting does not answer, which is no reason to fail.
    found = wish.room(run) if _answers(now) else wish.room_if_answering(run)
    if found is not None and not wish.unmet(run, found):
        return ()
    if (refused := refusals.of_state(carrier, now)) is not None:
        return (refused,)
    found_missing = _on_rds(run, carrier, wish.missing(run, carrier, now, found))
    return _undone(found_missing, now.level) if run.option("undo", False) else found_missing  # noqa: FBT003


def _tell_once(run: Run) -> None:
    # Asked again after the last action, it has nothing more to say.
    if run.held.get(_NOTHING, Seen) is None:
        run.held.put(_NOTHING, Seen())
        run.tell(_NOTHING, {})


def _undone(missing: Sequence[Action], level: Level) -> Sequence[Action]:
    """The same with ``undo: true``: cleanup takes back what would stay, and needs the right to."""
    return [
        a
        if a.lasting == NOTHING_STAYS
        else replace(a, lasting=TAKEN_BACK, needs=(*a.needs, *map(level.iam, _TAKING_BACK.get(a.name, ()))))
        for a in missing
    ]


def _answers(now: Standing) -> bool:
    return now.course is Course.GO


def _on_rds(run: Run, carrier: Carrier, missing: Missing) -> list[Action]:
    now = missing.now
    wait = actions.waiting(carrier, now, _limits(missing.room))
    if missing.written and "rebooting" in {status for _, status, _ in now.statuses}:
        return [wait]
    if (refused := refusals.of_sharing(run, missing)) is not None:
        return [refused]
    return [*_changes(run, carrier, missing), wait]


def _changes(run: Run, carrier: Carrier, missing: Missing) -> Iterator[Action]:
    now, name = missing.now, missing.name
    if now.course is not Course.GO:
        yield actions.becoming_available(carrier, now)
    if missing.group is None:
        yield actions.creating(carrier, now, name, missing.model)
    if missing.changes:
        yield actions.setting(carrier, missing)
    if not missing.attached:
        yield actions.attaching(carrier, now, name, missing.also)
    if missing.restart or missing.room is None:
        yield _rebooting(run, carrier, now)


def _rebooting(run: Run, carrier: Carrier, now: Standing) -> Action:
    try:
        reason = reboot.over(run, now)
    except ServerError:
        reason = None
    if reason is not None:
        return own_server.blocked_action("reboot", f"{now.rebooted} needs a reboot", reason)
    return reboot.rebooting(carrier, now, run.option("reboot", "ask"), run.clock)


def _limits(room: Headroom | None) -> tuple[str, ...]:
    return tuple(room.raises) if room else ()
