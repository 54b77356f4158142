"""The commands around a step as actions, so that preview and run have them alike."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING

from planrunner.failpoints import failpoint
from planrunner.masking import masked
from planrunner.model import SecretRef, Side
from planrunner.step import NO_LOCKS, Action
from planrunner.switching.children import Call, called

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.flow import Hook
    from planrunner.step import Run


def hook_actions(hooks: Sequence[Hook]) -> tuple[Action, ...]:
    """One action a hook, in order."""
    return tuple(
        Action(
            name=hook.name,
            summary=f"run the hook {hook.name}: {masked(shlex.join(hook.command))}",
            where=Side.LOCAL,
            statements=(_shown(hook),),
            locks=NO_LOCKS,
            needs=("the command's own rights on this machine",),
            undo="by hand: planrunner does not know what the command did",
            lasting="whatever the command changed",
            observable=False,
            perform=partial(_perform, hook=hook),
        )
        for hook in hooks
    )


def _shown(hook: Hook) -> str:
    settings = [
        f"{name}=({value})" if isinstance(value, SecretRef) else f"{name}={shlex.quote(value)}"
        for name, value in hook.env.items()
    ]
    return masked(" ".join((*settings, shlex.join(hook.command))))


def _perform(run: Run, *, hook: Hook) -> None:
    secrets = {n: run.resolve(v).reveal() for n, v in hook.env.items() if isinstance(v, SecretRef)}
    plain = {name: value for name, value in hook.env.items() if isinstance(value, str)}
    told = {
        "PLANRUNNER_PLAN": run.plan.name,
        "PLANRUNNER_PLAN_ID": run.plan_id,
        "PLANRUNNER_STEP": run.spec.id,
        "PLANRUNNER_PHASE": hook.phase.value,
    }
    call = Call(
        command=hook.command,
        variables={**told, **plain, **secrets},
        timeout=hook.timeout,
        servers=(run.source, run.target),
        secrets=tuple(secrets.values()),
        folder=run.plan.path.parent,
    )
    failpoint("hook.before")
    said = called(call)
    failpoint("hook.after")
    if said:
        run.tell(f"{hook.name} said: {said}", {"hook": hook.name})
