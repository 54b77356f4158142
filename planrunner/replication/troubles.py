"""What keeps a stream from going on, each with its cause and the statement that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.model import Mark
from planrunner.postgres.preflight_line import dialing
from planrunner.postgres.preflight_section import Needs
from planrunner.replication import apply_error, logins, timeline
from planrunner.replication.health import exhausted
from planrunner.replication.names import FENCE_TRIGGER
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.replication.apply_error import Refusal
    from planrunner.replication.health import Health
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.unsendable import Unsendable
    from planrunner.replication.workspace import Workspace

ANEW = "`planrunner cleanup` this plan, empty the target and `planrunner run` again: the copy begins anew."
GIVEN_UP = "given up"
# pg_replication_slots.invalidation_reason, in words.
_REASONS = {
    "wal_removed": "the source removed WAL that it needs (max_slot_wal_keep_size)",
    "rows_removed": "the source removed catalogue rows that it needs (conflict on a standby)",
    "wal_level_insufficient": "wal_level is no longer logical",
    "idle_timeout": "it was idle for longer than idle_replication_slot_timeout",
}
_BEFOREHAND = {
    "wal_removed": "On the source: ALTER SYSTEM SET max_slot_wal_keep_size = -1; SELECT pg_reload_conf(); then ",
    "wal_level_insufficient": "On the source: ALTER SYSTEM SET wal_level = 'logical'; and restart it; then ",
    "idle_timeout": "On the source: ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf(); then ",
}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a stream can't go on. ``code`` is stable, for machines; ``what`` names the thing, ``remedy`` what to do."""

    code: str
    what: str
    remedy: str

    def error(self) -> StepFailed:
        """The trouble as the error that stops a step."""
        return StepFailed(self.what, remedy=self.remedy)


def slot_troubles(workspace: Workspace, health: Health, generations: Sequence[int]) -> Iterator[Trouble]:
    """Slots of ``generations`` that are gone or can serve no more: what they kept is lost."""
    for generation in generations:
        slot = health.slots.get(generation)
        if slot is None:
            yield _slot_missing(workspace, workspace.names.stream(generation))
        elif slot.lost is not None:
            why = _REASONS.get(slot.lost, slot.lost)
            yield Trouble(
                code="slot_lost",
                what=f"source: slot {slot.name} was invalidated ({slot.lost}): {why}; the changes since the copy can't be"
                " followed any more",
                remedy=f"{_BEFOREHAND.get(slot.lost, '')}{ANEW}",
            )


def _slot_missing(workspace: Workspace, name: str) -> Trouble:
    given_up = workspace.ledger.effects("sync").get(GIVEN_UP)
    if given_up is not None:
        return Trouble(
            code="slot_given_up",
            what=f"source: slot {name} was given up by this plan at {given_up.get('at')}, when the slots kept"
            f" {given_up.get('retained')} of WAL, above max_wal_retained",
            remedy=f"Make room on the source's disk or raise max_wal_retained, then {ANEW}",
        )
    replaced = timeline.changed(workspace)
    return Trouble(
        code="slot_missing",
        what=f"source: slot {name} is gone: "
        + (
            replaced
            or "someone dropped it, or the server was replaced by one without it (failover, restored backup)"
        )
        + "; the changes since the copy can't be followed any more",
        remedy=(
            "From PostgreSQL 17 on, failover: true in the sync step makes slots outlive the next failover; "
            if replaced
            else "Find out who drops slots there; "
        )
        + f"then {ANEW}",
    )


def subscription_troubles(
    workspace: Workspace, health: Health, generations: Sequence[int]
) -> Iterator[Trouble]:
    """Subscriptions of ``generations`` that someone dropped, disabled or took their slot from."""
    for generation in generations:
        name = workspace.names.stream(generation)
        found = health.subscriptions.get(generation)
        if found is None:
            yield Trouble(
                code="subscription_missing",
                what=f"target: subscription {name} is gone: someone dropped it, and with it the record of how far the"
                " target is",
                remedy=f"Find out who dropped it. Made anew it would apply changes twice, so {ANEW}",
            )
        elif not found.enabled:
            yield Trouble(
                code="subscription_disabled",
                what=f"target: subscription {name} is disabled; nothing is applied and slot {name} keeps WAL",
                remedy=f"Find out who disabled it. On the target: ALTER SUBSCRIPTION {name} ENABLE; and `planrunner run`"
                " again.",
            )
        elif found.slot != name:
            yield Trouble(
                code="subscription_slot",
                what=f"target: subscription {name} reads slot {found.slot or 'none'}, it was made for {name}",
                remedy=f"On the target: ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name ="
                f" {name}); ALTER SUBSCRIPTION {name} ENABLE; and `planrunner run` again.",
            )


def worker_missing(workspace: Workspace, health: Health, generation: int, seconds: float) -> Trouble:
    """Why no apply worker runs; asks both servers, so only once one was away for a while."""
    name = health.subscriptions[generation].name
    lead = f"target: subscription {name} has had no apply worker for {seconds:.0f} s"
    return _standing_still(workspace, health, generation, lead)


def unattached(workspace: Workspace, health: Health, generation: int, seconds: float) -> Trouble:
    """Why an apply worker that runs has no session on the source; asks as ``worker_missing`` does."""
    name = health.subscriptions[generation].name
    lead = (
        f"target: the apply worker of subscription {name} has been without a session on the source for {seconds:.0f} s:"
        " the line from the target to the source is cut or silent"
    )
    return _standing_still(workspace, health, generation, lead)


def _standing_still(workspace: Workspace, health: Health, generation: int, lead: str) -> Trouble:
    subscription, slot = health.subscriptions[generation], health.slots.get(generation)
    full = exhausted(workspace)
    if full:
        used = "; ".join(f"{room.setting} = {room.limit}, {room.used} in use" for room in full)
        return Trouble(
            code="worker_without_place",
            what=f"{lead}: no place is free ({used})",
            remedy="; ".join(
                f"{'On the source' if room.setting == 'max_wal_senders' else 'On the target'}: ALTER SYSTEM SET"
                f" {room.setting} = {max(room.limit, room.used) + 4};"
                for room in full
            )
            + " and restart that server (on RDS: in its parameter group), or end what uses the places; then"
            " `planrunner run` again.",
        )
    if slot is not None and slot.active_pid is not None and slot.reader != subscription.name:
        return Trouble(
            code="slot_taken",
            what=f"{lead}: its slot is in use by another, pid {slot.active_pid} ({slot.reader})",
            remedy=f"End it on the source, pg_terminate_backend({slot.active_pid}), and keep it from coming back; then"
            " `planrunner run` again.",
        )
    refusal = apply_error.explain(workspace, subscription)
    if refusal is not None and refusal.change is not None:
        return refused(subscription, refusal)
    return _unknown(workspace, subscription, lead)


def _unknown(workspace: Workspace, subscription: Subscription, lead: str) -> Trouble:
    needs = Needs(
        plan_id=workspace.names.plan_id,
        owned=workspace.names.prefix,
        dial=logins.dial_parameters(workspace, workspace.source),
    )
    try:
        line = dialing(workspace.target, needs, workspace.target.identity())
    except PlanrunnerError as error:
        return Trouble(code="worker_missing", what=f"{lead} ({error.message})", remedy=_look(subscription))
    if line.mark is Mark.FAIL:
        return Trouble(
            code="source_unreachable", what=f"{lead}: {line.text}", remedy=line.remedy or _look(subscription)
        )
    return Trouble(
        code="worker_missing",
        what=f"{lead}; a place is free and the source answers",
        remedy=_look(subscription),
    )


def _look(subscription: Subscription) -> str:
    return (
        f'The target\'s log says why: look for the subscription "{subscription.name}" (a password that was changed is the'
        " usual cause: ALTER SUBSCRIPTION … CONNECTION …). It starts again by itself; `planrunner run` goes on."
    )


def applies_with_errors(subscription: Subscription, count: int, refusal: Refusal | None) -> Trouble:
    """The worker fails again and again, and no single change could be found to be why."""
    where = (
        ""
        if refusal is None
        else (
            f" at the transaction that ended at {refusal.transaction.commit}"
            f" (its first change: {_first(refusal)}; {refusal.words})"
        )
    )
    return Trouble(
        code="apply_error",
        what=f"target: subscription {subscription.name} failed {count} times to apply{where}",
        remedy=_look(subscription),
    )


def unsendable(subscription: Subscription, found: Unsendable) -> Trouble:
    """A row that the source can't write out."""
    where = "" if found.table is None else f" of {found.table} ({human_bytes(found.bytes or 0)} in binary)"
    return Trouble(
        code="row_too_long",
        what=f"source: subscription {subscription.name} stands before a row{where} that is longer than PostgreSQL can"
        f" send: 1 GB as text, where bytea takes two bytes for each: {found.words}",
        remedy="The stream can't pass it. Shorten the row or part it into several, or leave its table out (tables:"
        f" exclude), then {ANEW}",
    )


def _first(refusal: Refusal) -> str:
    change = refusal.transaction.changes[0]
    return f"{change.kind} of {change.relation.qualified}, key {apply_error.named(change.key)}"


def refused(subscription: Subscription, refusal: Refusal) -> Trouble:
    """The change that the target refuses: relation, key and LSN."""
    change = refusal.change
    assert change is not None
    return Trouble(
        code="apply_error",
        what=f"target: subscription {subscription.name} can't apply {change.kind} of {change.relation.qualified}, key"
        f" {apply_error.named(change.key)}, in the transaction that ended at {refusal.transaction.commit}:"
        f" {refusal.words}",
        remedy=f"{_mending(refusal)} The worker tries again by itself; `planrunner run` goes on.",
    )


def _past_guard(statement: sql.Composed, table: sql.Identifier, refusal: Refusal) -> sql.Composed:
    """``statement`` as it passes the guard that keeps writers off the target before the cutover."""
    if not refusal.closed:
        return statement
    trigger = sql.Identifier(FENCE_TRIGGER)
    return sql.SQL(
        "BEGIN; ALTER TABLE {table} DISABLE TRIGGER {trigger}; {statement} ALTER TABLE {table} ENABLE ALWAYS TRIGGER"
        " {trigger}; COMMIT;"
    ).format(table=table, trigger=trigger, statement=statement)


def _mending(refusal: Refusal) -> str:
    change = refusal.change
    assert change is not None
    table = sql.Identifier(change.relation.schema, change.relation.name)
    if refusal.colliding:
        terms = [
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(change.new[name]))
            for name in refusal.colliding
        ]
        where = sql.SQL(" AND ").join(terms)
        look = sql.SQL("SELECT * FROM {} WHERE {};").format(table, where).as_string()
        remove = _past_guard(
            sql.SQL("DELETE FROM {} WHERE {};").format(table, where), table, refusal
        ).as_string()
        return (
            "Someone else wrote that row on the target. Find out who, and stop it. Look at the row on the target:"
            f" {look} If the source's row is the right one: {remove}"
        )
    match refusal.sqlstate:
        case "42P01" | "42703" | "3F000":
            return (
                f"Make {table.as_string()} on the target have what the source's has: the same DDL as there."
            )
        case "22P02" | "42804" | "22003" | "22001" | "22007" | "22008":
            return (
                f"The column's type differs: on the target ALTER TABLE {table.as_string()} as on the source."
            )
        case "23502" | "23514" | "23P01":
            return f"The target is stricter than the source: drop that constraint of {table.as_string()} on the target."
        case "42501":
            return f"Grant the subscription's owner what it lacks on {table.as_string()}."
        case _:
            return "Mend on the target what it says."
