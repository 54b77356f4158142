"""Tells people how a run goes, by the plan's commands and webhooks; what can't be delivered is a warning."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import stamina
from stamina.instrumentation import set_on_retry_hooks

from planrunner.engine.events import EventKind
from planrunner.errors import PlanrunnerError, ToolFailed
from planrunner.flow import Shape
from planrunner.masking import masked
from planrunner.model import SecretRef
from planrunner.switching.children import Call, called
from planrunner.webhook import place_of, post

if TYPE_CHECKING:
    from planrunner.engine.context import Context
    from planrunner.engine.events import Journal
    from planrunner.flow import Notification, Occasion, Webhook
    from planrunner.model import StepSpec
    from planrunner.ports import Clock

_TRIES = 3
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0


@dataclass(frozen=True, kw_only=True)
class Notifier:
    """Sends the notifications of one run; each is journalled before and after, and none fails the run."""

    context: Context
    journal: Journal
    clock: Clock

    def tell(self, occasion: Occasion, message: str, *, step: StepSpec | None = None) -> None:
        """Tell everyone whom the plan names for that occasion."""
        for number, notification in enumerate(self.context.plan.notifications, 1):
            if occasion in notification.on:
                self._deliver(number, notification, occasion, message, step)

    def _deliver(
        self, number: int, notification: Notification, occasion: Occasion, message: str, step: StepSpec | None
    ) -> None:
        whom = f"notification {number} ({_whom(notification)})"
        step_id = step.id if step else None
        fields = {"notification": number, "occasion": occasion.value}
        self.journal.write(EventKind.INTENT, f"{whom}: {occasion.value}", step=step_id, fields=fields)
        told = self._told(occasion, message, step)
        try:
            if notification.webhook is None:
                self._call(notification, told)
            else:
                self._post(notification.webhook, notification.timeout, told)
        except PlanrunnerError as error:
            text = f"{whom} of {occasion.value} was not delivered: {error.message}"
            self.journal.write(EventKind.WARNING, text, step=step_id, fields=fields)
        else:
            self.journal.write(EventKind.OUTCOME, f"done: {whom}", step=step_id, fields=fields)

    def _told(self, occasion: Occasion, message: str, step: StepSpec | None) -> dict[str, str]:
        return {
            "event": occasion.value,
            "plan": self.context.plan.name,
            "plan_id": self.context.plan_id,
            "step": step.id if step else "",
            "message": masked(message),
            "at": self.clock.now().isoformat(timespec="seconds"),
        }

    def _call(self, notification: Notification, told: dict[str, str]) -> None:
        world = self.context.world
        called(
            Call(
                command=notification.command,
                variables={f"PLANRUNNER_{name.upper()}": value for name, value in told.items()},
                timeout=notification.timeout,
                servers=(world.source, world.target),
                folder=self.context.plan.path.parent,
            )
        )

    def _post(self, webhook: Webhook, timeout: float, told: dict[str, str]) -> None:
        resolve = self.context.world.resolve
        url = webhook.url if isinstance(webhook.url, str) else resolve(webhook.url).reveal()
        headers = {webhook.header[0]: resolve(webhook.header[1]).reveal()} if webhook.header else {}
        # Its own log would show on the terminal; what comes of the attempts is told below.
        set_on_retry_hooks(())
        attempts = stamina.retry_context(
            on=ToolFailed,
            attempts=_TRIES,
            timeout=None,
            wait_initial=_FIRST_WAIT,
            wait_max=_LONGEST_WAIT,
            wait_jitter=_FIRST_WAIT,
        )
        for attempt in attempts:
            with attempt:
                post(url, _body(webhook.shape, told), headers, timeout)


def _body(shape: Shape, told: dict[str, str]) -> dict[str, object]:
    if shape is Shape.JSON:
        return dict(told)
    step = f", step {told['step']}" if told["step"] else ""
    return {"text": f"planrunner {told['plan']}{step}: {told['event']}: {told['message']}"}


def _whom(notification: Notification) -> str:
    """Whom it tells, without what may be a token."""
    if notification.webhook is None:
        return masked(shlex.join(notification.command))
    url = notification.webhook.url
    return f"webhook {url}" if isinstance(url, SecretRef) else f"webhook {place_of(url)}"
