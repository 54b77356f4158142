"""What a condition may ask for: facts of both servers, and how far the other steps are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.conditions import Fact, Facts, NotACondition, NotKnownYet, holds, names, shown_facts
from planrunner.errors import ServerError, StepFailed
from planrunner.model import StepStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Plan, StepSpec
    from planrunner.postgres.connection import Server
    from planrunner.state.record import State

_ENDED = (StepStatus.DONE, StepStatus.SKIPPED)
_RDS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname IN ('rds_superuser', 'rds_replication'))"


def skipped(
    plan: Plan, spec: StepSpec, state: State, servers: tuple[Server | None, Server | None], *, running: bool
) -> str | None:
    """Why the step's condition keeps it from being done; None where it has none or it holds.

    ``servers`` are source and target, None for one that is not asked. ``running``: the step's turn has come, so
    every status counts as it is; else NotKnownYet where an earlier step may still change it. StepFailed when the
    condition can't be computed.
    """
    condition, known = spec.flow.when, state.steps.get(spec.id)
    # What has begun is finished: half of it would be of no use to anybody.
    if condition is None or (known is not None and known.touched):
        return None
    wanted = {name[0] for name in names(condition.text)}
    facts = Facts(
        source=_side(servers[0], running=running) if "source" in wanted else None,
        target=_side(servers[1], running=running) if "target" in wanted else None,
        steps=_steps(plan, state, running=running),
    )
    try:
        if holds(condition, facts):
            return None
    except NotACondition as error:
        told = shown_facts(condition, facts)
        raise StepFailed(
            f"step {spec.id}: when: {condition.text}: {error.reason}{f' ({told})' if told else ''}",
            remedy="Correct the condition.",
        ) from error
    told = shown_facts(condition, facts)
    return f"when: {condition.text} is false{f' ({told})' if told else ''}"


def known_skip(
    plan: Plan, spec: StepSpec, state: State, servers: tuple[Server | None, Server | None]
) -> tuple[str | None, bool]:
    """As ``skipped`` before the step's turn: the reason, and whether the run will have to decide."""
    try:
        return skipped(plan, spec, state, servers, running=False), False
    except NotKnownYet:
        return None, True


def _side(server: Server | None, *, running: bool) -> Mapping[str, Fact] | None:
    if server is None:
        return None
    try:
        identity = server.identity()
        rds = bool(server.value(_RDS))
    except ServerError:
        if running:
            raise
        return None
    return {
        "version": identity.major,
        "version_num": identity.version,
        "version_text": identity.version_text,
        "database": identity.database,
        "user": identity.user,
        "superuser": identity.superuser,
        "in_recovery": identity.in_recovery,
        "is_rds": rds,
    }


def _steps(plan: Plan, state: State, *, running: bool) -> Mapping[str, Mapping[str, Fact] | None]:
    found: dict[str, Mapping[str, Fact] | None] = {}
    for spec in plan.steps:
        step, status = state.steps.get(spec.id), state.status(spec.id)
        known = running or status in _ENDED
        told = {
            "status": status.value,
            "attempts": step.attempts if step else 0,
            "seconds": step.worked if step else 0.0,
        }
        found[spec.id] = told if known else None
    return found
